"""The base of every configuration: frozen, strict in its types, closed to unknown keys."""

from pydantic import BaseModel, ConfigDict


class StrictConfig(BaseModel):
    """A component's configuration. Each component defines its own beside itself; a recipe is their sum."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
