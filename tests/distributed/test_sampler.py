"""Who sees which sample: shares make up the batch, and the order hangs on seed and epoch alone."""

from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from distributed.sampler import batches_in_epoch, global_batch, share

counts = st.integers(1, 9)


@given(st.lists(st.integers(), unique=True, max_size=40), counts, counts)
def test_shares_make_up_the_batch(batch: list[int], workers: int, accumulation: int) -> None:
    parts = [
        share(batch, rank, workers, micro, accumulation) for rank, micro in product(range(workers), range(accumulation))
    ]
    assert sorted(sample for part in parts for sample in part) == sorted(batch)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@given(st.integers(1, 60), counts, st.integers(0, 2**40), st.integers(0, 1000))
def test_batches_make_up_the_epoch(samples: int, batch_size: int, seed: int, epoch: int) -> None:
    number = batches_in_epoch(samples, batch_size)
    batches = [global_batch(samples, batch_size, seed, epoch, index) for index in range(number)]
    assert sorted(sample for batch in batches for sample in batch) == list(range(samples))
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (number - 1)
    assert batches[-1]
    assert global_batch(samples, batch_size, seed, epoch, number) == []


@given(st.integers(1, 60), counts, st.integers(0, 2**40), st.integers(0, 1000))
def test_order_hangs_on_seed_and_epoch_alone(samples: int, batch_size: int, seed: int, epoch: int) -> None:
    whole = global_batch(samples, samples, seed, epoch, 0)
    cut = [global_batch(samples, batch_size, seed, epoch, i) for i in range(batches_in_epoch(samples, batch_size))]
    assert [sample for batch in cut for sample in batch] == whole


def test_order_differs_between_epochs_and_seeds() -> None:
    orders = {tuple(global_batch(50, 50, seed, epoch, 0)) for seed, epoch in product(range(4), range(4))}
    assert len(orders) == 16
