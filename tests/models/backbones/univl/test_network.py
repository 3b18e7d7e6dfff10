"""UniVL over workers as over one whole batch, its derivatives, its precision, and what it does with empty shares."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from models.backbones.univl.losses import contrastive_loss
from models.backbones.univl.network import LOSSES, UniVLBatch, loss_weights
from models.collectives import Alone
from models.meltr.machine import Network, OneProcess
from models.normalisation import synchronise
from models.recompute import recompute
from tests.models.backbones.univl import small
from tests.models.backbones.univl.vectors import share
from tests.reference.threads import ThreadCollectives, in_threads
from tests.support.directions import slopes

NAMES = (*LOSSES, "sentiment")


def means(batch: UniVLBatch) -> Tensor:
    """(T,) weights of the whole batch."""
    weights = loss_weights(batch, small.network().config)
    return torch.tensor([weights[name] for name in NAMES], dtype=torch.float64)


@pytest.mark.parametrize("joint", ["margin", "contrastive"])
@pytest.mark.parametrize("sizes", [(7,), (4, 3), (5, 0, 2)])
def test_workers_see_one_batch(sizes: tuple[int, ...], joint: str) -> None:
    whole = small.batch()
    alone = small.network(joint_loss=joint)
    expected = torch.stack([alone(whole, NAMES)[name] for name in NAMES]) / means(whole)
    factors = torch.linspace(0.5, 2, len(NAMES), dtype=torch.float64)
    (factors * expected).sum().backward()
    networks = [
        small.network(joint_loss=joint) for _ in sizes
    ]  # not in the threads, which share one source of random numbers
    starts = [sum(sizes[:rank]) for rank in range(len(sizes))]

    def work(collectives: ThreadCollectives) -> Tensor:
        network, start = networks[collectives.rank], starts[collectives.rank]
        synchronise(network, collectives)
        mine = share(whole, slice(start, start + sizes[collectives.rank]))
        losses = network(mine, NAMES)
        shares = torch.stack([losses[name] for name in NAMES]) / means(whole)
        (factors * shares).sum().backward()
        return shares.detach()

    found = torch.stack(in_threads(len(sizes), work)).sum(0)
    torch.testing.assert_close(found, expected.detach(), rtol=1e-9, atol=1e-10)
    parameters = [dict(network.named_parameters()) for network in networks]
    for name, parameter in alone.named_parameters():
        parts = [theirs[name].grad for theirs in parameters]
        total = sum((part for part in parts if part is not None), torch.zeros_like(parameter))
        wanted = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(total, wanted, rtol=1e-8, atol=1e-10, msg=name)


def test_the_contrastive_loss_one_pair_at_a_time() -> None:
    source = torch.Generator().manual_seed(0)
    text, video = torch.randn(2, 4, 3, dtype=torch.float64, generator=source)
    expected = 0.0
    for i in range(4):
        for ours, theirs in ((text, video), (video, text)):
            against = [math.exp(float(ours[i] @ theirs[j]) / 0.2) for j in range(4)]
            expected -= math.log(against[i] / sum(against)) / 2
    assert float(contrastive_loss(text, video, 0.2, Alone())) == pytest.approx(expected, rel=1e-12)


def test_feature_dropout_is_of_training_alone() -> None:
    network, batch = small.network(feature_dropout=0.5), small.batch()
    with torch.no_grad():
        expected = small.network().encode_video(batch.video, batch.video_mask)
        assert torch.equal(network.eval().encode_video(batch.video, batch.video_mask), expected)
        assert not torch.equal(network.train().encode_video(batch.video, batch.video_mask), expected)


def evaluate(network: Network) -> Tensor:
    whole = small.batch()
    losses = network(whole, NAMES)
    return torch.stack([losses[name] for name in NAMES]) / means(whole).to(losses["joint"])


@pytest.mark.parametrize("chunk", [3, 1024])
def test_forward_mode_is_the_gradients_product(chunk: int) -> None:
    machine = OneProcess(small.network(align_chunk=chunk))
    found, expected = slopes(machine, evaluate)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)


def test_chunks_and_recomputed_blocks_change_nothing() -> None:
    gradients = []
    for changes, recomputed in (({}, False), ({"align_chunk": 5}, False), ({}, True)):
        network = small.network(**changes)
        if recomputed:
            recompute(network.blocks())
        loss = evaluate(network).sum()
        loss.backward()
        gradients.append([loss.detach(), *(p.grad for p in network.parameters() if p.grad is not None)])
    for other in gradients[1:]:
        for ours, theirs in zip(other, gradients[0], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("own_text", [False, True])
@pytest.mark.parametrize(("samples", "parts"), [(7, 3), (2, 4), (0, 2)])
def test_micro_batches_change_nothing(samples: int, parts: int, own_text: bool) -> None:
    batch = small.batch(max(1, samples)).rows(slice(0, samples))
    if own_text:
        batch = replace(batch, memory_ids=batch.ids[:, :2])
    gradients, losses = [], []
    for count in (1, parts):
        network = small.network()
        network.micro_batches = count
        calls: list[int] = []
        network.bert.register_forward_hook(lambda _, inputs, __, calls=calls: calls.append(len(inputs[0])))
        found = network(batch, NAMES)
        assert max(calls) <= -(-samples // count)
        losses.append(torch.stack([found[name] for name in NAMES]))
        (torch.linspace(0.5, 2, len(NAMES), dtype=torch.float64) * losses[-1]).sum().backward()
        gradients.append({n: p.grad for n, p in network.named_parameters() if p.grad is not None})
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-10, atol=1e-12)
    assert set(gradients[0]) == set(gradients[1])
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-8, atol=1e-10, msg=name)


def test_micro_batches_keep_little() -> None:
    """What autograd keeps until the backward pass: that of a part is made again, and is not among it."""
    names = tuple(name for name in NAMES if "align" not in name)  # that looks at pairs, and has chunks of its own
    kept = []
    for parts in (1, 4):
        network = small.network()
        network.micro_batches, sizes = parts, list[int]()

        def keep(tensor: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            losses = network(small.batch(64), names)
        assert set(losses) == set(names)
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 5


def test_bf16_stays_finite() -> None:
    network = small.network().bfloat16()
    losses = evaluate(network)
    losses.sum().backward()
    assert bool(losses.isfinite().all())
    assert all(bool(p.grad.isfinite().all()) for p in network.parameters() if p.grad is not None)
    exact = evaluate(small.network()).detach()
    torch.testing.assert_close(losses.detach().double(), exact, rtol=0.1, atol=0.1)


def test_nothing_masked_is_no_loss_and_no_nan() -> None:
    whole = small.batch()
    batch = replace(
        whole, token_labels=torch.full_like(whole.ids, -1), frame_labels=torch.full_like(whole.video_mask, -1)
    )
    network = small.network()
    losses, weights = network(batch, ("cmlm", "cmfm")), loss_weights(batch, network.config)
    assert (weights["cmlm"], weights["cmfm"]) == (0, 0)
    torch.stack(list(losses.values())).sum().backward()
    assert [loss.item() for loss in losses.values()] == [0, 0]


def test_padding_is_no_target_unless_asked_for() -> None:
    batch = small.batch()
    padded = int((batch.caption_labels == 0).sum())
    assert padded > 0
    without, including = (
        loss_weights(batch, small.network(train_padding=flag).config)["decoder"] for flag in (False, True)
    )
    assert including - without == padded


def test_padded_words_and_frames_change_no_loss_but_cmfm() -> None:
    """Through the masks, padding is seen by no one."""
    whole, network = small.batch(), small.network()
    names = tuple(name for name in NAMES if name != "cmfm")
    garbled = replace(
        whole,
        ids=torch.where(whole.mask == 1, whole.ids, 7),
        video=torch.where(whole.video_mask[..., None] == 1, whole.video, 3.0),
        masked_video=torch.where(whole.video_mask[..., None] == 1, whole.masked_video, -2.0),
    )
    for name in names:
        torch.testing.assert_close(network(garbled, names)[name], network(whole, names)[name], msg=name)
