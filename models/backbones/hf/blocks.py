"""The layers of models of `transformers`."""

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer


def blocks_of(network: nn.Module) -> list[nn.Module]:
    """The layers that the library itself would recompute."""
    return [module for module in network.modules() if isinstance(module, GradientCheckpointingLayer)]
