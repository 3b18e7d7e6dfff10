"""A small problem with several losses for the learned loss, and what worker processes do with it."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from distributed.engine import Engine, EngineConfig
from distributed.machine import EngineMachine
from models.meltr.hypergradient import SCHEMES, WAYS, Problem, hypergradient
from models.meltr.machine import Evaluate, Machine, Network, OneProcess
from models.meltr.transformer import LossTransformerConfig, loss_network
from models.optim.lars import OptimiserConfig

ROWS, INPUTS, HIDDEN, CLASSES, TASKS = 13, 24, 160, 7, 5
"""HIDDEN: wide enough that ZeRO-3 cuts up the tensor in the middle; it keeps those under 10 000 elements whole."""
PRIMARY, GAMMA = 1, 0.3


class Backbone(nn.Module):
    """x (n, INPUTS) -> logits (n, TASKS, CLASSES); the last task's head reads the input alone."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(INPUTS, HIDDEN)
        self.middle = nn.Linear(HIDDEN, HIDDEN)
        self.heads = nn.Linear(HIDDEN, (TASKS - 1) * CLASSES)
        self.apart = nn.Linear(INPUTS, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.first.weight.dtype)
        hidden = torch.tanh(self.middle(torch.tanh(self.first(x))))
        shared = self.heads(hidden).view(len(x), TASKS - 1, CLASSES)
        return torch.cat([shared, self.apart(x)[:, None]], dim=1)


def backbone() -> Backbone:
    """The same at every call."""
    torch.manual_seed(3)
    return Backbone()


def losses_of(rows: Sequence[int], total: int = ROWS) -> Evaluate:
    """This share's part of the means over a batch of `total` rows."""
    source = torch.Generator().manual_seed(11)
    x = torch.randn(ROWS, INPUTS, generator=source)[list(rows)]
    labels = torch.randint(CLASSES, (ROWS, TASKS), generator=source)[list(rows)]

    def evaluate(network: Network) -> Tensor:
        logits = network(x).float()
        return torch.stack([F.cross_entropy(logits[:, t], labels[:, t], reduction="sum") for t in range(TASKS)]) / total

    return evaluate


def problem_on(machine: Machine, evaluate: Evaluate, losses: Tensor, graph: Tensor | None) -> Problem:
    network = loss_network(LossTransformerConfig(width=16, feed_forward=16, value_hidden=8), TASKS, seed=5)
    return Problem(machine, network, evaluate, losses, PRIMARY, GAMMA, graph)


def hypergradient_alone(scheme: str, way: str) -> list[float]:
    """On one process without an engine: all numbers of the hypergradient."""
    module, evaluate = backbone(), losses_of(range(ROWS))
    graph = evaluate(module)
    problem = problem_on(OneProcess(module), evaluate, graph.detach(), graph)
    return _flat(hypergradient(problem, SCHEMES[scheme], WAYS[way]))


class InPieces:
    """The losses of a share of the batch, added up from micro-batches."""

    def __init__(self, rows: Sequence[int], count: int) -> None:
        self.pieces = [losses_of(rows[number::count]) for number in range(count)]

    def __call__(self, network: Network) -> Tensor:
        return torch.stack([piece(network) for piece in self.pieces]).sum(0)


def hypergradients_on_engine(
    stages: Sequence[int], pairs: Sequence[tuple[str, str]], precision: str = "fp32", accumulation: int = 1
) -> list[list[float]]:
    """On this worker: the hypergradient for each ZeRO stage and each (scheme, way), in this order."""
    mine, found = range(dist.get_rank(), ROWS, dist.get_world_size()), []
    evaluate = InPieces(mine, accumulation) if accumulation > 1 else losses_of(mine)
    for stage in stages:
        config = EngineConfig(zero_stage=stage, precision=precision, accumulation=accumulation)  # type: ignore[arg-type]
        engine = Engine(backbone(), config, OptimiserConfig())
        machine = EngineMachine(engine)
        for scheme, way in pairs:
            graph = evaluate(engine) if accumulation == 1 else None
            losses = (machine.values(evaluate) if graph is None else machine.total(graph)).float()
            problem = problem_on(machine, evaluate, losses, graph)
            found.append(_flat(hypergradient(problem, SCHEMES[scheme], WAYS[way])))
    return found


def trajectory(stage: int, looks: bool, steps: int = 4, known: bool = False) -> list[list[float]]:
    """Loss values of a few steps on the plain sum, with or without hypergradients computed in between, or on a
    gradient that is known before."""
    mine = range(dist.get_rank(), ROWS, dist.get_world_size())
    evaluate, seen = losses_of(mine), []
    engine = Engine(backbone(), EngineConfig(zero_stage=stage), OptimiserConfig(eta=0.01))
    machine = EngineMachine(engine)
    ways = ["per_task", "finite_difference", *(["forward_mode"] if stage < 3 else [])]
    for _ in range(steps):
        graph = evaluate(engine)
        losses = machine.total(graph).float()
        seen.append(losses.tolist())
        if looks:
            for way in ways:
                hypergradient(problem_on(machine, evaluate, losses, graph), SCHEMES["aid_fp_lite"], WAYS[way])
            if stage == 3:
                graph = evaluate(engine)  # a graph there is good for one backward pass, and must be the newest
        if known:
            engine.step_along(machine.gradient(evaluate, torch.ones(TASKS), graph))
        else:
            engine.backward_and_step(graph.sum())
    return seen


def _flat(tensors: Sequence[Tensor]) -> list[float]:
    numbers: list[float] = torch.cat([t.detach().double().flatten() for t in tensors]).tolist()
    return numbers
