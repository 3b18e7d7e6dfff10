"""What UniVL costs with a learned loss: samples a second and memory beside plain multi-task learning, taking turns.

The published size in bf16 on a GPU, a small one in fp32 on a CPU; random weights and batches; all eight losses, K = 3.
Run by run.py.
"""

import argparse
import statistics
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from models.backbones.univl.config import UniVLConfig
from models.backbones.univl.network import LOSSES, UniVL, UniVLBatch, loss_weights
from models.meltr.bilevel import LearnedLoss, MetaBatches
from models.meltr.config import MELTRConfig
from models.meltr.machine import Evaluate, Network
from tests.benchmarks.meltr import INNER, take_step
from tests.benchmarks.timing import synchronise, table, take_turns

SMALL = UniVLConfig(
    hidden=128, heads=4, intermediate=512, text_layers=2, visual_layers=1, cross_layers=1, decoder_layers=1,
    video_dim=256, vocabulary=5000,
)  # fmt: skip
CONTESTANTS: dict[str, tuple[str | None, float]] = {
    "multi-task learning (sum)": (None, 1.0),
    "MELTR, forward_mode": ("forward_mode", 1.0),
    "MELTR, forward_mode on 1/8 of the batch": ("forward_mode", 1 / 8),
    "MELTR, per_task": ("per_task", 1.0),
}


def random_batch(config: UniVLConfig, samples: int, words: int, frames: int, device: torch.device) -> UniVLBatch:
    """Full-length texts and videos; a seventh of the words and frames is masked."""
    source = torch.Generator().manual_seed(0)
    ids = torch.randint(5, config.vocabulary, (samples, words), generator=source)
    video = torch.randn(samples, frames, config.video_dim, generator=source)
    gone, unseen = (torch.randint(7, shape, generator=source) == 0 for shape in (ids.shape, video.shape[:2]))
    batch = {
        "ids": ids,
        "types": torch.zeros_like(ids),
        "mask": torch.ones_like(ids),
        "video": video,
        "video_mask": torch.ones(samples, frames, dtype=torch.long),
        "masked_ids": ids.masked_fill(gone, 4),
        "token_labels": ids.masked_fill(~gone, -1),
        "masked_video": video.masked_fill(unseen[..., None], 0.0),
        "frame_labels": torch.where(unseen, torch.arange(frames), -1),
        "caption_ids": ids,
        "caption_labels": ids.roll(-1, 1),
        "caption_mask": torch.ones_like(ids),
        "memory_ids": torch.full((samples, 2), 2),
    }
    return UniVLBatch(**{name: tensor.to(device) for name, tensor in batch.items()})


def losses_on(batch: UniVLBatch, config: UniVLConfig) -> Evaluate:
    """All losses, each the mean over this batch."""
    counts = loss_weights(batch, config)
    weights = torch.tensor([counts[name] for name in LOSSES], device=batch.ids.device)

    def evaluate(network: Network) -> Tensor:
        losses = network(batch, LOSSES)
        return torch.stack([losses[name].float() for name in LOSSES]) / weights

    return evaluate


class Run:
    """Training of one network, with fixed coefficients or learned ones."""

    def __init__(self, config: UniVLConfig, batch: UniVLBatch, way: str | None, share: float) -> None:
        torch.manual_seed(0)
        device = batch.ids.device
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        with torch.device(device):
            self.network = UniVL(config).to(dtype)
        self.optimiser = torch.optim.Adam(self.network.parameters(), 1e-5)
        self.evaluate = losses_on(batch, config)
        samples = len(batch.ids)
        part = batch.rows(slice(0, max(1, round(share * samples))))
        self.meta = MetaBatches(training=losses_on(part, config) if share < 1 else None)
        self.learned: LearnedLoss | None = None
        if way is not None:
            asked = {"network": "univl", "inner_steps": INNER, "way": way, "initialisation": "paper"}
            self.learned = LearnedLoss(MELTRConfig.model_validate(asked), list(LOSSES), LOSSES[0], 0, device)
            self.learned.steps = INNER

    def steps(self) -> None:
        """K steps, a meta step among them."""
        for _ in range(INNER):
            take_step(self.network, self.optimiser, self.learned, self.evaluate, self.meta)


def univl(arguments: argparse.Namespace, device: torch.device) -> Iterator[str]:
    """Samples a second and peak memory."""
    cuda = device.type == "cuda"
    config, samples, words, frames = (UniVLConfig(), 32, 48, 48) if cuda else (SMALL, 8, 20, 8)
    batch = random_batch(config, samples, words, frames, device)
    runs: dict[str, Callable[[], object]] = {}
    peaks: list[str] = []
    for name, (way, share) in CONTESTANTS.items():
        if cuda:
            others = torch.cuda.memory_allocated(device)  # contestants before this one keep their weights
            torch.cuda.reset_peak_memory_stats(device)
        run = Run(config, batch, way, share)
        runs[name] = run.steps
        if cuda:
            run.steps()
            synchronise(device)
            peaks.append(f"{(torch.cuda.max_memory_allocated(device) - others) / 2**30:.1f}")
    seconds = take_turns(runs, arguments.rounds, device)
    yield _report(config, samples, seconds, peaks, cuda)


def _report(
    config: UniVLConfig, samples: int, seconds: dict[str, list[float]], peaks: Sequence[str], cuda: bool
) -> str:
    with torch.device("meta"):
        count = sum(p.numel() for p in UniVL(config).parameters())
    medians = [statistics.median(times) for times in seconds.values()]
    rows = [
        [name, f"{INNER * samples / median:.1f}", f"{median / medians[0]:.3f}", *(peaks[number : number + 1])]
        for number, (name, median) in enumerate(zip(seconds, medians, strict=True))
    ]
    title = f"UniVL, {count / 1e6:.1f}M parameters, batch {samples}, K={INNER}, {'bf16' if cuda else 'fp32'}"
    return table(title, ("what", "samples/s", "time, times the first", *(["peak GiB"] if cuda else [])), rows)
