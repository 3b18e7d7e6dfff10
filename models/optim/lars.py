"""Adam with layer-wise adaptive rate scaling (LARS), the same on one process and under ZeRO.

Source: WACV 2021 section 3.1 (LARS: You et al. 2017); spec/neumatch section 5. With u the bias-corrected Adam
direction of a tensor, its step is -eta * ||w|| * u / ||u||, and -eta * u where ||w|| * ||u|| = 0. Each tensor is its
own layer. A sharded engine keeps slices of many tensors in one flat buffer; it tells the optimiser which slices belong
to which layer (`set_layout`), and all norms of a step are summed over workers at once.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, overload

import torch
from pydantic import Field
from torch import Tensor

from models.collectives import Alone, Collectives
from models.config import StrictConfig


class OptimiserConfig(StrictConfig):
    """LARS on Adam, or plain Adam with `name: adam`."""

    name: Literal["lars", "adam"] = "lars"
    eta: float = Field(default=0.007, gt=0)
    """Learning rate: for LARS the step's length relative to the tensor's own norm."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.999, ge=0, lt=1)
    eps: float = Field(default=1e-8, gt=0)
    gradient_cap: float = Field(default=2.0, ge=0)
    """The global gradient norm is capped here; 0 means no cap."""
    average: float = Field(default=0.0, ge=0, lt=1)
    """Above 0: an exponential moving average of the weights with this decay (at first less: (1+t)/(10+t) after t steps)
    is what is scored and exported (Polyak and Juditsky, 1992); 0: the weights themselves are."""
    rates: dict[str, Annotated[float, Field(gt=0)]] = {}
    """What the rate of a part of the network is multiplied with, such as `{text: 0.1}` for one that is pre-trained
    while the others are not; 1 where it names none."""


@dataclass(frozen=True)
class Segment:
    """A slice of one layer inside a tensor that the optimiser steps."""

    layer: int
    start: int
    """Where the slice starts in the (flattened) stepped tensor."""
    length: int
    layer_start: int
    """Where the slice starts in the (flattened) whole layer."""


class LARS(torch.optim.Optimizer):
    """Adam whose step is rescaled per layer; with `layerwise=False` plain Adam (the papers' baseline).

    After each step, `norms` holds (layers, 2): ||w|| before the step and ||gradient|| before the cap.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 0.007,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        gradient_cap: float = 2.0,
        layerwise: bool = True,
        average: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr})
        if len(self.param_groups) != 1:
            raise ValueError("LARS takes one group of parameters: layers, not groups, set its rates")
        self.betas, self.eps, self.gradient_cap, self.layerwise = betas, eps, gradient_cap, layerwise
        self.average = average
        whole = self.param_groups[0]["params"]
        self._segments = {id(p): [Segment(k, 0, p.numel(), 0)] for k, p in enumerate(whole)}
        self._layers = len(whole)
        self._scales: list[float] | None = None
        self._collectives: Collectives = Alone()
        self.steps = 0
        self.norms: Tensor | None = None

    @classmethod
    def of(cls, config: OptimiserConfig, params: Iterable[Tensor]) -> "LARS":
        """The optimiser that a recipe asks for."""
        betas, layerwise = (config.beta1, config.beta2), config.name == "lars"
        return cls(params, config.eta, betas, config.eps, config.gradient_cap, layerwise, config.average)

    def set_layout(
        self,
        segments: dict[int, list[Segment]],
        layers: int,
        collectives: Collectives,
        scales: Sequence[float] | None = None,
    ) -> None:
        """Tells which slices of the stepped tensors (by `id`) belong to which layer.

        `collectives` sums over the workers that hold the other slices; pass `Alone()` where every worker holds whole
        tensors. Elements in no segment are padding and are never touched. `scales`: one a layer, what its rate is
        multiplied with.
        """
        if scales is not None and len(scales) != layers:
            raise ValueError(f"{len(scales)} scales for {layers} layers")
        self._scales = None if scales is None or set(scales) == {1.0} else list(scales)
        self._segments, self._layers, self._collectives = segments, layers, collectives

    def moments(self, tensor: Tensor) -> tuple[Tensor, Tensor]:
        """Adam's first and second moment of a stepped tensor, flattened; zeros before the first step."""
        state = self.state[tensor]
        if "exp_avg" not in state:
            state["exp_avg"] = torch.zeros_like(tensor, memory_format=torch.contiguous_format)
            state["exp_avg_sq"] = torch.zeros_like(tensor, memory_format=torch.contiguous_format)
        return state["exp_avg"].view(-1), state["exp_avg_sq"].view(-1)

    def averaged(self, tensor: Tensor) -> Tensor:
        """The moving average of a stepped tensor, flattened; the tensor as it is before the first step."""
        state = self.state[tensor]
        if "average" not in state:
            state["average"] = tensor.detach().clone(memory_format=torch.contiguous_format)
        average: Tensor = state["average"]
        return average.view(-1)

    def _views(self, tensors: Sequence[Tensor], owners: Sequence[Tensor]) -> list[Tensor]:
        """The layers' slices of `tensors`, each shaped like the stepped tensor of the same place in `owners`."""
        return [
            tensor.view(-1).narrow(0, segment.start, segment.length)
            for tensor, owner in zip(tensors, owners, strict=True)
            for segment in self._segments[id(owner)]
        ]

    def _squared(self, views: Sequence[Tensor], layer_of: Tensor) -> Tensor:
        """(layers,) float64: this worker's part of the squared norms."""
        squares = torch.zeros(self._layers, dtype=torch.float64, device=layer_of.device)
        if views:
            norms = torch.stack(
                torch._foreach_norm([view.to(torch.promote_types(view.dtype, torch.float32)) for view in views])
            )
            squares.index_add_(0, layer_of, norms.double().square())
        return squares

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step of all tensors. A tensor without a gradient counts as one with a zero gradient.

        Raises:
            FloatingPointError: a gradient is not finite; nothing has been changed.
        """
        loss = closure() if closure is not None else None
        params: list[Tensor] = self.param_groups[0]["params"]
        rate = float(self.param_groups[0]["lr"])
        grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in params]
        device = params[0].device
        segments = [segment for p in params for segment in self._segments[id(p)]]
        layer_of = torch.tensor([segment.layer for segment in segments], dtype=torch.int64, device=device)
        weight_views = self._views(params, params)
        grad_views = self._views(grads, params)
        squares = torch.stack([self._squared(weight_views, layer_of), self._squared(grad_views, layer_of)], dim=1)
        self._collectives.sum_in_place(squares)
        self.norms = squares.sqrt()
        total = squares[:, 1].sum().sqrt()
        if not bool(total.isfinite()):
            bad = (~squares[:, 1].isfinite()).nonzero()[:, 0].tolist()
            raise FloatingPointError(f"the gradients of {len(bad)} layers are not finite, the first is layer {bad[0]}")
        if self.gradient_cap > 0 and segments:
            torch._foreach_mul_(grad_views, (self.gradient_cap / (total + 1e-6)).clamp(max=1.0).to(grads[0].dtype))
        averages = [self.averaged(p) for p in params] if self.average else []  # from the weights before the first step
        self.steps += 1
        directions = self._directions(params, grad_views)
        if self.layerwise:
            squared = self._squared(directions, layer_of)
            self._collectives.sum_in_place(squared)
            weights, lengths = self.norms[:, 0], squared.sqrt()
            ratio = torch.where(weights * lengths > 0, weights / lengths.clamp(min=1e-300), 1.0).to(params[0].dtype)
            if segments:
                torch._foreach_mul_(directions, list(ratio[layer_of].unbind()))
        if segments and self._scales is not None:
            torch._foreach_mul_(directions, [self._scales[segment.layer] for segment in segments])
        if segments:
            torch._foreach_add_(weight_views, directions, alpha=-rate)
        if averages:
            decay = min(self.average, (1 + self.steps) / (10 + self.steps))
            torch._foreach_lerp_(averages, [p.detach().view(-1) for p in params], 1 - decay)
        return loss

    def _directions(self, params: Sequence[Tensor], grad_views: list[Tensor]) -> list[Tensor]:
        """Takes the capped gradients into the moments -> Adam's direction u of each slice."""
        moments = [self.moments(p) for p in params]
        first = self._views([m for m, _ in moments], params)
        second = self._views([v for _, v in moments], params)
        if not first:  # a worker may hold nothing but padding
            return []
        beta1, beta2 = self.betas
        torch._foreach_lerp_(first, grad_views, 1 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, grad_views, grad_views, 1 - beta2)
        # u = (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)
        scale = torch._foreach_sqrt(second)
        torch._foreach_div_(scale, (1 - beta2**self.steps) ** 0.5)
        torch._foreach_add_(scale, self.eps)
        directions = torch._foreach_div(first, scale)
        torch._foreach_div_(directions, 1 - beta1**self.steps)
        return list(directions)

    def state_dict(self) -> dict[str, Any]:
        """Torch's state plus the step count."""
        return {**super().state_dict(), "steps": self.steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.steps = int(state_dict["steps"])
        super().load_state_dict({key: value for key, value in state_dict.items() if key != "steps"})
