"""Packed rows: every element once, in time-major order, padding never touched."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.neumatch.packing import Packing


@settings(deadline=None)
@given(st.lists(st.integers(0, 6), max_size=6), st.integers(0, 3))
def test_every_element_has_its_own_row(lengths: list[int], spare: int) -> None:
    packing = Packing.of(torch.tensor(lengths, dtype=torch.int64))
    longest = max(lengths, default=0)
    assert packing.batch_sizes == tuple(sum(length > t for length in lengths) for t in range(longest))
    assert packing.total == sum(lengths)
    assert packing.rows.shape == (len(lengths), longest)
    padded = torch.full((len(lengths), longest + spare, 2), float("nan"))
    for b, length in enumerate(lengths):
        for t in range(length):
            padded[b, t] = torch.tensor([b, t])
    rows = packing.pack(padded)
    # Sorted by length, longest first, equals in the batch's order; step by step.
    order = sorted(range(len(lengths)), key=lambda b: -lengths[b])
    assert rows.tolist() == [[b, t] for t in range(longest) for b in order if lengths[b] > t]
    for b, length in enumerate(lengths):
        assert packing.rows[b, :length].tolist() == [rows.tolist().index([b, t]) for t in range(length)]


@settings(deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=6))
def test_gradients_go_back_to_their_elements(lengths: list[int]) -> None:
    packing = Packing.of(torch.tensor(lengths, dtype=torch.int64))
    padded = torch.zeros(len(lengths), max(lengths), 1, requires_grad=True)
    packing.pack(padded).sum().backward()
    assert padded.grad is not None
    real = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    assert torch.equal(padded.grad[:, :, 0], real.float())
