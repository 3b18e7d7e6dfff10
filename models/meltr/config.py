"""The configuration of a learned loss and of its bi-level optimisation."""

from typing import Literal

from pydantic import Field, field_validator

from models.config import StrictConfig
from models.meltr.transformer import PRESETS, LossTransformerConfig


class MELTRConfig(StrictConfig):
    """MELTR as a combiner. Defaults are the paper's."""

    name: Literal["meltr"] = "meltr"
    network: LossTransformerConfig = PRESETS["paper"]
    """Sizes, or the name of a preset: paper, univl, violet_retrieval, violet_qa, allinone."""
    initialisation: Literal["sum", "paper"] = "sum"
    """`sum` fits the loss network to the plain sum over the first batch's range of losses before training."""
    scheme: Literal["aid_fp_lite", "itd", "stocbio", "aid_cg", "aid_fp"] = "aid_fp_lite"
    way: Literal["forward_mode", "per_task", "finite_difference", "one_sided_difference", "double_backward"] = (
        "per_task"
    )
    """How the losses' derivatives along a direction are computed; models/README.md compares them."""
    inner_steps: int = Field(default=3, ge=1)
    """K: steps of the backbone between two of the loss network."""
    gamma: float = Field(default=0.3, ge=0)
    """Weight of the regulariser |M - sum of losses|."""
    direct_regulariser_gradient: bool = True
    """False drops the regulariser's direct derivative with respect to the loss network, as the released code does."""
    meta_data: Literal["same", "replay", "held_out"] = "same"
    """Whose primary loss is the upper objective: the current batch's, an earlier one's, or that of samples held out
    of training."""
    replay_batches: int = Field(default=10, ge=1)
    held_out_fraction: float = Field(default=0.1, gt=0, lt=1)
    meta_fraction: float = Field(default=1.0, gt=0, le=1)
    """With `same`: the share of the batch for the hypergradient, which below 1 has a forward pass of its own."""
    rate: float = Field(default=1e-4, gt=0)
    """beta: the learning rate of the loss network's Adam."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.999, ge=0, lt=1)
    gradient_cap: float = Field(default=1.0, ge=0)
    """The loss network's gradient norm is capped here; 0 means no cap."""
    linear_decay: bool = True
    """Whether the loss network's rate falls linearly to zero over the run."""
    terms: int = Field(default=3, ge=1)
    """Products with the Hessian that aid_cg, aid_fp and stocbio take."""
    series_rate: float = Field(default=0.1, gt=0)
    """The step of the Neumann series of aid_fp and stocbio."""

    @field_validator("network", mode="before")
    @classmethod
    def _preset(cls, value: object) -> object:
        if isinstance(value, str):
            if value not in PRESETS:
                raise ValueError(f"no preset {value!r}; there are {', '.join(PRESETS)}")
            return PRESETS[value]
        return value
