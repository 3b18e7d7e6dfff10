"""Which samples a worker sees: a function of seed, epoch and global batch alone, never of the number of workers."""

import torch


def batches_in_epoch(samples: int, batch_size: int) -> int:
    """Steps an epoch; the last batch may be smaller."""
    return -(-samples // batch_size)


def global_batch(samples: int, batch_size: int, seed: int, epoch: int, index: int) -> list[int]:
    """The sample numbers of global batch `index` of an epoch."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    order = torch.randperm(samples, generator=generator)
    return order[index * batch_size : (index + 1) * batch_size].tolist()


def share(batch: list[int], rank: int, workers: int, micro: int = 0, accumulation: int = 1) -> list[int]:
    """This worker's part of micro-batch `micro`; the parts of all workers and micro-batches make up the batch.

    Parts differ by at most one sample and may be empty.
    """
    return batch[micro * workers + rank :: workers * accumulation]
