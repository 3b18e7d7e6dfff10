"""What holds for the networks of all families: they learn, and no cut of a batch changes a number."""

from typing import Any

import pytest
import torch

from distributed.collectives import WorldCollectives
from models.backbones.video_language import Kind
from models.lora import merged
from models.meltr.machine import Network, OneProcess
from models.normalisation import synchronise
from models.recompute import recompute
from tests.models.backbones.hf import tiny
from tests.support.directions import slopes
from tests.support.workers import on_workers

CASES: list[tuple[str, Kind]] = [
    *((family, "retrieval") for family in tiny.DUALS),
    ("clip", "multiple_choice"),
    ("siglip", "open_ended"),
    ("xclip", "multiple_choice"),
    ("xclip", "recognition"),
    ("videomae", "recognition"),
    ("llava", "multiple_choice"),
    ("llava", "open_ended"),
    ("qwen2_5_vl", "retrieval"),
    ("qwen2_5_vl", "recognition"),
]


def made(family: str, kind: Kind, **changes: Any) -> tuple[Any, tuple[str, ...], Any]:
    codes = tiny.CODES if family == "videomae" else 0
    names = tiny.config(family).losses(kind, codes)
    return tiny.network(family, kind, codes, **changes), names, tiny.batch(kind, codes=codes)


def gradients(network: Any) -> dict[str, Any]:
    return {name: parameter.grad for name, parameter in network.named_parameters()}


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_losses_fall(family: str, kind: Kind) -> None:
    network, names, batch = made(family, kind)
    optimiser = torch.optim.Adam(network.parameters(), 5e-3)
    before = network(batch, names)
    for _ in range(8):
        optimiser.zero_grad()
        torch.stack(list(network(batch, names).values())).sum().backward()
        optimiser.step()
    after = network(batch, names)
    assert [name for name in names if not after[name] < before[name]] == []


@pytest.mark.parametrize(("family", "kind"), CASES)
@pytest.mark.parametrize("samples", [0, 2])
def test_every_weight_takes_part_in_every_loss(family: str, kind: Kind, samples: int) -> None:
    network, names, batch = made(family, kind)
    for name in names:
        network.zero_grad()
        loss = network(batch.rows(slice(0, samples)), (name,))[name]
        loss.backward()
        assert [name for name, gradient in gradients(network).items() if gradient is None] == []
        assert all(bool(gradient.isfinite().all()) for gradient in gradients(network).values())
        if not samples:
            assert loss.item() == 0
            assert not any(bool(gradient.any()) for gradient in gradients(network).values())


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_micro_batches_and_recomputed_blocks_change_nothing(family: str, kind: Kind) -> None:
    found = []
    for parts, again in ((1, False), (3, False), (7, True)):
        network, names, batch = made(family, kind)
        network.micro_batches = parts
        if again:
            assert network.blocks()
            recompute(network.blocks())
        losses = torch.stack([network(batch, names)[name] for name in names])
        torch.linspace(0.5, 2, len(names), dtype=torch.float64).dot(losses).backward()
        found.append((losses.detach(), gradients(network)))
    for losses, those in found[1:]:
        torch.testing.assert_close(losses, found[0][0], rtol=1e-5, atol=1e-5)
        for name, gradient in found[0][1].items():
            torch.testing.assert_close(those[name], gradient, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_forward_mode_is_the_gradients_product(family: str, kind: Kind) -> None:
    """So that learned losses differentiate these networks either way."""
    network, names, batch = made(family, kind)
    machine = OneProcess(network)

    def evaluate(network: Network) -> torch.Tensor:
        losses = network(batch, names)
        return torch.stack([losses[name] for name in names])

    found, expected = slopes(machine, evaluate)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_bf16_stays_finite(family: str, kind: Kind) -> None:
    network, names, batch = made(family, kind)
    exact = network(batch, names)
    losses = network.bfloat16()(batch, names)
    torch.stack(list(losses.values())).sum().backward()
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    assert all(bool(gradient.isfinite().all()) for gradient in gradients(network).values())
    for name in names:
        torch.testing.assert_close(losses[name].double(), exact[name], rtol=0.25, atol=0.5)


WORKED: list[tuple[str, Kind]] = [("clip", "retrieval"), ("siglip", "retrieval"), ("xclip", "multiple_choice")]
WORKED += [("llava", "open_ended"), ("qwen2_5_vl", "retrieval")]
SHARES = ((3, 2), (0, 5))


def of_worker(rows: tuple[tuple[int, int], ...]) -> list[tuple[list[float], dict[str, list[float]]]]:
    """Losses and gradients of this worker's share, for every case of WORKED and every cut."""
    collectives, found = WorldCollectives(), []
    rank = torch.distributed.get_rank()
    for family, kind in WORKED:
        for sizes in rows:
            network, names, batch = made(family, kind)
            synchronise(network, collectives)
            start = sum(sizes[:rank])
            losses = network(batch.rows(slice(start, start + sizes[rank])), names)
            torch.stack(list(losses.values())).sum().backward()
            norms = {name: gradient.flatten()[:50].tolist() for name, gradient in gradients(network).items()}
            found.append(([losses[name].item() for name in names], norms))
    return found


def test_two_workers_see_one_batch() -> None:
    """Also when one of them has no samples at all."""
    together = on_workers(2, of_worker, SHARES)
    for number, (family, kind) in enumerate(WORKED):
        network, names, batch = made(family, kind)
        losses = network(batch, names)
        torch.stack(list(losses.values())).sum().backward()
        for cut in range(len(SHARES)):
            shares = [worker[number * len(SHARES) + cut] for worker in together]
            found = torch.tensor([share[0] for share in shares], dtype=torch.float64).sum(0)
            expected = torch.stack([losses[name] for name in names]).detach()
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
            for name, gradient in gradients(network).items():
                total = torch.tensor([share[1][name] for share in shares], dtype=torch.float64).sum(0)
                torch.testing.assert_close(total, gradient.flatten()[:50], rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize(
    ("family", "kind", "whole"),
    [
        ("clip", "open_ended", ("head", "towers.scale")),
        ("xclip", "retrieval", ("towers.scale",)),
        ("siglip", "recognition", ("head", "towers.scale")),
        ("videomae", "recognition", ("head", "norm", "codes", "decoder.mask_token")),
        ("llava", "open_ended", ()),
        ("qwen2_5_vl", "open_ended", ()),
    ],
)
def test_low_rank_matrices_and_heads_alone_are_trained(family: str, kind: Kind, whole: tuple[str, ...]) -> None:
    plain, names, batch = made(family, kind)
    network, _, _ = made(family, kind, lora={"rank": 2})
    trained = {name for name, _ in network.named_parameters()}
    assert all("lora_" in name or name.startswith(whole) for name in trained)
    assert all(any(name.startswith(part) for name in trained) for part in whole)
    if not whole:
        assert all(name.startswith("language.") for name in trained)
    optimiser = torch.optim.Adam(network.parameters(), 1e-2)
    before = network(batch, names)
    for _ in range(8):
        optimiser.zero_grad()
        torch.stack(list(network(batch, names).values())).sum().backward()
        optimiser.step()
    after = network(batch, names)
    assert sum(after.values()) < sum(before.values())
    plain.load_state_dict(merged(network))
    for name in names:
        torch.testing.assert_close(plain(batch, names)[name], after[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("family", "part"), [("clip", "text"), ("xclip", "video"), ("llava", "video")])
def test_frozen_parts_are_no_parameters(family: str, part: str) -> None:
    network, names, batch = made(family, "retrieval", frozen=(part,))
    left = {network.component_of(name) for name, _ in network.named_parameters()}
    assert left == set(tiny.config(family).COMPONENTS) - {part}
    torch.stack(list(network(batch, names).values())).sum().backward()
    assert all(gradient is not None for gradient in gradients(network).values())


@pytest.mark.parametrize(("family", "kind"), [case for case in CASES if case[1] != "retrieval"])
def test_answers_are_one_score_each_whatever_the_batch(family: str, kind: Kind) -> None:
    network, _, batch = made(family, kind)
    with torch.no_grad():
        scores = network.answer(batch)
        assert scores.shape == (5, tiny.OPTIONS if kind == "multiple_choice" else len(tiny.CLASS_IDS))
        alone = torch.cat([network.answer(batch.rows(slice(i, i + 1))) for i in range(5)])
        torch.testing.assert_close(alone, scores, rtol=1e-4, atol=1e-5)
        assert network.answer(batch.rows(slice(0, 0))).shape == (0, scores.shape[1])


@pytest.mark.parametrize("family", [*tiny.DUALS, *tiny.GENERATIVE])
def test_no_parameter_is_without_dimensions(family: str) -> None:
    """DeepSpeed broadcasts none of those."""
    network, _, _ = made(family, "retrieval")
    assert [name for name, parameter in network.named_parameters() if not parameter.ndim] == []
    shared = {tensor.data_ptr() for tensor in network.state_dict().values()}
    assert len(shared) == len(network.state_dict())
