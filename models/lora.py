"""Low-rank adaptation (Hu et al., ICLR 2022) through `peft`: small matrices are trained beside frozen linear maps."""

import warnings
from collections.abc import Sequence

from pydantic import Field
from torch import Tensor, nn

from models.config import StrictConfig
from models.freezing import freeze


class LoRAConfig(StrictConfig):
    """The rank and scale of the trained matrices."""

    rank: int = Field(default=8, ge=1)
    alpha: int = Field(default=16, ge=1)
    """The product of the two matrices counts alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)


def adapt(network: nn.Module, config: LoRAConfig, maps: Sequence[str], trained: Sequence[str] = ()) -> None:
    """Puts matrices beside every linear map whose last name is among `maps` and freezes everything else.

    `trained`: prefixes of parameters that are trained as they are (new heads, say). At the start the network computes
    what it did before.
    """
    from peft import LoraConfig, inject_adapter_in_model

    with warnings.catch_warnings(action="ignore"):  # of integrations that are not installed
        inject_adapter_in_model(
            LoraConfig(r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=list(maps)),
            network,
        )
    network.requires_grad_(True)  # peft turns everything else off, also what is to be trained as it is
    freeze(network, lambda name: "lora_" not in name and not name.startswith(tuple(trained)))


def merged(network: nn.Module) -> dict[str, Tensor]:
    """The weights with what `adapt` put beside them added in, under the names that they had without it."""
    from peft.tuners.lora import Linear

    state = {name: tensor for name, tensor in network.state_dict().items() if "lora_" not in name}
    for path, module in network.named_modules():
        if isinstance(module, Linear):
            name = f"{path}.base_layer.weight"
            state[name] = state[name] + module.get_delta_weight("default").detach()
    return {name.replace(".base_layer.", "."): tensor for name, tensor in state.items()}
