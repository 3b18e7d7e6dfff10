"""Extra looks at the losses must not count as training: running statistics stand still."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Within, normalisation layers still use the batch's own statistics, but leave their running ones as they are.

    That holds for torch's batch norms and for every layer with a flag `frozen`.
    """
    torch_layers = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
    flagged = [m for m in module.modules() if getattr(m, "frozen", None) is False]
    for batch_norm in torch_layers:
        batch_norm.track_running_stats = False
    for layer in flagged:
        layer.frozen = True  # type: ignore[assignment]
    try:
        yield
    finally:
        for batch_norm in torch_layers:
            batch_norm.track_running_stats = True
        for layer in flagged:
            layer.frozen = False  # type: ignore[assignment]
