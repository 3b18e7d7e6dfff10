"""LARS beside one tensor at a time, beside torch's Adam, and with its tensors cut up over workers."""

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.collectives import Alone
from models.optim.lars import LARS, OptimiserConfig, Segment
from tests.reference.threads import ThreadCollectives, in_threads

SHAPES = [(4, 3), (3,), (2, 5), (1,), (7,)]
EXACT: dict[str, Any] = {"rtol": 1e-11, "atol": 1e-13}


def tensors(seed: int, scale: float = 1.0) -> list[Tensor]:
    source = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(shape, dtype=torch.float64, generator=source) for shape in SHAPES]


def gradients(step: int) -> list[Tensor]:
    """Of very different sizes, some above the cap of 2 and some below."""
    found = tensors(100 + step, [0.01, 3.0, 0.3][step % 3])
    found[1] *= 1e-4
    return found


class Obvious:
    """The rule for one tensor at a time, as the paper has it."""

    def __init__(self, weights: list[Tensor], cap: float, eta: float = 0.007) -> None:
        self.weights = [weight.clone() for weight in weights]
        self.first = [torch.zeros_like(weight) for weight in weights]
        self.second = [torch.zeros_like(weight) for weight in weights]
        self.cap, self.eta, self.steps = cap, eta, 0

    def step(self, gradients: list[Tensor]) -> None:
        self.steps += 1
        total = sum(float((g**2).sum()) for g in gradients) ** 0.5
        for k, gradient in enumerate(gradients):
            g = gradient * min(1.0, self.cap / (total + 1e-6)) if self.cap else gradient
            self.first[k] = 0.9 * self.first[k] + 0.1 * g
            self.second[k] = 0.999 * self.second[k] + 0.001 * g**2
            unbiased = self.first[k] / (1 - 0.9**self.steps), self.second[k] / (1 - 0.999**self.steps)
            u = unbiased[0] / (unbiased[1].sqrt() + 1e-8)
            w = self.weights[k]
            scale = float(w.norm() / u.norm()) if float(w.norm() * u.norm()) > 0 else 1.0
            self.weights[k] = w - self.eta * scale * u


def run(optimiser: LARS, params: list[Tensor], steps: range, gradient: Callable[[int], list[Tensor]]) -> None:
    for step in steps:
        for parameter, g in zip(params, gradient(step), strict=True):
            parameter.grad = g.clone()
        optimiser.step()


@pytest.mark.parametrize("cap", [0.0, 2.0, 0.05])
def test_agrees_with_one_tensor_at_a_time(cap: float) -> None:
    params = tensors(0)
    optimiser, obvious = LARS(params, gradient_cap=cap), Obvious(params, cap)
    for step in range(6):
        before = [float(w.norm()) for w in obvious.weights]
        run(optimiser, params, range(step, step + 1), gradients)
        obvious.step(gradients(step))
        for ours, theirs in zip(params, obvious.weights, strict=True):
            torch.testing.assert_close(ours, theirs, **EXACT)
        assert optimiser.norms is not None
        expected = torch.tensor([[w, float(g.norm())] for w, g in zip(before, gradients(step), strict=True)])
        torch.testing.assert_close(optimiser.norms, expected.double(), rtol=1e-6, atol=0)


def test_the_length_of_a_step_is_a_share_of_the_weights() -> None:
    params = tensors(0)
    before = [p.clone() for p in params]
    run(LARS(params, lr=0.01), params, range(1), gradients)
    for old, new in zip(before, params, strict=True):
        assert float((new - old).norm()) == pytest.approx(0.01 * float(old.norm()), rel=1e-9)


def test_nothing_to_scale_by() -> None:
    params = tensors(0)
    params[0].zero_()  # zero weights: a plain step of eta * u
    found = gradients(0)
    found[1].zero_()  # a zero gradient: no step
    params[3].zero_()
    found[3].zero_()
    still = params[1].clone(), params[4].clone()
    optimiser = LARS(params, gradient_cap=0)
    run(optimiser, params, range(1), lambda step: found)
    torch.testing.assert_close(params[0], -0.007 * found[0].sign(), rtol=1e-5, atol=0)
    assert torch.equal(params[1], still[0])
    assert torch.equal(params[3], torch.zeros(1, dtype=torch.float64))
    assert not torch.equal(params[4], still[1])
    assert all(bool(p.isfinite().all()) for p in params)
    run(optimiser, params, range(1, 3), gradients)
    assert all(bool(p.isfinite().all()) for p in params)


def test_no_gradient_counts_as_zero() -> None:
    one, other = tensors(0), tensors(0)
    first, second = LARS(one), LARS(other)
    for step in range(3):
        found = gradients(step)
        found[2].zero_()
        run(first, one, range(1), lambda _, found=found: found)  # type: ignore[misc]
        for parameter, g in zip(other, found, strict=True):
            parameter.grad = g.clone()
        other[2].grad = None
        second.step()
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("cap", [0.0, 0.5])
def test_without_layers_it_is_adam(cap: float) -> None:
    ours, theirs = tensors(0), tensors(0)
    mine = LARS(ours, 0.02, (0.8, 0.99), 1e-6, cap, layerwise=False)
    adam = torch.optim.Adam(theirs, 0.02, (0.8, 0.99), 1e-6)
    for step in range(8):
        if step == 4:  # as a schedule does
            mine.param_groups[0]["lr"] = adam.param_groups[0]["lr"] = 0.005
        run(mine, ours, range(step, step + 1), gradients)
        for parameter, g in zip(theirs, gradients(step), strict=True):
            parameter.grad = g.clone()
        if cap:
            torch.nn.utils.clip_grad_norm_(theirs, cap)
        adam.step()
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("layerwise", [True, False])
def test_each_layer_at_its_own_rate(layerwise: bool) -> None:
    scales = [0.1, 1.0, 3.0, 1.0, 0.5]
    for number, scale in enumerate(scales):
        ours, theirs = tensors(0), tensors(0)
        mine, alone = LARS(ours, 0.02, layerwise=layerwise), LARS(theirs, 0.02 * scale, layerwise=layerwise)
        mine.set_layout(dict(mine._segments), len(ours), Alone(), scales)
        for step in range(4):
            run(mine, ours, range(step, step + 1), gradients)
            run(alone, theirs, range(step, step + 1), gradients)
            torch.testing.assert_close(ours[number], theirs[number], **EXACT)
    with pytest.raises(ValueError, match="2 scales for 5 layers"):
        mine.set_layout({}, 5, Alone(), [1.0, 2.0])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_changes_nothing(bad: float) -> None:
    params = tensors(0)
    optimiser = LARS(params)
    run(optimiser, params, range(2), gradients)
    before = [[p.clone(), *(moment.clone() for moment in optimiser.moments(p))] for p in params]
    found = gradients(2)
    found[3][0] = bad
    with pytest.raises(FloatingPointError, match="the gradients of 1 layers are not finite, the first is layer 3"):
        run(optimiser, params, range(1), lambda step: found)
    assert optimiser.steps == 2
    for parameter, tensors_before in zip(params, before, strict=True):
        now = [parameter, *optimiser.moments(parameter)]
        assert all(torch.equal(a, b) for a, b in zip(now, tensors_before, strict=True))


def test_what_a_recipe_asks_for() -> None:
    made = LARS.of(OptimiserConfig(name="adam", eta=0.1, beta1=0.5, eps=1e-3, gradient_cap=0), tensors(0))
    assert (made.layerwise, made.betas, made.eps, made.gradient_cap) == (False, (0.5, 0.999), 1e-3, 0)
    assert made.param_groups[0]["lr"] == 0.1
    default = LARS.of(OptimiserConfig(), tensors(0))
    assert (default.layerwise, default.gradient_cap, default.param_groups[0]["lr"]) == (True, 2.0, 0.007)
    with pytest.raises(ValueError, match="LARS takes one group of parameters"):
        LARS([{"params": tensors(0)}, {"params": tensors(1)}])  # type: ignore[list-item]


def test_closure() -> None:
    params = tensors(0)
    optimiser = LARS(params)

    def closure() -> float:
        for parameter, g in zip(params, gradients(0), strict=True):
            parameter.grad = g.clone()
        return 1.5

    assert optimiser.step(closure) == 1.5
    assert optimiser.step() is None


@pytest.mark.parametrize("layerwise", [True, False])
def test_saved_and_restored(layerwise: bool) -> None:
    params = tensors(0)
    optimiser = LARS(params, layerwise=layerwise)
    run(optimiser, params, range(3), gradients)
    file = io.BytesIO()
    torch.save({"optimiser": optimiser.state_dict(), "params": params}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    again: list[Tensor] = saved["params"]
    restored = LARS(again, layerwise=layerwise)
    restored.load_state_dict(saved["optimiser"])
    assert restored.steps == 3
    for old, new in zip(params, again, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(optimiser.moments(old), restored.moments(new), strict=True))
    run(optimiser, params, range(3, 6), gradients)
    run(restored, again, range(3, 6), gradients)
    assert all(torch.equal(a, b) for a, b in zip(params, again, strict=True))


@pytest.mark.parametrize("steps", [1, 4, 30])
def test_averages_of_the_weights(steps: int) -> None:
    params, plain = tensors(0), tensors(0)
    optimiser = LARS.of(OptimiserConfig(eta=0.02, average=0.8), params)
    expected = [p.detach().clone() for p in params]
    for step in range(steps):
        run(optimiser, params, range(step, step + 1), gradients)
        decay = min(0.8, (2 + step) / (11 + step))
        expected = [decay * e + (1 - decay) * p.detach() for e, p in zip(expected, params, strict=True)]
    for parameter, average in zip(params, expected, strict=True):
        torch.testing.assert_close(optimiser.averaged(parameter).view_as(average), average, **EXACT)
    run(LARS(plain, 0.02), plain, range(steps), gradients)  # what is averaged does not change what is learned
    assert all(torch.equal(a, b) for a, b in zip(params, plain, strict=True))


class Shard:
    """One worker's piece of all layers laid end to end, in a flat buffer with garbage before and behind."""

    def __init__(self, start: int, stop: int, before: int, behind: int) -> None:
        self.start, self.stop, self.before = start, stop, before
        self.buffer = torch.full((before + stop - start + behind,), float("nan"), dtype=torch.float64)
        self.buffer[before : before + stop - start] = torch.cat([t.flatten() for t in tensors(0)])[start:stop]
        self.segments: list[Segment] = []
        offset = 0
        for layer, tensor in enumerate(tensors(0)):
            low, high = max(start, offset), min(stop, offset + tensor.numel())
            if low < high:
                self.segments.append(Segment(layer, before + low - start, high - low, low - offset))
            offset += tensor.numel()

    def gradient(self, step: int) -> Tensor:
        flat = torch.full_like(self.buffer, float("inf"))  # garbage here too
        whole = torch.cat([t.flatten() for t in gradients(step)])[self.start : self.stop]
        flat[self.before : self.before + len(whole)] = whole
        return flat

    @property
    def real(self) -> Tensor:
        return self.buffer[self.before : self.before + self.stop - self.start]

    @property
    def padding(self) -> Tensor:
        return torch.cat([self.buffer[: self.before], self.buffer[self.before + self.stop - self.start :]])


TOTAL = sum(t.numel() for t in tensors(0))


@settings(deadline=None, max_examples=30)
@given(
    cuts=st.lists(st.integers(0, TOTAL), min_size=1, max_size=2).map(sorted),
    paddings=st.lists(st.integers(0, 3), min_size=6, max_size=6),
    layerwise=st.booleans(),
)
def test_cut_up_over_workers(cuts: list[int], paddings: list[int], layerwise: bool) -> None:
    whole = tensors(0)
    alone = LARS(whole, layerwise=layerwise)
    run(alone, whole, range(4), gradients)
    edges = [0, *cuts, TOTAL]

    def work(collectives: ThreadCollectives) -> tuple[Shard, Tensor | None]:
        rank = collectives.rank
        shard = Shard(edges[rank], edges[rank + 1], *paddings[2 * rank : 2 * rank + 2])
        optimiser = LARS([shard.buffer], layerwise=layerwise)
        optimiser.set_layout({id(shard.buffer): shard.segments}, len(SHAPES), collectives)
        run(optimiser, [shard.buffer], range(4), lambda step: [shard.gradient(step)])
        return shard, optimiser.norms

    made = in_threads(len(edges) - 1, work)
    together = torch.cat([shard.real for shard, _ in made])
    torch.testing.assert_close(together, torch.cat([t.flatten() for t in whole]), **EXACT)
    for shard, norms in made:
        assert bool(shard.padding.isnan().all())
        torch.testing.assert_close(norms, alone.norms, rtol=1e-9, atol=0)


def test_several_buffers_on_one_worker() -> None:
    whole = tensors(0)
    alone = LARS(whole)
    run(alone, whole, range(3), gradients)
    shards = [Shard(0, 9, 1, 0), Shard(9, TOTAL, 0, 2)]
    optimiser = LARS([shard.buffer for shard in shards])
    optimiser.set_layout({id(shard.buffer): shard.segments for shard in shards}, len(SHAPES), Alone())
    run(optimiser, [s.buffer for s in shards], range(3), lambda step: [s.gradient(step) for s in shards])
    expected = torch.cat([t.flatten() for t in whole])
    torch.testing.assert_close(torch.cat([s.real for s in shards]), expected, **EXACT)
