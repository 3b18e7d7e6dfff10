"""What a learned loss costs: steps of every way and scheme beside plain multi-task learning, taking turns.

A transformer of 5M+ parameters with 8 losses (and once with 3), K = 3 inner steps a meta step. Run by run.py.
"""

import argparse
import functools
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.meltr.bilevel import LearnedLoss, MetaBatches
from models.meltr.config import MELTRConfig
from models.meltr.hypergradient import SCHEMES, WAYS, Problem, hypergradient
from models.meltr.machine import Evaluate, Network, OneProcess
from models.meltr.transformer import PRESETS, fit_to_sum, loss_network
from tests.benchmarks.timing import synchronise, table

WIDTH, LAYERS, TOKENS, VOCABULARY, BATCH, LOSSES, INNER = 256, 6, 32, 1000, 16, 8, 3
FEW_LOSSES = 3


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


def losses_on(device: torch.device, seed: int, rows: int = BATCH, losses: int = LOSSES) -> Evaluate:
    """Cross-entropies of the same tokens, each to labels of its own."""
    source = torch.Generator().manual_seed(seed)
    tokens = torch.randint(VOCABULARY, (BATCH, TOKENS), generator=source)[:rows].to(device)
    labels = torch.randint(VOCABULARY, (losses, BATCH, TOKENS), generator=source)[:, :rows].to(device)

    def evaluate(network: Network) -> Tensor:
        scores: Tensor = network(tokens).float().log_softmax(-1)
        return -scores.expand(losses, -1, -1, -1).gather(-1, labels[..., None]).mean((1, 2, 3))

    return evaluate


def take_step(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    learned: LearnedLoss | None,
    evaluate: Evaluate,
    meta: MetaBatches,
) -> None:
    """One step on a batch, with the meta step before it where one is due."""
    shares = evaluate(model)
    coefficients, gradient = torch.ones_like(shares), None
    if learned is not None:
        found = learned.combine(OneProcess(model), evaluate, shares, shares, 1e-4, 1.0, lambda: meta)
        coefficients, gradient = found.coefficients, found.gradient
    optimiser.zero_grad()
    if gradient is None:
        (coefficients * shares).sum().backward()
    else:
        for parameter, g in zip(model.parameters(), gradient, strict=True):
            parameter.grad = g
    optimiser.step()


@dataclass
class Run:
    """One way of training, from the same weights on the same batches."""

    model: Backbone
    optimiser: torch.optim.Optimizer
    learned: LearnedLoss | None
    fraction: float
    losses: int

    def inner_steps(self, device: torch.device, number: int) -> None:
        """K steps, one meta step among them."""
        for inner in range(INNER):
            evaluate = losses_on(device, number * INNER + inner, BATCH, self.losses)
            rows = max(1, round(self.fraction * BATCH))
            part = losses_on(device, number * INNER + inner, rows, self.losses) if rows < BATCH else None
            take_step(self.model, self.optimiser, self.learned, evaluate, MetaBatches(training=part))


def new_run(
    device: torch.device,
    changes: dict[str, object] | None,
    fraction: float = 1.0,
    losses: int = LOSSES,
    fitted: bool = True,
) -> Run:
    torch.manual_seed(0)
    model = Backbone().to(device)
    learned = None
    if changes is not None:
        config = MELTRConfig.model_validate({"network": "univl", "inner_steps": INNER, **changes})
        learned = LearnedLoss(config, [f"loss {t}" for t in range(losses)], "loss 0", 0, device)
        if fitted:
            learned.network.load_state_dict(_fitted(losses, device))
        learned.steps = INNER  # every group of K steps then begins with a meta step
    return Run(model, torch.optim.Adam(model.parameters(), 1e-4), learned, fraction, losses)


@functools.cache
def _fitted(losses: int, device: torch.device) -> dict[str, Tensor]:
    """A loss network near the sum of the losses: one fit for all contestants."""
    network = loss_network(PRESETS["univl"], losses, seed=0).to(device)
    torch.manual_seed(0)
    first = losses_on(device, 0, BATCH, losses)(Backbone().to(device)).detach()
    fit_to_sum(network, 0.25 * first, 1.5 * first, steps=100)
    return network.state_dict()


Contestants = dict[str, tuple[dict[str, object] | None, float]]
CONTESTANTS: Contestants = {
    "multi-task learning (sum)": (None, 1.0),
    "AID-FP-Lite, forward_mode": ({"way": "forward_mode"}, 1.0),
    "AID-FP-Lite, finite_difference": ({"way": "finite_difference"}, 1.0),
    "AID-FP-Lite, one_sided_difference": ({"way": "one_sided_difference"}, 1.0),
    "AID-FP-Lite, per_task": ({"way": "per_task"}, 1.0),
    "AID-FP-Lite, double_backward": ({"way": "double_backward"}, 1.0),
    "AID-FP-Lite, forward_mode on 1/8 of the batch": ({"way": "forward_mode"}, 1 / 8),
    "AID-FP-Lite, forward_mode on 1/16 of the batch": ({"way": "forward_mode"}, 1 / 16),
    "ITD (Meta-Weight-Net), forward_mode": ({"scheme": "itd", "way": "forward_mode"}, 1.0),
    "StocBiO, 3 terms, forward_mode": ({"scheme": "stocbio", "way": "forward_mode"}, 1.0),
    "AID-CG, 3 terms, forward_mode": ({"scheme": "aid_cg", "way": "forward_mode"}, 1.0),
    "AID-FP (AuxiLearn), 3 terms, forward_mode": ({"scheme": "aid_fp", "way": "forward_mode"}, 1.0),
}


FEW: Contestants = {
    "multi-task learning (sum)": (None, 1.0),
    "AID-FP-Lite, per_task": ({"way": "per_task"}, 1.0),
    "AID-FP-Lite, forward_mode": ({"way": "forward_mode"}, 1.0),
}


def meltr(arguments: argparse.Namespace, device: torch.device) -> Iterator[str]:
    """Time of K steps with their meta step, peak memory, and the cosine to the exact hypergradient."""
    threads = max(arguments.threads) if device.type == "cpu" else torch.get_num_threads()
    torch.set_num_threads(threads)
    count = sum(p.numel() for p in Backbone().parameters())
    cosines = _cosines(device)
    for contestants, losses in ((CONTESTANTS, LOSSES), (FEW, FEW_LOSSES)):
        rows = _rows(arguments.rounds, device, contestants, losses, cosines if losses == LOSSES else {})
        title = f"A learned loss: {count / 1e6:.1f}M parameters, {losses} losses, K={INNER}, {threads} threads, fp32"
        heads = (
            "what",
            "K steps, median ms",
            "range ms",
            "times the first",
            "cosine to the exact",
            "peak MiB",
            "times",
        )
        yield table(title, heads, rows)


def _rows(
    rounds: int, device: torch.device, contestants: Contestants, losses: int, cosines: Mapping[str, str]
) -> list[list[str]]:
    runs = {name: new_run(device, *settings, losses) for name, settings in contestants.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            synchronise(device)
            start = time.perf_counter()
            run.inner_steps(device, number)
            synchronise(device)
            if number:
                seconds[name].append(time.perf_counter() - start)
    first = statistics.median(next(iter(seconds.values())))
    peaks = {name: _peak(name, losses, device) for name in contestants}
    least = next(iter(peaks.values()))
    return [
        [
            name,
            f"{1000 * statistics.median(times):.0f}",
            f"{1000 * min(times):.0f} to {1000 * max(times):.0f}",
            f"{statistics.median(times) / first:.2f}",
            cosines.get(name, ""),
            f"{peaks[name]:.0f}",
            f"{peaks[name] / least:.2f}",
        ]
        for name, times in seconds.items()
    ]


def _peak(name: str, losses: int, device: torch.device) -> float:
    """MiB at most beyond what a process has that has imported everything, in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.meltr", name, str(losses), device.type]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _report_peak(name: str, losses: int, device: torch.device) -> None:
    """Prints the peak of one contestant: model, optimiser, graphs and vectors."""
    settings = (CONTESTANTS if losses == LOSSES else FEW)[name]
    torch.set_num_threads(2)
    if device.type == "cuda":
        run = new_run(device, *settings, losses, fitted=False)
        for number in range(2):
            run.inner_steps(device, number)
        print(torch.cuda.max_memory_allocated(device) / 2**20)
        return
    small = torch.nn.Linear(64, 64)
    small(torch.zeros(64, 64)).sum().backward()  # the libraries' own first allocations do not count
    before = _most_resident()
    run = new_run(device, *settings, losses, fitted=False)
    for number in range(2):
        run.inner_steps(device, number)
    print(_most_resident() - before)


def _most_resident() -> float:
    """MiB of this program at its peak; what getrusage says would include the process that it was forked from."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 2**10


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


if __name__ == "__main__":
    _report_peak(sys.argv[1], int(sys.argv[2]), torch.device(sys.argv[3]))
