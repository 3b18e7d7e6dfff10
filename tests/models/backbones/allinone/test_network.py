"""All-in-one over workers as over one whole batch, its parts, its derivatives, and what it does with empty shares."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from distributed.collectives import WorldCollectives
from models.backbones.allinone.network import AllInOne
from models.backbones.video_language import Kind, VideoLanguageBatch
from models.meltr.machine import Network, OneProcess
from models.recompute import recompute
from tests.models.backbones.allinone import small
from tests.support.directions import slopes
from tests.support.workers import on_workers


def means(network: AllInOne, whole: VideoLanguageBatch, names: tuple[str, ...]) -> Tensor:
    weights = network.config.weights(whole, names)
    return torch.tensor([weights[name] for name in names], dtype=torch.float64)


def course(kind: Kind, network: AllInOne, mine: VideoLanguageBatch, whole: VideoLanguageBatch) -> list[list[float]]:
    """The shares of the mean losses of one worker, then each parameter's gradient of their weighted sum."""
    names = small.names(kind)
    losses = network(mine, names)
    shares = torch.stack([losses[name] for name in names]) / means(network, whole, names)
    (torch.linspace(0.5, 2, len(names), dtype=torch.float64) * shares).sum().backward()
    parameters = [p.grad if p.grad is not None else torch.full_like(p, torch.nan) for p in network.parameters()]
    return [shares.tolist(), *(gradient.flatten().tolist() for gradient in parameters)]


def of_worker(kind: Kind, sizes: tuple[int, ...]) -> list[list[float]]:
    network, whole = small.network(kind), small.batch(kind)
    network.collectives = collectives = WorldCollectives()
    rank = torch.distributed.get_rank()
    start = sum(sizes[:rank])
    assert collectives.world_size == len(sizes)
    return course(kind, network, whole.rows(slice(start, start + sizes[rank])), whole)


@pytest.mark.parametrize("sizes", [(4, 3), (7, 0)])
@pytest.mark.parametrize("kind", small.KINDS)
def test_workers_see_one_batch(kind: Kind, sizes: tuple[int, ...]) -> None:
    whole = small.batch(kind)
    expected = course(kind, small.network(kind), whole, whole)
    for ours, *theirs in zip(expected, *on_workers(len(sizes), of_worker, kind, sizes), strict=True):
        total = torch.tensor(theirs, dtype=torch.float64).sum(0)
        torch.testing.assert_close(total, torch.tensor(ours, dtype=torch.float64), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("kind", small.KINDS)
def test_the_order_of_samples_changes_nothing(kind: Kind) -> None:
    whole = small.batch(kind)
    turned = replace(whole, **{name: tensor.flip(0) for name, tensor in vars(whole).items()})
    network, names = small.network(kind), small.names(kind)
    expected, found = network(whole, names), network(turned, names)
    for name in names:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-10, atol=1e-12, msg=name)


@pytest.mark.parametrize("samples", [0, 1, 2, 7])
@pytest.mark.parametrize("kind", small.KINDS)
def test_micro_batches_change_nothing(kind: Kind, samples: int) -> None:
    whole, found = small.batch(kind, max(1, samples)).rows(slice(0, samples)), []
    for parts in (1, 3):
        network = small.network(kind)
        network.micro_batches = parts
        found.append(course(kind, network, whole, small.batch(kind)))
    for one, three in zip(*found, strict=True):
        assert torch.tensor(one).isfinite().all()  # every parameter took part
        torch.testing.assert_close(torch.tensor(three), torch.tensor(one), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("kind", small.KINDS)
def test_each_loss_is_what_it_is_beside_others(kind: Kind) -> None:
    network, whole, names = small.network(kind), small.batch(kind), small.names(kind)
    together = network(whole, names)
    assert list(together) == list(names)
    for name in names:
        torch.testing.assert_close(network(whole, (name,))[name], together[name], msg=name)
        assert float(together[name].detach()) != 0


def evaluate(kind: Kind) -> Callable[[Network], Tensor]:
    names, whole = small.names(kind), small.batch(kind)
    return lambda network: torch.stack(list(network(whole, names).values()))


@pytest.mark.parametrize("kind", ["retrieval", "open_ended"])
def test_forward_mode_is_the_gradients_product(kind: Kind) -> None:
    machine, losses = OneProcess(small.network(kind)), evaluate(kind)
    found, expected = slopes(machine, losses)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)


def test_recomputed_blocks_change_nothing() -> None:
    found = []
    for recomputed in (False, True):
        network = small.network("retrieval")
        if recomputed:
            recompute(network.blocks())
        evaluate("retrieval")(network).sum().backward()
        found.append([p.grad for p in network.parameters()])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kind", small.KINDS)
def test_bf16_stays_near(kind: Kind) -> None:
    network = small.network(kind).bfloat16()
    losses = evaluate(kind)(network)
    losses.sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in network.parameters() if p.grad is not None)
    exact = evaluate(kind)(small.network(kind)).detach()
    torch.testing.assert_close(losses.detach().double(), exact, rtol=0.1, atol=0.1)


def test_dropout_and_stochastic_depth_are_of_training_alone() -> None:
    whole = small.batch("open_ended")
    for changes in ({"dropout": 0.5}, {"stochastic_depth": 0.5}, {"answer_dropout": 0.5}):
        network = small.network("open_ended", **changes)
        expected = small.network("open_ended").answer(whole)
        assert torch.equal(network.eval().answer(whole), expected)
        assert not torch.equal(network.train().answer(whole), expected)


def test_nothing_hidden_is_no_loss_and_no_nan() -> None:
    whole = small.batch("retrieval")
    bare = replace(whole, token_labels=torch.full_like(whole.ids, -1), hidden=torch.zeros_like(whole.hidden))
    losses = small.network("retrieval")(bare, ("mlm", "mvm"))
    torch.stack(list(losses.values())).sum().backward()
    assert [loss.item() for loss in losses.values()] == [0, 0]


def test_what_is_hidden_is_guessed_from_the_rest() -> None:
    network, whole = small.network("recognition"), small.batch("recognition")
    hidden = whole.hidden.repeat_interleave(small.PATCH, -1).repeat_interleave(small.PATCH, -2)[:, :, None]
    expected = network(whole, ("mvm",))["mvm"]
    for where, same in ((hidden, True), (~hidden, False)):
        other = replace(whole, frames=torch.where(where, whole.frames.flip(-1), whole.frames))
        assert torch.equal(network(other, ("mvm",))["mvm"], expected) is same


def test_one_sample_keeps_its_text_and_ranks_first() -> None:
    """Also where all others say the same: there is nothing to tell apart."""
    network, alike = small.network("retrieval"), small.batch("retrieval").rows(slice(5, 7))
    for whole in (alike, alike.rows(slice(0, 1))):
        assert float(network(whole, ("irtr",))["irtr"].detach()) == pytest.approx(0)
        tokens = network.image_tokens(whole.frames)
        pairs = network._pairs(whole)
        assert pairs.match.all()
        assert torch.equal(pairs.ids, whole.ids[:, 0])
        assert network.orders(whole.seeds, tokens).shape == (len(whole.ids), small.FRAMES, 16)


def test_scores_are_those_that_the_losses_are_of() -> None:
    for kind, name in (("multiple_choice", "mc"), ("open_ended", "oe"), ("recognition", "recognition")):
        network, whole = small.network(kind), small.batch(kind)  # type: ignore[arg-type]
        scores, known = network.answer(whole), whole.answers >= 0
        expected = torch.nn.functional.cross_entropy(scores[known], whole.answers[known], reduction="sum")
        torch.testing.assert_close(network(whole, (name,))[name], expected)
    network, whole = small.network("retrieval"), small.batch("retrieval")
    scores = network.similarity(network.encode_texts(whole.ids[:, 0]), network.encode_videos(whole.frames, whole.seeds))
    labels = torch.arange(len(scores))
    both = [torch.nn.functional.cross_entropy(s / 0.05, labels, reduction="sum") for s in (scores, scores.T)]
    torch.testing.assert_close(network(whole, ("itc",))["itc"], both[0] + both[1])


def test_frames_exchange_patches_only_beside_a_text() -> None:
    """Another third frame changes what the joint pass says of the first one's patches, and not the pass alone."""
    network, whole = small.network("open_ended"), small.batch("open_ended", 1)
    frames = whole.frames.clone()
    frames[:, 2] = 0.5
    before, after = network.image_tokens(whole.frames), network.image_tokens(frames)
    assert torch.equal(network.alone(before)[:, :2], network.alone(after)[:, :2])
    assert not torch.equal(network.alone(before)[:, 2], network.alone(after)[:, 2])
    orders = network.orders(whole.seeds, before)
    assert not torch.equal(orders, network.orders(whole.seeds + 1, before))
    raster = small.network("open_ended", patch_order="raster")
    assert torch.equal(raster.orders(whole.seeds, before), torch.arange(16).expand(1, small.FRAMES, 16))
    assert not torch.allclose(raster.answer(whole), network.answer(whole))
