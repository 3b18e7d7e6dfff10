"""The tables of distributed/scaling.md, calculated: `python -m tests.benchmarks.scaling`."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from models.backbones.univl.config import UniVLConfig
from models.backbones.univl.network import UniVL
from models.meltr.hypergradient.per_task import KEPT
from tests.benchmarks.timing import table
from tests.benchmarks.traffic import LOOKS, Collective, Model, Setting, calls, meta, plain, sent
from tests.support.counting import negatives

WORKERS = (8, 64, 512)
INNER = 3
"""K."""
FLOPS = 400e12
"""Assumed: operations a second that a GPU sustains in bf16."""
NODE, RAILS, ONE_RAIL = 360e9, 320e9, 40e9
"""Assumed bytes a second of a ring at each GPU: within a node of 8; across nodes with one 400 Gb/s port a GPU, which
share its traffic; and with one port a node, through which all of it goes."""
HOP, STEP = 10e-6, 4e-6
"""Assumed seconds of a small collective: times log2(N) as a tree, times N - 1 as a ring."""
SAMPLES, WORDS, FRAMES = 16, 48, 48
"""Of UniVL on each GPU, as in recipes/univl_msrvtt9k_retrieval.yaml."""


@dataclass(frozen=True)
class Row:
    """A model and how it is run; `tokens`: of a step on each GPU."""

    name: str
    model: Model
    at: Setting
    tokens: int

    def on(self, workers: int) -> tuple[list[Collective], list[Collective]]:
        """What a plain step makes, and what a meta step adds."""
        at = replace(self.at, workers=workers)
        return list(plain(self.model, at)), list(meta(self.model, at))

    @property
    def label(self) -> tuple[str, str, str, str]:
        """Model, precision, stage, and the way with the number of losses."""
        stages = "1, 2" if self.at.stage == 1 else str(self.at.stage)
        return self.name, "bf16" if self.at.low else "fp32", stages, f"{self.at.way}, {self.at.losses}"

    @property
    def seconds(self) -> tuple[float, float]:
        """Of computing in a plain step (a forward pass f, and 2f backward), and in what a meta step adds."""
        step = 6 * self.model.elements * self.tokens / FLOPS
        kept = self.at.way == "per_task" and self.at.losses <= KEPT
        count = (not kept) + (self.at.losses if self.at.way == "per_task" else 0)
        if self.at.stage == 3:
            return step, step * (count + 1 / 3)
        looks = LOOKS.get(self.at.way, 2 * (self.at.way == "forward_mode"))
        return step, step * (2 * (count - kept) + looks) / 3


def univl() -> Model:
    """The published size."""
    with torch.device("meta"):
        return Model(tuple(p.numel() for p in UniVL(UniVLConfig()).parameters()))


def seven_billion() -> Model:
    """A decoder of 32 layers of width 4096 (6.7e9 elements), each weight used once in a forward pass."""
    layer = [4096 * 4096] * 4 + [4096 * 11008] * 3 + [4096] * 2
    return Model((32000 * 4096, *(32 * layer), 4096, 32000 * 4096))


def rows() -> list[Row]:
    """All combinations that make sense: differences need fp32, forward mode whole weights, bf16 stage 1."""
    small, large = univl(), seven_billion()
    every = ("forward_mode", 8), ("per_task", 8), ("per_task", 3), ("one_sided_difference", 8), ("finite_difference", 8)
    chosen = [(False, 0, every), (False, 1, every), (True, 1, every[:3]), (True, 3, every[1:3])]
    tokens = 2 * SAMPLES * (WORDS + FRAMES)  # clean and masked
    made = [
        Row("200M", small, Setting(8, stage, losses, way, low), tokens)
        for low, stage, ways in chosen
        for way, losses in ways
    ]
    last = [Setting(8, 3, losses, way, True, releases=True) for way, losses in every[1:3]]
    return [*made, *(Row("7B", large, at, 8192) for at in last)]


def volume() -> str:
    """Bytes."""
    lines = []
    for row in rows():
        made = [row.on(n) for n in WORKERS]
        steps = [sent(ordinary, n) / 1e9 for n, (ordinary, _) in zip(WORKERS, made, strict=True)]
        added = [sent(meta_step, n) / 1e9 for n, (_, meta_step) in zip(WORKERS, made, strict=True)]
        share = added[-1] / INNER / steps[-1]
        lines.append([*row.label, _three(steps), _three([gb / INNER for gb in added]), f"{1 + share:.2f}"])
    heads = ("model", "type", "ZeRO", "way, losses", "plain step", "MELTR adds a step", "times plain")
    return table("GB that each GPU sends in a step, on 8 / 64 / 512 GPUs", heads, lines)


def durations() -> str:
    """Computing and moving, by link."""
    lines = []
    for row in rows():
        if not row.at.low:
            continue
        step, more = row.seconds
        for name, extra in (("plain", 0.0), ("MELTR", 1 / INNER)):
            compute, cells = step + extra * more, []
            for workers, speed in ((8, NODE), (512, RAILS), (512, ONE_RAIL)):
                ordinary, added = (sent(part, workers) for part in row.on(workers))
                moving = (ordinary + extra * added) / speed
                cells += [_ms(moving), f"{compute / (compute + moving):.0%} / {min(1, compute / moving):.0%}"]
            lines.append([*row.label, name, _ms(compute), *cells])
    links = [head for where in ("8 GPUs", "512, 8 ports", "512, 1 port") for head in (f"{where}: ms", "efficiency")]
    heads = ("model", "type", "ZeRO", "way, losses", "what", "compute ms", *links)
    title = f"A mean step of K = {INNER}: computing, and moving by link; efficiency without / with full overlap"
    return table(title, heads, lines)


def latency() -> str:
    """Numbers of collectives."""
    lines = []
    for row in rows():
        if row.at.way.endswith("difference") and not row.at.stage:
            continue
        ordinary, added = (calls(part) for part in row.on(512))
        cells = [
            f"{_ms(number * HOP * math.log2(512))} to {_ms(number * STEP * 511)}"
            for number in (ordinary, ordinary + added)
        ]
        lines.append([*row.label, str(ordinary), str(ordinary + added), *cells])
    heads = ("model", "type", "ZeRO", "way, losses", "plain step", "meta step", "plain, ms at 512", "meta, ms at 512")
    return table("Collectives in a step, without those of negatives", heads, lines)


def exchange() -> str:
    """Negatives, whose size grows with the number of workers."""
    config = UniVLConfig()
    gathers = negatives(SAMPLES, FRAMES, config.video_dim, config.hidden, 2)
    kinds = {"joint, m_joint": gathers[:2] + gathers[5:7], "all eight losses": gathers}
    lines = []
    for name, gathered in kinds.items():
        cells = []
        for n in WORKERS:
            forward, backward = (sum(r.size for r in gathered if r.differentiable or k) for k in (1, 0))
            cells.append((n - 1) * (forward + 2 * backward) / 1e9)
        lines.append([name, str(len(gathered)), _three(cells, 4)])
    heads = ("losses", "gathers", "GB, forward and backward")
    return table(f"Negatives of a plain step, bf16, {SAMPLES} samples a GPU, on 8 / 64 / 512 GPUs", heads, lines)


def _three(numbers: list[float], digits: int = 2) -> str:
    return " / ".join(f"{number:.{digits}f}" for number in numbers)


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f}" if seconds < 0.1 else f"{1000 * seconds:.0f}"


def tables() -> Iterator[str]:
    """All of them."""
    yield from (volume(), durations(), latency(), exchange())


if __name__ == "__main__":
    for text in tables():
        print(text)
