"""Violet over workers as over one whole batch, its derivatives, what its losses see, and empty shares."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.backbones.video_language import Kind, VideoLanguageBatch
from models.backbones.violet.config import PRIMARY
from models.backbones.violet.network import Violet
from models.meltr.machine import Network, OneProcess
from models.normalisation import synchronise
from models.recompute import recompute
from tests.models.backbones.violet import small
from tests.support.directions import slopes
from tests.support.workers import on_workers

MATCHING_HEADS = {"retrieval": "fc", "multiple_choice": "fc_vtm", "open_ended": "fc_vtm"}
every_kind = pytest.mark.parametrize("kind", small.KINDS)


def gradients(network: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


def share_of_workers(kind: Kind, splits: list[int], chunk: int) -> tuple[list[float], dict[str, list[float]]]:
    """On a worker: the mean losses of its rows of the batch, from the split of its rank to the next, and gradients."""
    import torch.distributed as dist

    from distributed.collectives import WorldCollectives

    network, whole = small.network(kind, pair_chunk=chunk), small.batch(kind)
    synchronise(network, WorldCollectives())
    rank = dist.get_rank()
    losses = small.means(network, whole.rows(slice(splits[rank], splits[rank + 1])), whole)
    losses.sum().backward()
    return losses.tolist(), {name: gradient.flatten().tolist() for name, gradient in gradients(network).items()}


@pytest.mark.parametrize(
    ("kind", "splits", "chunk"),
    [("retrieval", [0, 2, 5], 3), ("retrieval", [0, 5, 5], 64), ("multiple_choice", [0, 0, 5], 12)],
)
def test_workers_see_one_batch(kind: Kind, splits: list[int], chunk: int) -> None:
    network, whole = small.network(kind), small.batch(kind)
    expected = small.means(network, whole, whole)
    expected.sum().backward()
    found = on_workers(2, share_of_workers, kind, splits, chunk)
    total = torch.tensor([losses for losses, _ in found], dtype=torch.float64).sum(0)
    torch.testing.assert_close(total, expected.detach(), rtol=1e-10, atol=1e-12)
    for name, gradient in gradients(network).items():
        theirs = torch.tensor([of_worker[name] for _, of_worker in found], dtype=torch.float64).sum(0)
        torch.testing.assert_close(theirs, gradient.flatten(), rtol=1e-8, atol=1e-10, msg=name)


@every_kind
@pytest.mark.parametrize(("samples", "parts"), [(5, 3), (2, 4), (0, 2)])
def test_micro_batches_change_nothing(kind: Kind, samples: int, parts: int) -> None:
    batch = small.batch(kind).rows(slice(0, samples))
    losses, found = [], []
    for count in (1, parts):
        network = small.network(kind)
        network.micro_batches, calls = count, list[int]()
        network.enc_img.register_forward_hook(lambda _, inputs, __, calls=calls: calls.append(len(inputs[0])))
        losses.append(torch.stack(list(network(batch, small.names(kind)).values())))
        assert len(calls) == 2 * count
        assert max(calls) == -(-samples // count)
        losses[-1].sum().backward()
        found.append(gradients(network))
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-10, atol=1e-12)
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], rtol=1e-8, atol=1e-10, msg=name)


@every_kind
@pytest.mark.parametrize("samples", [0, 2])
def test_every_parameter_takes_part_in_every_loss(kind: Kind, samples: int) -> None:
    batch = small.batch(kind).rows(slice(0, samples))
    for name in small.names(kind):
        network = small.network(kind)
        (loss,) = network(batch, (name,)).values()
        loss.backward()
        found = gradients(network)
        assert set(found) == {name for name, _ in network.named_parameters()}
        assert all(bool(gradient.isfinite().all()) for gradient in found.values())
        if not samples:
            assert loss.item() == 0
            assert not any(bool(gradient.any()) for gradient in found.values())


def changed(kind: Kind, change: Callable[[VideoLanguageBatch], VideoLanguageBatch], **options: Any) -> set[str]:
    """The losses that a change of the batch changes."""
    network, batch = small.network(kind, **options), small.batch(kind)
    with torch.no_grad():
        before, after = (network(x, small.names(kind)) for x in (batch, change(batch)))
    return {name for name in before if not torch.equal(before[name], after[name])}


def hide_more(batch: VideoLanguageBatch) -> VideoLanguageBatch:
    """More black cells, without a label."""
    more = batch.hidden.clone()
    more[:, 0] = True
    return replace(batch, hidden=more, cell_tokens=batch.cell_tokens.masked_fill(more & ~batch.hidden, -1))


def mask_more(batch: VideoLanguageBatch) -> VideoLanguageBatch:
    masked = batch.masked_ids.clone()
    masked[..., 1] = 3
    return replace(batch, masked_ids=masked)


@every_kind
def test_only_the_losses_of_masked_views_see_them(kind: Kind) -> None:
    masked = {"mtm", "mvm"} & set(small.names(kind))
    assert changed(kind, hide_more) == masked
    assert changed(kind, mask_more) == masked
    assert changed(kind, hide_more, released_masking=True) == set(small.names(kind))
    assert changed(kind, mask_more, released_masking=True) == masked


@torch.no_grad()
def crossed(network: Violet, frames: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """One video (T, 3, h, w) and one text (X,), padding cut off -> states of the cells (L, H) and words (X', H)."""
    cells, words = network.enc_img(frames[None]), network.enc_txt(ids[ids != 0][None])
    states = network.trsfr(torch.cat([cells, words], 1), torch.zeros(1, 1, 1, 1).double())[0]  # the official order
    return states[: cells.shape[1]], states[cells.shape[1] :]


@pytest.mark.parametrize(("kind", "head"), list(MATCHING_HEADS.items()))
def test_matching_one_pair_at_a_time(kind: Kind, head: str) -> None:
    """Each video has to find its own text, in multiple choice its right option, among those of all samples."""
    network, batch = small.network(kind), small.batch(kind)
    own = batch.answers if kind == "multiple_choice" else torch.zeros_like(batch.answers)
    texts = [ids[int(option)] for ids, option in zip(batch.ids, own, strict=True)]
    expected = 0.0
    for number, frames in enumerate(batch.frames):
        states = [crossed(network, frames, ids)[1][0] for ids in texts]
        scores = [network.get_submodule(head)(state).item() / 0.05 for state in states]
        expected += math.log(sum(math.exp(score - scores[number]) for score in scores))
    assert network(batch, ("vtm",))["vtm"].item() == pytest.approx(expected, rel=1e-8)


@every_kind
def test_masked_losses_one_place_at_a_time(kind: Kind) -> None:
    network, batch = small.network(kind), small.batch(kind)
    expected = dict.fromkeys(("mtm", "mvm"), 0.0)
    for n, frames in enumerate(batch.masked_frames):
        right = int(batch.answers[n]) if kind == "multiple_choice" else 0
        for option, ids in enumerate(batch.masked_ids[n]):
            cells, words = crossed(network, frames, ids)
            for place, label in enumerate(batch.token_labels[n, option]):
                if label != -1:
                    expected["mtm"] += F.cross_entropy(network._head("mtm", words[place]), label).item()
            for t, y, x in batch.hidden[n].nonzero().tolist():
                if option == right:
                    scores = network._head("mvm", cells[t * 5 + 1 + 2 * y + x])  # 4 cells, after the frame's own token
                    expected["mvm"] += F.cross_entropy(scores, batch.cell_tokens[n, t, y, x]).item()
    for name in {"mtm", "mvm"} & set(small.names(kind)):
        assert network(batch, (name,))[name].item() == pytest.approx(expected[name], rel=1e-9), name


@pytest.mark.parametrize(("kind", "head"), list(PRIMARY.items())[1:])
def test_answers_one_text_at_a_time(kind: Kind, head: str) -> None:
    network, batch = small.network(kind), small.batch(kind)
    with torch.no_grad():
        found = network.answer(hide_more(batch))
        for scores, frames, texts in zip(found, batch.frames, batch.ids, strict=True):
            expected = torch.cat([network._head(head, crossed(network, frames, ids)[1][0]) for ids in texts])
            torch.testing.assert_close(scores, expected)
        loss = network(batch, (head,))[head]
    known = batch.answers != -1
    torch.testing.assert_close(loss, F.cross_entropy(found[known], batch.answers[known], reduction="sum"))


def test_what_is_not_asked_of_a_kind_of_task() -> None:
    with pytest.raises(NotImplementedError):
        small.network().answer(small.batch())
    assert small.config().losses("retrieval", 0) == ("vtm", "mtm")
    assert small.config().losses("recognition", 0) == ("recognition",)
    without = Violet(small.config(), small.setting("retrieval", codes=0))
    assert not any(name.startswith("fc_mvm") for name, _ in without.named_parameters())
    assert set(without(replace(small.batch(), frames=small.batch().frames.float()), ("vtm", "mtm"))) == {"vtm", "mtm"}


def evaluate(network: Network) -> Tensor:
    batch = small.batch()
    losses = network(batch, small.names("retrieval"))
    weights = small.config().weights(batch, small.names("retrieval"))
    return torch.stack([losses[name] / weights[name] for name in losses])


@pytest.mark.parametrize("chunk", [3, 64])
def test_forward_mode_is_the_gradients_product(chunk: int) -> None:
    machine = OneProcess(small.network(pair_chunk=chunk))
    found, expected = slopes(machine, evaluate)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)


def test_chunks_and_recomputed_blocks_change_nothing() -> None:
    found = []
    for chunk, recomputed in ((64, False), (1, False), (7, False), (4, True)):
        network = small.network(pair_chunk=chunk)
        assert len(network.blocks()) == sum(network.config.depths) + network.config.layers
        if recomputed:
            recompute(network.blocks())
        loss = evaluate(network)
        loss.sum().backward()
        found.append((loss.detach(), gradients(network)))
    for loss, theirs in found[1:]:
        torch.testing.assert_close(loss, found[0][0], rtol=1e-10, atol=1e-12)
        for name, gradient in found[0][1].items():
            torch.testing.assert_close(theirs[name], gradient, rtol=1e-8, atol=1e-10, msg=name)


def test_similarity_of_unequal_numbers() -> None:
    network, batch = small.network(pair_chunk=3), small.batch()
    with torch.no_grad():
        texts, videos = network.encode_texts(batch.ids[:4, 0]), network.encode_videos(batch.frames, batch.seeds)
        whole = network.similarity(texts, videos)
        assert whole.shape == (4, 5)
        for k in range(4):
            alone = network.similarity(tuple(t[k : k + 1] for t in texts), tuple(v[2:3] for v in videos))
            torch.testing.assert_close(alone[0, 0], whole[k, 2])
        empty = network.similarity(texts, tuple(v[:0] for v in videos), most=5)
        assert empty.shape == (4, 0)


def test_bf16_stays_finite() -> None:
    network = small.network().bfloat16()
    losses = evaluate(network)
    losses.sum().backward()
    assert bool(losses.isfinite().all())
    assert all(bool(gradient.isfinite().all()) for gradient in gradients(network).values())
    torch.testing.assert_close(losses.detach().double(), evaluate(small.network()).detach(), rtol=0.15, atol=0.15)


def test_nothing_masked_is_no_loss_and_no_nan() -> None:
    whole = small.batch()
    batch = replace(whole, token_labels=torch.full_like(whole.ids, -1), hidden=torch.zeros_like(whole.hidden))
    losses = small.network()(batch, ("mtm", "mvm"))
    torch.stack(list(losses.values())).sum().backward()
    assert [loss.item() for loss in losses.values()] == [0, 0]


def test_dropout_is_of_training_alone() -> None:
    network, batch = small.network(dropout=0.3, stochastic_depth=0.3), small.batch()
    with torch.no_grad():
        expected = small.network()(batch, ("vtm",))["vtm"]
        assert torch.equal(network.eval()(batch, ("vtm",))["vtm"], expected)
        assert not torch.equal(network.train()(batch, ("vtm",))["vtm"], expected)
