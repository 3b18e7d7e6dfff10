"""Packed LSTM layers beside nn.LSTM and a plain loop: states, all gradients, ragged and empty sequences."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from models.neumatch.packing import Packing
from models.neumatch.recurrent import LayerNormLSTMLayer, LSTMLayer, RecurrentStack
from tests.reference import neumatch as reference

LENGTHS = st.lists(st.integers(0, 6), max_size=5)
Layer = LSTMLayer | LayerNormLSTMLayer


def layer_of(kind: type[Layer], width: int = 3, hidden: int = 4) -> Layer:
    """In float64, with no parameter at a special value."""
    torch.manual_seed(0)
    layer = kind(width, hidden).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return layer


def ragged(lengths: list[int], width: int, seed: int = 0) -> Tensor:
    """(B, L, width) of random elements, zeros beyond a length."""
    source = torch.Generator().manual_seed(seed)
    rows = torch.randn(len(lengths), max(lengths, default=0), width, generator=source, dtype=torch.float64)
    return torch.where((torch.arange(rows.shape[1]) < torch.tensor(lengths)[:, None])[:, :, None], rows, 0)


def scalar(hiddens: Tensor, cells: Tensor) -> Tensor:
    """Of states in any order of rows, with no symmetry between hidden and cell."""
    return (hiddens.square() * 1.3 + cells.pow(3) + torch.sin(hiddens * cells)).sum()


@pytest.mark.parametrize("kind", [LSTMLayer, LayerNormLSTMLayer])
@settings(deadline=None, max_examples=25)
@given(lengths=LENGTHS)
def test_agrees_with_a_plain_loop(kind: type[Layer], lengths: list[int]) -> None:
    layer, packing = layer_of(kind), Packing.of(torch.tensor(lengths, dtype=torch.int64))
    padded = ragged(lengths, 3).requires_grad_()
    hiddens, cells = layer(packing.pack(padded), packing.batch_sizes)
    wanted = [reference.lstm(layer, row[:length]) for row, length in zip(padded, lengths, strict=True) if length]
    nonempty = [b for b, length in enumerate(lengths) if length]
    for b, states in zip(nonempty, wanted, strict=True):
        rows = packing.rows[b, : lengths[b]]
        for found, expected in zip((hiddens, cells), states, strict=True):
            torch.testing.assert_close(found[rows], expected, rtol=1e-12, atol=1e-12)
    inputs = [padded, *layer.parameters()]
    ours = torch.autograd.grad(scalar(hiddens, cells), inputs, materialize_grads=True, allow_unused=True)
    if not wanted:
        assert all(not bool(gradient.any()) for gradient in ours)
        return
    loss = torch.stack([scalar(*states) for states in wanted]).sum()
    theirs = torch.autograd.grad(loss, inputs, materialize_grads=True, allow_unused=True)
    for mine, wished in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, wished, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", [LSTMLayer, LayerNormLSTMLayer])
@pytest.mark.parametrize("used", ["hiddens", "cells", "both"])
def test_gradients_are_those_of_finite_differences(kind: type[Layer], used: str) -> None:
    layer, sizes = layer_of(kind, 2, 2), (3, 2, 2, 1)
    x = torch.randn(8, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    names = [name for name, _ in layer.named_parameters()]

    def states(x: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        found: tuple[Tensor, Tensor] = torch.func.functional_call(
            layer, dict(zip(names, weights, strict=True)), (x, sizes)
        )
        return {"hiddens": found[:1], "cells": found[1:], "both": found}[used]

    assert torch.autograd.gradcheck(states, (x, *layer.parameters()))


@pytest.mark.parametrize("lengths", [[5, 3, 3, 1], [4], [2, 6, 1]], ids=str)
def test_two_layers_agree_with_torch(lengths: list[int]) -> None:
    torch.manual_seed(1)
    stack, theirs = RecurrentStack(3, 4, False).double(), nn.LSTM(3, 4, num_layers=2, batch_first=True).double()
    with torch.no_grad():
        for number, layer in enumerate((stack.layer1, stack.layer2)):
            for name, parameter in layer.named_parameters():
                getattr(theirs, f"{name}_l{number}").copy_(parameter)
    packing, padded = Packing.of(torch.tensor(lengths)), ragged(lengths, 3)
    packed = nn.utils.rnn.pack_padded_sequence(padded, torch.tensor(lengths), batch_first=True, enforce_sorted=False)
    assert tuple(packed.batch_sizes.tolist()) == packing.batch_sizes
    assert torch.equal(packing.pack(padded), packed.data)
    first, second = stack(packing.pack(padded), packing.batch_sizes)
    out, _ = theirs(packed)
    torch.testing.assert_close(second[0], out.data, rtol=1e-12, atol=1e-12)
    second[0].square().sum().backward()
    out.data.square().sum().backward()
    for number, layer in enumerate((stack.layer1, stack.layer2)):
        for name, parameter in layer.named_parameters():
            expected = getattr(theirs, f"{name}_l{number}").grad
            torch.testing.assert_close(parameter.grad, expected, rtol=1e-9, atol=1e-11)
    assert first[0].shape == (sum(lengths), 4)


@pytest.mark.parametrize("layer_norm", [False, True])
def test_single_steps_are_the_whole_sequence(layer_norm: bool) -> None:
    torch.manual_seed(2)
    stack = RecurrentStack(3, 4, layer_norm).double()
    x = torch.randn(5, 3, dtype=torch.float64)
    whole = stack(x, (1,) * 5)
    states = stack.start(1, x)
    for at in range(5):
        states = stack.step(x[at : at + 1], states)
        for ours, all_of_them in zip(states, whole, strict=True):
            for now, rows in zip(ours, all_of_them, strict=True):
                torch.testing.assert_close(now, rows[at : at + 1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", [LSTMLayer, LayerNormLSTMLayer])
def test_needs_batch_sizes_or_a_state(kind: type[Layer]) -> None:
    with pytest.raises(ValueError, match="give either batch_sizes or state"):
        layer_of(kind)(torch.zeros(1, 3, dtype=torch.float64), None)


@pytest.mark.parametrize("kind", [LSTMLayer, LayerNormLSTMLayer])
def test_bfloat16_stays_close(kind: type[Layer]) -> None:
    layer, sizes = layer_of(kind, 8, 8), (4, 3, 3, 1)
    x = torch.randn(11, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    exact = layer(x, sizes)
    half = layer.bfloat16()(x.bfloat16(), sizes)
    for ours, expected in zip(half, exact, strict=True):
        assert ours.dtype == torch.bfloat16
        torch.testing.assert_close(ours.double(), expected.detach(), rtol=0.1, atol=0.1)
    scalar(*half).backward()
    assert all(p.grad is not None and p.grad.dtype == torch.bfloat16 for p in layer.parameters())
