"""Models of transformers whose weights are cut up among workers (ZeRO-3), of which one has no samples at first."""

from typing import Any

import torch
import torch.distributed as dist

from distributed.collectives import WorldCollectives
from distributed.engine import Engine, EngineConfig
from models.backbones.video_language import Kind
from models.normalisation import synchronise
from models.optim.lars import OptimiserConfig
from tests.models.backbones.hf import tiny
from tests.support.workers import on_workers

CASES: list[tuple[str, Kind, dict[str, Any]]] = [
    ("siglip", "open_ended", {}),
    ("xclip", "retrieval", {}),
    ("videomae", "recognition", {}),
    ("llava", "open_ended", {"lora": {"rank": 2}}),
    ("qwen2_5_vl", "retrieval", {}),
]
SHARES = ((0, 5), (3, 2))


def losses_of_steps(stage: int) -> list[list[list[float]]]:
    """The losses of all workers at two steps of every case."""
    found = []
    for family, kind, changes in CASES:
        names = tiny.config(family).losses(kind, 0)
        network = tiny.network(family, kind, **changes).float()
        engine = Engine(network, EngineConfig(zero_stage=stage), OptimiserConfig(eta=0.01))
        synchronise(network, WorldCollectives())
        steps = []
        for sizes in SHARES:
            start = sum(sizes[: dist.get_rank()])
            batch = tiny.batch(kind).rows(slice(start, start + sizes[dist.get_rank()]))
            losses = engine(batch, names)
            shares = torch.stack([losses[name] for name in names]) / 5
            engine.backward_and_step(shares.sum())
            shares = shares.detach().clone()
            dist.all_reduce(shares)
            steps.append(shares.tolist())
        found.append(steps)
    return found


def test_weights_that_are_cut_up_give_the_same_losses() -> None:
    whole, cut = (on_workers(2, losses_of_steps, stage)[0] for stage in (0, 3))
    for (family, _, _), expected, found in zip(CASES, whole, cut, strict=True):
        assert expected[0] != expected[1], family
        torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=1e-4, atol=1e-4, msg=family)
