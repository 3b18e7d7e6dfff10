"""The DeepSpeed engine behind a few verbs: losses in, one optimiser step out, the same at every ZeRO stage."""

import logging
import os
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
import torch.distributed as dist
from pydantic import Field
from torch import Tensor, nn

from distributed.operators import build_operators
from distributed.shards import Shards, Slice, shards_of
from models.config import StrictConfig
from models.freezing import frozen_weights
from models.optim.lars import LARS, OptimiserConfig


class EngineConfig(StrictConfig):
    """How DeepSpeed runs a model."""

    zero_stage: int = Field(default=0, ge=0, le=3)
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 keeps fp32 master weights; DeepSpeed has them from ZeRO stage 1 on, so stage 0 then runs as stage 1."""
    accumulation: int = Field(default=1, ge=1)
    """Micro-batches a step. Losses with in-batch negatives see the whole batch still; SBN needs it at once: 1."""
    micro_batch: int | None = Field(default=None, ge=1)
    """At most so many samples of a worker at a time; `accumulation` grows where the share of a worker is larger, as it
    is after an elastic run has lost workers."""
    activation_checkpointing: bool = False
    """Keep only the inputs of a network's blocks and compute the rest again in the backward pass."""

    @property
    def whole(self) -> bool:
        """Whether a worker sees its share of a batch at once."""
        return self.accumulation == 1 and self.micro_batch is None


class Engine:
    """One model under DeepSpeed on this worker. Gradients are averaged over workers by DeepSpeed."""

    def __init__(
        self,
        module: nn.Module,
        config: EngineConfig,
        optimiser: OptimiserConfig,
        part_of: Callable[[str], str] | None = None,
    ) -> None:
        """Needs an initialised torch.distributed process group; `module` is on its device and equal on all workers.

        `part_of`: from a parameter's name to the part that `optimiser.rates` may name.
        """
        if not torch.cuda.is_available():
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        import deepspeed  # the accelerator is chosen at import

        build_operators()
        deepspeed.init_distributed(dist_backend=dist.get_backend(), verbose=False)
        shapes = {name: parameter.shape for name, parameter in module.named_parameters()}
        bf16 = config.precision == "bf16"
        exact = {name: p.detach().clone() for name, p in module.named_parameters()} if bf16 else {}
        self.lars = LARS.of(optimiser, module.parameters())
        self.config = config
        self.device = next(module.parameters()).device
        engine, *_ = deepspeed.initialize(model=module, optimizer=self.lars, config=_deepspeed_config(config))
        self._engine: Any = engine
        self.module: nn.Module = engine.module
        self.shards: Shards = shards_of(engine, self.module, shapes)
        scales = {name: optimiser.rates.get(part_of(name), 1.0) for name in shapes} if part_of else {}
        self.shards.attach(self.lars, scales)
        if bf16:
            # DeepSpeed makes the fp32 weights from rounded ones. Each would start half a bf16 step away from the next
            # number, and small optimiser steps would not show in the forward pass until they add up to that.
            self.shards.load(lambda s: exact[s.name].view(-1)[s.start : s.start + s.length])
            for name, buffer in self.module.named_buffers():  # DeepSpeed leaves them in fp32, as statistics should be
                if name in frozen_weights(self.module):
                    buffer.data = buffer.data.bfloat16()

    @property
    def partitioned(self) -> bool:
        """Whether the weights themselves are cut up (stage 3), so that every graph can be differentiated only once."""
        return bool(self._engine.zero_optimization_stage() == 3)

    def __call__(self, *inputs: Any) -> Any:
        """The module's forward, with ZeRO's hooks."""
        if self.partitioned:
            return self._engine(*inputs)
        # DeepSpeed's own forward hooks the outputs, and then refuses any other look at the graph than its backward;
        # `_backward` hooks the loss instead.
        if self._engine.zero_optimization():
            self._engine.optimizer.clear_backward_seen_flag()
        return self.module(*inputs)

    def _backward(self, loss: Tensor) -> None:
        """DeepSpeed averages over workers and micro-batches; what is wanted is the sum, so the loss is multiplied."""
        whole = loss * (dist.get_world_size() * self.config.accumulation)
        if not self.partitioned:
            whole.register_hook(self._prologue)
        self._engine.backward(whole)

    def _prologue(self, gradient: Tensor) -> Tensor:
        self._engine._backward_prologue()
        return gradient

    def backward_and_step(self, loss: Tensor) -> None:
        """Backward of this worker's share of the loss; on the last micro-batch also the optimiser's step.

        The sum of all workers' and micro-batches' losses is what is differentiated.
        """
        self._backward(loss)
        self._engine.step()

    def step_along(self, gradient: list[Tensor]) -> None:
        """One optimiser step with a gradient that is known already, one fp32 vector a slice; not at stage 3."""
        holders = 1 if self.shards.sharded else dist.get_world_size()
        whole = {name: torch.zeros(shape.numel(), device=self.device) for name, shape in self.shards.shapes.items()}
        for s, part in zip(self.shards.slices, gradient, strict=True):
            whole[s.name][s.start : s.start + s.length] = part / holders
        # A loss that is linear in the weights, so that the gradient takes the way of any other through DeepSpeed. One
        # term a tensor on every worker: stage 2 fills its buckets in the order in which gradients become ready.
        terms = [(p * whole[name].view_as(p)).sum() for name, p in self.module.named_parameters()]
        self.backward_and_step(torch.stack(terms).sum())

    def partitioned_gradient(self, loss: Tensor) -> list[Tensor]:
        """At stage 3, the gradient of the sum of all workers' losses, one fp32 vector a slice; no step follows."""
        zero = self._engine.optimizer
        zero.grad_partitions_flat_buffer.zero_()  # parameters that the loss does not reach would keep older gradients
        self._backward(loss)
        parameters = dict(self.module.named_parameters())
        found = [zero.get_local_fp32_grad_for_param(parameters[s.name]) for s in self.shards.slices]
        gradient = [g.view(-1)[: s.length].float().clone() for g, s in zip(found, self.shards.slices, strict=True)]
        zero.zero_grad()
        return gradient

    @property
    def rate(self) -> float:
        """The learning rate of the next step."""
        return float(self.lars.param_groups[0]["lr"])

    @rate.setter
    def rate(self, value: float) -> None:
        self.lars.param_groups[0]["lr"] = value

    def weights(self) -> dict[str, Tensor]:
        """All fp32 weights and buffers, whole, on every worker; with `optimiser.average` the averages. Collective."""
        return {**self.shards.whole(self.averaged if self.lars.average else Slice.weight), **self.buffers()}

    def buffers(self) -> dict[str, Tensor]:
        """The module's buffers (equal on all workers), without those that it makes by itself."""
        kept = self.module.state_dict().keys()
        return {name: buffer.detach() for name, buffer in self.module.named_buffers() if name in kept}

    def load_buffers(self, state: Mapping[str, Tensor]) -> None:
        """Overwrites the module's buffers."""
        for name, buffer in self.buffers().items():
            buffer.copy_(state[name])

    def moments(self, s: Slice) -> tuple[Tensor, Tensor]:
        """Adam's moments of a slice, each a (length,) view."""
        first, second = self.lars.moments(s.tensor)
        return first.narrow(0, s.offset, s.length), second.narrow(0, s.offset, s.length)

    def beside(self, s: Slice) -> dict[str, Tensor]:
        """What a checkpoint keeps beside a slice's weights, each a (length,) view by its name there."""
        first, second = self.moments(s)
        average = {"average": self.averaged(s)} if self.lars.average else {}
        return {"exp_avg": first, "exp_avg_sq": second, **average}

    def averaged(self, s: Slice) -> Tensor:
        """The moving average of a slice's weights, a (length,) view."""
        return self.lars.averaged(s.tensor).narrow(0, s.offset, s.length)


def _deepspeed_config(config: EngineConfig) -> dict[str, Any]:
    bf16 = config.precision == "bf16"
    return {
        "train_micro_batch_size_per_gpu": 1,  # only for DeepSpeed's own reports; our batches may be ragged
        "gradient_accumulation_steps": config.accumulation,
        "gradient_clipping": 0.0,  # LARS caps the norm of whole tensors itself; unset, DeepSpeed would clip at 1
        "steps_per_print": 10**9,
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": bf16},
        "zero_optimization": {
            "stage": max(config.zero_stage, int(bf16)),
            "sub_group_size": 10**15,  # one optimiser step for all tensors, so that norms are reduced once
            "overlap_comm": torch.cuda.is_available(),
            # ZeRO-3 keeps small tensors whole on every worker.
            "stage3_param_persistence_threshold": 10_000,
        },
    }
