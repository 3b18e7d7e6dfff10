"""Where ZeRO keeps what: slices that cover every parameter once, and whole tensors put together from them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from distributed.config import Recipe
from distributed.loop import Trainer
from distributed.shards import Slice
from tests.support.small_runs import small_recipe
from tests.support.trainers import new_trainer, run_to
from tests.support.workers import on_workers

STAGES = (0, 1, 2, 3)


def recipes_of(data: Path, **changes: Any) -> list[Recipe]:
    """One recipe a stage, wide enough that ZeRO-3 cuts up some tensors and keeps others whole."""
    every = {"model.width": 64, "training.epochs": 9}
    return [small_recipe(data, data / "nothing-is-saved", every | {"engine.zero_stage": s} | changes) for s in STAGES]


def parameters_of(trainer: Trainer) -> dict[str, Tensor]:
    """The weights as the forward pass sees them, gathered by DeepSpeed itself; collective."""
    import deepspeed

    named = dict(trainer.engine.module.named_parameters())
    if trainer.engine.config.zero_stage < 3:
        return {name: parameter.detach().clone() for name, parameter in named.items()}
    with deepspeed.zero.GatheredParameters(list(named.values())):
        return {name: parameter.detach().clone() for name, parameter in named.items()}


def held(recipes: list[Recipe]) -> list[tuple[dict[str, int], list[tuple[str, int, int]]]]:
    """For each recipe: the size of each parameter, and this worker's slices."""
    shards = [new_trainer(recipe).engine.shards for recipe in recipes]
    return [
        ({name: shape.numel() for name, shape in s.shapes.items()}, [(p.name, p.start, p.length) for p in s.slices])
        for s in shards
    ]


@pytest.mark.parametrize("workers", [1, 3])
def test_slices_cover_each_element_once(data: Path, workers: int) -> None:
    by_rank = on_workers(workers, held, recipes_of(data))
    for stage in STAGES:
        sizes = by_rank[0][stage][0]
        ranks = by_rank[:1] if stage == 0 else by_rank  # at stage 0 every worker holds everything
        slices = sorted(part for rank in ranks for part in rank[stage][1])
        ends = dict.fromkeys(sizes, 0)
        for name, start, length in slices:
            assert start == ends[name], f"stage {stage}: {name} has a gap or an overlap at {start}"
            ends[name] += length
        assert ends == sizes, f"stage {stage}"


def whole_after_steps(recipes: list[Recipe]) -> None:
    for recipe in recipes:
        trainer = new_trainer(recipe)
        before = trainer.engine.shards.whole(Slice.weight)
        run_to(trainer, 2)
        whole, own = trainer.engine.shards.whole(Slice.weight), parameters_of(trainer)
        assert list(whole) == list(own)
        for name, tensor in whole.items():
            assert tensor.dtype == torch.float32
            assert torch.equal(tensor.to(own[name].dtype), own[name]), f"stage {recipe.engine.zero_stage}: {name}"
            assert not torch.equal(tensor, before[name])


def loaded_weights(recipes: list[Recipe]) -> None:
    for recipe in recipes:
        trainer = new_trainer(recipe)
        shards = trainer.engine.shards
        random = torch.Generator().manual_seed(4)
        wanted = {name: torch.randn(shape, generator=random) for name, shape in shards.shapes.items()}
        shards.load(lambda s, wanted=wanted: wanted[s.name].view(-1)[s.start : s.start + s.length])  # type: ignore[misc]
        whole, own = shards.whole(Slice.weight), parameters_of(trainer)
        for name, tensor in wanted.items():
            assert torch.equal(whole[name], tensor)
            assert torch.equal(own[name], tensor.to(own[name].dtype)), f"stage {recipe.engine.zero_stage}: {name}"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("check", [whole_after_steps, loaded_weights])
def test_whole_weights_are_the_modules_own(data: Path, check: Any, precision: str) -> None:
    on_workers(2, check, recipes_of(data, **{"engine.precision": precision}))
