"""What a learned loss costs: steps of every way and scheme beside plain multi-task learning, taking turns.

A transformer of 5M+ parameters with 8 losses, K = 3 inner steps a meta step, in one process. Run by run.py.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.meltr.bilevel import LearnedLoss, MetaBatches
from models.meltr.config import MELTRConfig
from models.meltr.hypergradient import SCHEMES, WAYS, Problem, hypergradient
from models.meltr.machine import Evaluate, Network, OneProcess
from tests.benchmarks.timing import synchronise, table

WIDTH, LAYERS, TOKENS, VOCABULARY, BATCH, LOSSES, INNER = 256, 6, 32, 1000, 16, 8, 3


class Layer(nn.Module):
    """A pre-norm transformer layer with fused attention."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attend, self.mix = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.wide, self.narrow = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.attend(self.norm1(x)).chunk(3, -1)
        query, key, value = (part.unflatten(-1, (8, WIDTH // 8)).transpose(1, 2) for part in parts)
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(-2)
        x = x + self.mix(mixed)
        added: Tensor = x + self.narrow(F.gelu(self.wide(self.norm2(x))))
        return added


class Backbone(nn.Module):
    """Tokens (n, TOKENS) -> logits (n, TOKENS, VOCABULARY)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.Sequential(*(Layer() for _ in range(LAYERS)))
        self.out = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.out(self.layers(self.embedding(tokens)))
        return logits


def losses_on(device: torch.device, seed: int, rows: int = BATCH) -> Evaluate:
    """Eight cross-entropies of the same tokens, each to labels of its own."""
    source = torch.Generator().manual_seed(seed)
    tokens = torch.randint(VOCABULARY, (BATCH, TOKENS), generator=source)[:rows].to(device)
    labels = torch.randint(VOCABULARY, (LOSSES, BATCH, TOKENS), generator=source)[:, :rows].to(device)

    def evaluate(network: Network) -> Tensor:
        scores: Tensor = network(tokens).float().log_softmax(-1)
        return -scores.expand(LOSSES, -1, -1, -1).gather(-1, labels[..., None]).mean((1, 2, 3))

    return evaluate


@dataclass
class Run:
    """One way of training, from the same weights on the same batches."""

    model: Backbone
    optimiser: torch.optim.Optimizer
    learned: LearnedLoss | None
    fraction: float

    def inner_steps(self, device: torch.device, number: int) -> None:
        """K steps, one meta step among them."""
        for inner in range(INNER):
            evaluate = losses_on(device, number * INNER + inner)
            shares = evaluate(self.model)
            coefficients = torch.ones_like(shares)
            if self.learned is not None:
                rows = max(1, round(self.fraction * BATCH))
                part = losses_on(device, number * INNER + inner, rows) if rows < BATCH else None
                meta = MetaBatches(training=part)
                machine = OneProcess(self.model)
                found = self.learned.combine(machine, evaluate, shares, shares, 1e-4, 1.0, lambda meta=meta: meta)  # type: ignore[misc]
                coefficients = found.coefficients
            self.optimiser.zero_grad()
            (coefficients * shares).sum().backward()
            self.optimiser.step()


def new_run(device: torch.device, changes: dict[str, object] | None, fraction: float = 1.0) -> Run:
    torch.manual_seed(0)
    model = Backbone().to(device)
    learned = None
    if changes is not None:
        config = MELTRConfig.model_validate({"network": "univl", "inner_steps": INNER, **changes})
        learned = LearnedLoss(config, [f"loss {t}" for t in range(LOSSES)], "loss 0", 0, device)
        learned.start(losses_on(device, 0)(model).detach())
        learned.steps = INNER  # every group of K steps then begins with a meta step
    return Run(model, torch.optim.Adam(model.parameters(), 1e-4), learned, fraction)


CONTESTANTS: dict[str, tuple[dict[str, object] | None, float]] = {
    "multi-task learning (sum)": (None, 1.0),
    "AID-FP-Lite, forward_mode": ({"way": "forward_mode"}, 1.0),
    "AID-FP-Lite, finite_difference": ({"way": "finite_difference"}, 1.0),
    "AID-FP-Lite, per_task": ({"way": "per_task"}, 1.0),
    "AID-FP-Lite, double_backward": ({"way": "double_backward"}, 1.0),
    "AID-FP-Lite, forward_mode on 1/8 of the batch": ({"way": "forward_mode"}, 1 / 8),
    "ITD (Meta-Weight-Net), forward_mode": ({"scheme": "itd", "way": "forward_mode"}, 1.0),
    "StocBiO, 3 terms, forward_mode": ({"scheme": "stocbio", "way": "forward_mode"}, 1.0),
    "AID-CG, 3 terms, forward_mode": ({"scheme": "aid_cg", "way": "forward_mode"}, 1.0),
    "AID-FP (AuxiLearn), 3 terms, forward_mode": ({"scheme": "aid_fp", "way": "forward_mode"}, 1.0),
}


def meltr(arguments: argparse.Namespace, device: torch.device) -> Iterator[str]:
    """Time of K steps with their meta step, and the cosine to the exact hypergradient."""
    runs = {name: new_run(device, *settings) for name, settings in CONTESTANTS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    threads = max(arguments.threads) if device.type == "cpu" else torch.get_num_threads()
    torch.set_num_threads(threads)
    peaks: dict[str, str] = {}
    for number in range(arguments.rounds + 1):
        for name, run in runs.items():
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            synchronise(device)
            start = time.perf_counter()
            run.inner_steps(device, number)
            synchronise(device)
            if number:
                seconds[name].append(time.perf_counter() - start)
            if device.type == "cuda":
                peaks[name] = f"{torch.cuda.max_memory_allocated(device) / 2**20:.0f}"
    first = statistics.median(next(iter(seconds.values())))
    cosines = _cosines(device)
    rows = [
        [
            name,
            f"{1000 * statistics.median(times):.0f}",
            f"{1000 * min(times):.0f} to {1000 * max(times):.0f}",
            f"{statistics.median(times) / first:.2f}",
            cosines.get(name, ""),
            peaks.get(name, ""),
        ]
        for name, times in seconds.items()
    ]
    count = sum(p.numel() for p in Backbone().parameters())
    title = f"A learned loss: {count / 1e6:.1f}M parameters, {LOSSES} losses, K={INNER}, {threads} threads, fp32"
    heads = ("what", "K steps, median ms", "range ms", "times the first", "cosine to the exact", "most GPU MiB")
    yield table(title, heads, rows)


def _cosines(device: torch.device) -> dict[str, str]:
    """Of each way's hypergradient, at the start, with that of double backward on the whole batch."""

    def flat(changes: dict[str, object], rows: int) -> Tensor:
        run = new_run(device, changes)
        assert run.learned is not None
        config, whole = run.learned.config, losses_on(device, 0)
        problem = Problem(
            OneProcess(run.model), run.learned.network, losses_on(device, 0, rows), whole(run.model).detach(), 0,
            config.gamma, direct_regulariser_gradient=False,
        )  # fmt: skip
        found = hypergradient(problem, SCHEMES[config.scheme], WAYS[config.way])
        return torch.cat([g.double().flatten() for g in found])

    exact = flat({"way": "double_backward"}, BATCH)
    compared: dict[str, Callable[[], Tensor]] = {
        name: lambda c=changes, f=fraction: flat(c, max(1, round(f * BATCH)))  # type: ignore[misc]
        for name, (changes, fraction) in CONTESTANTS.items()
        if changes is not None and changes.get("scheme") is None
    }
    return {name: f"{float(F.cosine_similarity(run(), exact, dim=0)):.6f}" for name, run in compared.items()}
