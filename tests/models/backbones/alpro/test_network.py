"""ALPRO over workers as over one whole batch, its derivatives, its precision, and what it does with empty shares."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from models.backbones.video_language import Kind
from models.meltr.machine import Network, OneProcess
from models.recompute import recompute
from tests.models.backbones.alpro import small
from tests.support.directions import slopes
from tests.support.workers import on_workers

Shares = tuple[slice, ...]
EVERY_SECOND: Shares = (slice(0, None, 2), slice(1, None, 2))
ONE_IDLE: Shares = (slice(0, 0), slice(0, None))


def weighted(losses: dict[str, Tensor]) -> Tensor:
    """A sum in which no loss can stand for another."""
    factors = torch.linspace(0.5, 2, len(losses), dtype=torch.float64)
    return (factors * torch.stack([loss.double() for loss in losses.values()])).sum()


def measured(network: Any, batch: Any, kind: Kind) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Losses, and gradients by parameter."""
    losses = network(batch, small.names(kind))
    weighted(losses).backward()
    gradients = {name: p.grad.flatten().tolist() for name, p in network.named_parameters() if p.grad is not None}
    return {name: loss.item() for name, loss in losses.items()}, gradients


def work(cases: list[tuple[Kind, Shares]]) -> list[tuple[dict[str, float], dict[str, list[float]]]]:
    import torch.distributed as dist

    from distributed.collectives import WorldCollectives

    found = []
    for kind, shares in cases:
        network = small.network(kind)
        network.collectives = WorldCollectives()
        found.append(measured(network, small.batch(7, kind).rows(shares[dist.get_rank()]), kind))
    return found


def test_two_workers_see_one_batch() -> None:
    cases: list[tuple[Kind, Shares]] = [(kind, EVERY_SECOND) for kind in small.KINDS] + [("retrieval", ONE_IDLE)]
    for (kind, _), first, second in zip(cases, *on_workers(2, work, cases), strict=True):
        losses, gradients = measured(small.network(kind), small.batch(7, kind), kind)
        for name, loss in losses.items():
            assert first[0][name] + second[0][name] == pytest.approx(loss, rel=1e-6), (kind, name)
        assert set(first[1]) == set(second[1]) == set(gradients)
        for name, gradient in gradients.items():
            both = torch.tensor(first[1][name]) + torch.tensor(second[1][name])
            torch.testing.assert_close(both, torch.tensor(gradient), rtol=1e-4, atol=1e-5, msg=f"{kind} {name}")


def same(ours: tuple[dict[str, float], dict[str, list[float]]], theirs: Any) -> None:
    assert ours[0] == pytest.approx(theirs[0], rel=1e-6)
    assert set(ours[1]) == set(theirs[1])
    for name, gradient in ours[1].items():
        torch.testing.assert_close(
            torch.tensor(gradient), torch.tensor(theirs[1][name]), rtol=1e-4, atol=1e-5, msg=name
        )


@pytest.mark.parametrize("kind", small.KINDS)
@pytest.mark.parametrize("samples", [7, 2])
def test_micro_batches_and_recomputed_blocks_change_nothing(kind: Kind, samples: int) -> None:
    batch, network = small.batch(samples, kind), small.network(kind)
    expected = measured(network, batch, kind)
    parts = small.network(kind)
    parts.micro_batches = 3
    calls: list[int] = []
    parts.visual_encoder.register_forward_hook(lambda _, inputs, __: calls.append(len(inputs[0])))
    same(measured(parts, batch, kind), expected)
    assert max(calls) <= -(-samples // 3)
    again = small.network(kind)
    recompute(again.blocks())
    same(measured(again, batch, kind), expected)


@pytest.mark.parametrize("kind", small.KINDS)
@pytest.mark.parametrize("parts", [1, 2])
def test_no_samples_are_no_loss_and_reach_every_parameter(kind: Kind, parts: int) -> None:
    network = small.network(kind)
    network.micro_batches = parts
    losses, gradients = measured(network, small.batch(2, kind).rows(slice(0, 0)), kind)
    assert set(losses.values()) == {0.0}
    assert set(gradients) == {name for name, _ in network.named_parameters()}
    assert not any(any(gradient) for gradient in gradients.values())


@pytest.mark.parametrize("kind", small.KINDS)
def test_every_parameter_is_trained_and_belongs_somewhere(kind: Kind) -> None:
    network = small.network(kind)
    _, gradients = measured(network, small.batch(7, kind), kind)
    assert set(gradients) == {name for name, _ in network.named_parameters()}
    parts = {network.component_of(name) for name in gradients}
    assert parts == ({"video", "heads"} if kind == "recognition" else set(network.config.COMPONENTS))
    if kind == "retrieval":
        assert network.component_of("text_encoder.bert.encoder.layer.5.output.dense.bias") == "text"
        assert network.component_of("text_encoder.bert.encoder.layer.6.output.dense.bias") == "cross"
        assert network.component_of("text_encoder.cls.predictions.bias") == "heads"


@pytest.mark.parametrize("kind", small.KINDS)
def test_each_loss_alone_is_what_it_is_among_all(kind: Kind) -> None:
    network, batch = small.network(kind), small.batch(5, kind)
    together = network(batch, small.names(kind))
    for name in small.names(kind):
        alone = network(batch, (name,))
        assert list(alone) == [name]
        torch.testing.assert_close(alone[name], together[name])


@pytest.mark.parametrize("kind", small.KINDS)
def test_weights_are_what_losses_are_summed_over(kind: Kind) -> None:
    batch = small.batch(7, kind)
    weights = small.config().weights(batch, small.names(kind))
    words, cells = float((batch.token_labels != -1).sum()), float(batch.hidden.sum())
    known = float((batch.answers != -1).sum())
    counts = {"mlm": words, "mvm": cells, "mc": known, "oe": known, "recognition": known}
    assert weights == {name: counts.get(name, 7.0) for name in small.names(kind)}


def test_forward_mode_is_the_gradients_product() -> None:
    names, batch = small.names("retrieval"), small.batch(4)

    def evaluate(network: Network) -> Tensor:
        losses = network(batch, names)
        return torch.stack([losses[name] for name in names])

    machine = OneProcess(small.network())
    found, expected = slopes(machine, evaluate)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", small.KINDS)
def test_bf16_stays_finite(kind: Kind) -> None:
    network, batch = small.network(kind).bfloat16(), small.batch(7, kind)
    losses = network(batch, small.names(kind))
    weighted(losses).backward()
    assert all(bool(p.grad.isfinite().all()) for p in network.parameters() if p.grad is not None)
    exact = small.network(kind)(batch, small.names(kind))
    for name in set(losses) - {"vtm", "pem"}:  # another negative may be drawn, and a crop may fall below the threshold
        torch.testing.assert_close(losses[name].double(), exact[name], rtol=0.1, atol=0.2)


def test_padding_is_seen_by_no_one() -> None:
    network, batch = small.network(), small.batch()
    wider = torch.nn.functional.pad
    padded = replace(
        batch,
        ids=wider(batch.ids, (0, 3)),
        masked_ids=wider(batch.masked_ids, (0, 3)),
        token_labels=wider(batch.token_labels, (0, 3), value=-1),
    )
    found, expected = (network(each, small.names("retrieval")) for each in (padded, batch))
    for name, loss in found.items():
        torch.testing.assert_close(loss, expected[name], msg=name)


@torch.no_grad()
def test_similarities_by_each_ranking() -> None:
    batch = small.batch(3)
    scores = {}
    for ranking in ("vtc", "vtm", "both"):
        network = small.network(ranking=ranking, pairs_at_once=2)
        texts = network.encode_texts(batch.ids[:2, 0])
        videos = network.encode_videos(batch.frames, batch.seeds)
        scores[ranking] = network.similarity(texts, videos)
        assert scores[ranking].shape == (2, 3)
        assert network.similarity(tuple(part[:0] for part in texts), videos).shape == (0, 3)
    torch.testing.assert_close(scores["both"], scores["vtc"] + scores["vtm"])
    text, mask, video = texts[1], texts[2], videos[1]
    for i in range(2):
        for j in range(3):
            state = network.text_encoder.bert.fuse(text[i : i + 1], mask[i : i + 1], video[j : j + 1])[0, 0]
            odds = network.itm_head(state).softmax(0)
            torch.testing.assert_close(scores["vtm"][i, j], (odds[1] / odds[0]).log())
            torch.testing.assert_close(scores["vtc"][i, j], texts[0][i] @ videos[0][j] / network.temp[0])


@torch.no_grad()
@pytest.mark.parametrize(("kind", "width"), [("multiple_choice", 3), ("open_ended", 5), ("recognition", 5)])
def test_answers_are_what_the_loss_learns(kind: Kind, width: int) -> None:
    network, batch = small.network(kind), small.batch(6, kind)
    scores = network.answer(batch)
    assert scores.shape == (6, width)
    known = batch.answers >= 0
    expected = -scores.log_softmax(1)[known].gather(1, batch.answers[known, None]).sum()
    torch.testing.assert_close(network(batch, small.names(kind))[small.names(kind)[0]], expected)


def test_what_a_network_of_another_kind_cannot_do() -> None:
    with pytest.raises(NotImplementedError, match="does not answer questions"):
        small.network().answer(small.batch(1))
