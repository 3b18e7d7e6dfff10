"""What is done once to raw features: a fixed random projection and standardisation (WACV 2021, section 3.3)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from models.errors import UserError


def random_projection(width: int, target: int, seed: int) -> Tensor:
    """(width, target) float32: +sqrt3 with probability 1/6, -sqrt3 with 1/6, else 0 (Achlioptas); never trained."""
    uniform = torch.rand(width, target, generator=torch.Generator().manual_seed(seed))
    return 3**0.5 * ((uniform < 1 / 6).float() - (uniform >= 5 / 6).float())


@dataclass(frozen=True)
class Preprocessing:
    """Projection (or none) and standardisation of one modality, fitted on the training split.

    Attributes:
        projection: (d, 300), or None for the Full variant, which learns its own.
        mean, scale: (300,) or (d,): subtracted, then multiplied.
    """

    projection: Tensor | None
    mean: Tensor
    scale: Tensor

    @classmethod
    def fit(cls, features: Tensor, target: int | None, seed: int) -> "Preprocessing":
        """Fits on `features` (n, d) of the training split; projects to `target` dimensions unless it is None.

        Dimensions that never vary are centred and left at zero.
        """
        projection = random_projection(features.shape[1], target, seed) if target else None
        projected = features @ projection if projection is not None else features
        std, mean = torch.std_mean(projected.double(), dim=0)
        scale = torch.where(std > 1e-8 * (mean.abs() + 1e-30), 1 / std, torch.zeros_like(std))
        return cls(projection, mean.float(), scale.float())

    @property
    def width(self) -> int:
        """d, the raw features' width."""
        return len(self.mean) if self.projection is None else self.projection.shape[0]

    def __call__(self, features: Tensor) -> Tensor:
        """(n, d) raw features -> (n, 300) or (n, d), float32, zero mean and unit variance on the training split."""
        if features.shape[1] != self.width:
            raise UserError(f"features of width {features.shape[1]}, but this model was fitted on width {self.width}")
        projected = features.float() if self.projection is None else features.float() @ self.projection
        return (projected - self.mean) * self.scale

    def state(self, prefix: str) -> dict[str, Tensor]:
        """Named tensors to save with the model."""
        named = {f"{prefix}.mean": self.mean, f"{prefix}.scale": self.scale}
        return named if self.projection is None else {f"{prefix}.projection": self.projection, **named}

    @classmethod
    def from_state(cls, state: dict[str, Tensor], prefix: str) -> "Preprocessing":
        """The inverse of `state`."""
        return cls(state.get(f"{prefix}.projection"), state[f"{prefix}.mean"], state[f"{prefix}.scale"])
