"""Every way and every scheme against slow references that differentiate the backbone twice or build its Hessian."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.errors import UserError
from models.meltr.hypergradient import SCHEMES, WAYS, Problem, hypergradient
from models.meltr.machine import Evaluate, Network, OneProcess
from models.meltr.transformer import LossTransformerConfig, loss_network

GAMMA, PRIMARY = 0.3, 1


class Transformer(nn.Module):
    """Tokens (n, 9) -> logits (n, 9, 20) by fused attention, with dropout; the output shares the embedding's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 32)
        self.first, self.second = (nn.Linear(32, 96) for _ in range(2))
        self.out = nn.Linear(32, 20, bias=False)
        self.out.weight = self.embedding.weight
        self.unused_by_most = nn.Linear(32, 20)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        x = self.embedding(tokens)
        for layer in (self.first, self.second):
            query, key, value = (part.unflatten(-1, (4, 8)).transpose(1, 2) for part in layer(x).chunk(3, -1))
            mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(-2)
            x = F.layer_norm(x + F.dropout(F.gelu(mixed), 0.2, self.training), (32,))
        return self.out(x), self.unused_by_most(x)


def transformer(losses: int) -> tuple[Transformer, Evaluate]:
    torch.manual_seed(0)
    module = Transformer()
    tokens = torch.randint(20, (6, 9))
    labels = torch.randint(20, (losses, 6, 9))

    def evaluate(network: Network) -> Tensor:
        torch.manual_seed(7)  # the same dropout at every call
        shared, apart = network(tokens)
        heads = [apart if task == losses - 1 and losses > 1 else shared for task in range(losses)]
        return torch.stack(
            [
                F.cross_entropy(head.roll(task, 1).flatten(0, 1), label.flatten())
                for task, (head, label) in enumerate(zip(heads, labels, strict=True))
            ]
        )

    return module, evaluate


def problem_of(module: nn.Module, evaluate: Evaluate, **changes: object) -> Problem:
    losses = evaluate(module).detach()
    config = LossTransformerConfig(width=32, feed_forward=16, value_hidden=16)
    network = loss_network(config, len(losses), seed=4).to(losses.dtype)
    primary = min(PRIMARY, len(losses) - 1)
    return Problem(OneProcess(module), network, evaluate, losses, primary, GAMMA, **changes)  # type: ignore[arg-type]


def by_definition(problem: Problem, vector: list[Tensor]) -> list[Tensor]:
    """-<x, d/dphi dM(l(w); phi)/dw> + d/dphi gamma |M - sum l|, by differentiating everything twice."""
    machine = problem.machine
    assert isinstance(machine, OneProcess)
    weights, phi = [p for _, p in machine.named], list(problem.network.parameters())
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        losses = problem.evaluate(machine.module)
        unified = problem.network(losses)
        gradient = torch.autograd.grad(unified, weights, create_graph=True, allow_unused=True)
        inner = torch.stack([(g * x).sum() for g, x in zip(gradient, vector, strict=True) if g is not None]).sum()
        upper = -inner + problem.gamma * (problem.network(losses.detach()) - losses.detach().sum()).abs()
        found = torch.autograd.grad(upper, phi, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for g, p in zip(found, phi, strict=True)]


def flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([t.detach().double().flatten() for t in tensors])


def error(found: list[Tensor], expected: list[Tensor]) -> float:
    return float((flat(found) - flat(expected)).norm() / flat(expected).norm())


@pytest.mark.parametrize("losses", [1, 8])
@pytest.mark.parametrize("shared", [True, False], ids=["one forward", "its own forwards"])
@pytest.mark.parametrize(
    ("way", "tolerance"),
    [("forward_mode", 1e-5), ("per_task", 1e-5), ("finite_difference", 2e-3), ("one_sided_difference", 2e-3)],
)
def test_ways_on_a_transformer(way: str, tolerance: float, shared: bool, losses: int) -> None:
    module, evaluate = transformer(losses)
    graph = evaluate(module) if shared else None
    problem = problem_of(module, evaluate, graph=graph, values=None if graph is None else graph.detach())
    expected = hypergradient(problem, SCHEMES["aid_fp_lite"], WAYS["double_backward"])
    before = flat([p for _, p in module.named_parameters()])
    assert error(hypergradient(problem, SCHEMES["aid_fp_lite"], WAYS[way]), expected) < tolerance
    assert torch.equal(flat([p for _, p in module.named_parameters()]), before)
    assert all(p.grad is None for p in module.parameters())


@pytest.mark.parametrize("way", ["double_backward", "forward_mode", "per_task"])
def test_exact_ways_are_the_definition(way: str) -> None:
    module, evaluate = transformer(8)
    module.double()
    problem = problem_of(module, evaluate)
    expected = by_definition(problem, problem.primary_gradient())
    assert error(hypergradient(problem, SCHEMES["aid_fp_lite"], WAYS[way]), expected) < 1e-9


@pytest.mark.parametrize("meta", [False, True], ids=["same batch", "meta batch"])
@pytest.mark.parametrize("scheme", ["aid_fp_lite", "itd", "aid_cg"])
def test_kept_gradients_change_nothing(scheme: str, meta: bool) -> None:
    module, evaluate, other = small()
    expected, found = (
        problem_of(module, evaluate, meta=other if meta else None, rate=0.1, keep_gradients=keep)
        for keep in (False, True)
    )
    both = [hypergradient(problem, SCHEMES[scheme], WAYS["per_task"]) for problem in (expected, found)]
    assert error(both[1], both[0]) < 1e-9
    weights = torch.tensor([0.3, -2.0, 1.0], dtype=torch.float64)
    assert error(found.gradient(weights), expected.gradient(weights)) < 1e-9


def test_kept_gradients_take_one_backward_pass_a_loss() -> None:
    module, evaluate, _ = small()
    counted: list[int] = []

    class Counting(OneProcess):
        def gradient(self, *arguments: Any) -> list[Tensor]:
            counted.append(1)
            return super().gradient(*arguments)

    problem = problem_of(module, evaluate, keep_gradients=True)
    problem.machine = Counting(module)
    hypergradient(problem, SCHEMES["aid_fp_lite"], WAYS["per_task"])
    problem.gradient(torch.ones(3, dtype=torch.float64))
    assert len(counted) == 3


def test_micro_batches_add_up() -> None:
    module, first, second = small()

    class Both:
        pieces = (first, second)

        def __call__(self, network: Network) -> Tensor:
            return first(network) + second(network)

    def at_once(network: Network) -> Tensor:
        return Both()(network)

    for scheme in ("aid_fp_lite", "aid_fp"):
        whole, pieces = problem_of(module, at_once), problem_of(module, Both())
        found = [hypergradient(problem, SCHEMES[scheme], WAYS["per_task"]) for problem in (whole, pieces)]
        assert error(found[1], found[0]) < 1e-9


def test_without_the_direct_part_the_regulariser_still_counts() -> None:
    module, evaluate = transformer(8)
    module.double()
    problem = problem_of(module, evaluate)
    with_direct = hypergradient(problem, SCHEMES["aid_fp_lite"], WAYS["per_task"])
    problem.direct_regulariser_gradient = False
    without = hypergradient(problem, SCHEMES["aid_fp_lite"], WAYS["per_task"])
    direct = torch.autograd.grad(
        GAMMA * (problem.network(problem.losses) - problem.losses.sum()).abs(),
        list(problem.network.parameters()),
        allow_unused=True,
    )
    expected = [w + (0 if d is None else d) for w, d in zip(without, direct, strict=True)]
    assert error(with_direct, expected) < 1e-9


def small() -> tuple[nn.Module, Evaluate, Evaluate]:
    """Few enough float64 weights for a Hessian, and two batches of three losses."""
    torch.manual_seed(2)
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()

    def batch(seed: int) -> Evaluate:
        source = torch.Generator().manual_seed(seed)
        x, target = (torch.randn(5, 3, generator=source, dtype=torch.float64) for _ in range(2))

        def evaluate(network: Network) -> Tensor:
            out = network(x)
            return torch.stack([(out - target).square().mean(), (out - target).abs().mean(), out.square().mean()])

        return evaluate

    return module, batch(0), batch(1)


def hessian(problem: Problem, evaluate: Evaluate) -> Tensor:
    """Of L_aux on a batch, column by column."""
    machine = problem.machine
    assert isinstance(machine, OneProcess)
    weights = [p for _, p in machine.named]
    gradient = torch.autograd.grad(problem.network(evaluate(machine.module)), weights, create_graph=True)
    whole = torch.cat([g.flatten() for g in gradient])
    return torch.stack(
        [flat([*torch.autograd.grad(entry, weights, retain_graph=True)]) for entry in whole]  # symmetric
    )


def neumann(matrices: list[Tensor], vector: Tensor, eta: float) -> Tensor:
    term = total = vector
    for matrix in matrices:
        term = term - eta * matrix @ term
        total = total + term
    return eta * total


def split_like(vector: Tensor, weights: list[Tensor]) -> list[Tensor]:
    parts = vector.split([w.numel() for w in weights])
    return [part.view_as(w) for part, w in zip(parts, weights, strict=True)]


def conjugate_gradients(matrix: Tensor, vector: Tensor, steps: int) -> Tensor:
    x, r = torch.zeros_like(vector), vector
    p = r
    for _ in range(steps):
        alpha = (r @ r) / (p @ matrix @ p)
        if p @ matrix @ p <= 0:
            return vector if not bool(x.any()) else x
        x, new = x + alpha * p, r - alpha * matrix @ p
        p, r = new + (new @ new) / (r @ r) * p, new
    return x


REFERENCES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "aid_fp": lambda first, _, v: neumann([first] * 3, v, 0.2),
    "stocbio": lambda first, second, v: neumann([second, first, second], v, 0.2),
    "aid_cg": lambda first, _, v: conjugate_gradients(first, v, 3),
}


@pytest.mark.parametrize("scheme", REFERENCES)
def test_schemes_with_a_hessian(scheme: str) -> None:
    module, first, second = small()
    problem = problem_of(module, first, terms=3, series_rate=0.2, others=[second, first])
    weights = [p.detach() for p in module.parameters()]
    vector = flat(problem.primary_gradient())
    solution = REFERENCES[scheme](hessian(problem, first), hessian(problem, second), vector)
    expected = by_definition(problem, split_like(solution, weights))
    assert error(hypergradient(problem, SCHEMES[scheme], WAYS["per_task"]), expected) < 1e-6


def test_itd_is_the_derivative_of_the_unrolled_step() -> None:
    module, evaluate, _ = small()
    problem = problem_of(module, evaluate, rate=0.1, direct_regulariser_gradient=False)
    problem.gamma = 0.0
    names, phi = [n for n, _ in module.named_parameters()], list(problem.network.parameters())
    weights = [p for _, p in module.named_parameters()]
    inner = torch.autograd.grad(problem.network(evaluate(module)), weights, create_graph=True)
    moved = {n: w - 0.1 * g for n, w, g in zip(names, weights, inner, strict=True)}
    ahead = evaluate(lambda x: torch.func.functional_call(module, moved, (x,)))[PRIMARY]
    expected = torch.autograd.grad(ahead, phi, allow_unused=True)
    found = hypergradient(problem, SCHEMES["itd"], WAYS["forward_mode"])
    assert error(found, [torch.zeros_like(p) if g is None else g for g, p in zip(expected, phi, strict=True)]) < 1e-9


def test_half_precision_refuses_differences() -> None:
    module, evaluate = transformer(8)
    problem = problem_of(module, evaluate)
    module.bfloat16()
    for way in ("finite_difference", "one_sided_difference"):
        with pytest.raises(UserError, match=f"{way} needs a float32"):
            WAYS[way](problem, problem.machine.weights())
    with pytest.raises(UserError, match="need a float32 forward"):
        problem.hessian_vector(problem.machine.weights())


def test_running_statistics_stand_still() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))
    x, labels = torch.randn(8, 4), torch.randint(3, (8,))

    def evaluate(network: Network) -> Tensor:
        return torch.stack([F.cross_entropy(network(x), labels), network(x).square().mean()])

    before = problem_of(module, evaluate)  # its own look counts as training
    kept = {name: buffer.clone() for name, buffer in module.named_buffers()}
    for way in WAYS:
        hypergradient(before, SCHEMES["aid_fp_lite"], WAYS[way])
    for name, buffer in module.named_buffers():
        assert torch.equal(buffer, kept[name]), name
