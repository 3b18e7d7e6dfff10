"""Parts of a network that are not trained: their weights become buffers, which engines and checkpoints leave whole."""

from collections.abc import Callable

from torch import nn

from models.errors import UserError

FROZEN = "frozen_weights"


def freeze(network: nn.Module, frozen: Callable[[str], bool]) -> None:
    """From now on the parameters whose names `frozen` picks are buffers of the same names.

    Gradients, hypergradients, the optimiser's state and ZeRO's shards are then of the other parameters alone, with
    nothing to be told apart anywhere.

    Raises:
        UserError: nothing would be left to train.
    """
    chosen = {name for name, _ in network.named_parameters() if frozen(name)}
    if len(chosen) == sum(1 for _ in network.parameters()):
        raise UserError("model.frozen names every part that the network has; leave one to train")
    for path, module in network.named_modules():
        prefix = f"{path}." if path else ""
        for name, parameter in list(module.named_parameters(recurse=False)):
            if prefix + name in chosen:
                delattr(module, name)
                module.register_buffer(name, parameter.detach())
    setattr(network, FROZEN, frozen_weights(network) | chosen)


def frozen_weights(network: nn.Module) -> frozenset[str]:
    """The buffers that were parameters before `freeze`."""
    found: frozenset[str] = getattr(network, FROZEN, frozenset())
    return found
