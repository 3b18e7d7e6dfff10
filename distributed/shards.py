"""Which slice of which parameter this worker holds, for any ZeRO stage, in one form.

DeepSpeed keeps fp32 weights in other places at every stage: whole tensors (0), slices of one flat buffer cut without
regard to tensors (1, 2), or a part of every tensor (3). LARS needs the norms of whole tensors and a checkpoint must
load on any number of workers at any stage; both need only this list of slices.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from distributed.collectives import WorldCollectives
from models.collectives import Alone, Collectives
from models.optim.lars import LARS, Segment


@dataclass(frozen=True)
class Slice:
    """Elements start..start+length of the flattened parameter `name`, kept in `tensor` from `offset` on."""

    name: str
    start: int
    length: int
    tensor: Tensor
    """The fp32 tensor that the optimiser steps."""
    offset: int

    def weight(self) -> Tensor:
        """(length,) view of the fp32 weights."""
        return self.tensor.detach().view(-1).narrow(0, self.offset, self.length)


@dataclass
class Shards:
    """This worker's slices of all parameters, and how to publish changed weights to the module."""

    slices: list[Slice]
    shapes: dict[str, torch.Size]
    sharded: bool
    """False at stage 0, where every worker holds everything."""
    publish: Callable[[], None]

    @property
    def collectives(self) -> Collectives:
        """Sums over the holders of a parameter's slices."""
        return WorldCollectives() if self.sharded else Alone()

    def attach(self, optimiser: LARS, scales: Mapping[str, float]) -> None:
        """Tells the optimiser which slices belong to which layer, and what each layer's rate is multiplied with."""
        layer = {name: number for number, name in enumerate(self.shapes)}
        segments: dict[int, list[Segment]] = {}
        for s in self.slices:
            segments.setdefault(id(s.tensor), []).append(Segment(layer[s.name], s.offset, s.length, s.start))
        optimiser.set_layout(segments, len(layer), self.collectives, [scales.get(name, 1.0) for name in layer])

    def whole(self, read: Callable[[Slice], Tensor]) -> dict[str, Tensor]:
        """Puts whole tensors together on every worker from what `read` gives for each slice; collective."""
        full = {}
        for name, shape in self.shapes.items():
            flat = torch.zeros(shape.numel(), device=self.slices[0].tensor.device if self.slices else None)
            for s in self.slices:
                if s.name == name:
                    flat[s.start : s.start + s.length] = read(s)
            if self.sharded:
                dist.all_reduce(flat)
            full[name] = flat.view(shape)
        return full

    def load(self, read: Callable[[Slice], Tensor]) -> None:
        """Overwrites this worker's weights with what `read` gives for each slice and publishes them; collective."""
        with torch.no_grad():
            for s in self.slices:
                s.weight().copy_(read(s))
        self.publish()


def shards_of(engine: Any, module: nn.Module, shapes: Mapping[str, torch.Size]) -> Shards:
    """Reads DeepSpeed's own bookkeeping. `shapes`: the whole shapes by name, taken before ZeRO-3 cut them up."""
    stage = engine.zero_optimization_stage()
    named = dict(module.named_parameters())
    if stage == 0:
        slices = [Slice(name, 0, p.numel(), p, 0) for name, p in named.items()]
        return Shards(slices, dict(shapes), False, lambda: None)
    zero = engine.optimizer
    if stage == 3:
        return _stage_3(zero, named, dict(shapes))
    slices = []
    for name, parameter in named.items():
        mapping = parameter._hp_mapping  # type: ignore[attr-defined]
        if mapping is not None:
            here, there = mapping.lp_fragment_address, mapping.get_hp_fragment_address()
            flat = zero.optimizer.param_groups[mapping.param_group_index]["params"][0]
            slices.append(Slice(name, here.start, here.numel, flat, there.start))
    return Shards(slices, dict(shapes), dist.get_world_size() > 1, zero.update_lp_params)


def _stage_3(zero: Any, named: Mapping[str, nn.Parameter], shapes: dict[str, torch.Size]) -> Shards:
    name_of = {id(parameter): name for name, parameter in named.items()}
    slices = []
    for group, flat in zip(zero.fp16_groups, zero.fp32_partitioned_groups_flat, strict=True):
        offset = 0
        for parameter in group:
            part = parameter.partition_numel()
            start = dist.get_rank() * part
            name = name_of[id(parameter)]
            length = min(part, shapes[name].numel() - start)  # the last parts may be padding, wholly or in part
            if length > 0:
                slices.append(Slice(name, start, length, flat, offset))
            offset += part

    def publish() -> None:
        for low, high in zip(zero.fp16_partitioned_groups_flat, zero.fp32_partitioned_groups_flat, strict=True):
            if low.data_ptr() != high.data_ptr():
                low.data.copy_(high.data)
        # Weights that a forward pass without a backward one has left gathered are old now, those kept whole as well.
        zero.parameter_offload.partition_all_parameters()
        if persistent := zero.persistent_parameters:
            persistent[0].all_gather(persistent)

    return Shards(slices, shapes, dist.get_world_size() > 1, publish)
