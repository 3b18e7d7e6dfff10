"""Times what is worth timing and prints Markdown tables: `make bench`, or this file with --help for its settings."""

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run by its path, this finds tests/ and models/

from models.data.examples import Example
from models.neumatch.decoding import DecodingConfig, align
from models.neumatch.network import Batch, NeuMATCH
from models.neumatch.packing import Packing
from models.neumatch.recurrent import RecurrentStack
from tests.benchmarks import cases, stepwise
from tests.benchmarks.extraction import extraction
from tests.benchmarks.films import films
from tests.benchmarks.meltr import meltr
from tests.benchmarks.pixels import pixels
from tests.benchmarks.timing import HEADS, machine, resident_mib, rows_of, table, take_turns
from tests.benchmarks.univl import univl
from tests.reference import neumatch as reference


def one_sample_at_a_time(model: NeuMATCH, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """The tests' reference."""
    steps = range(batch.actions.shape[1])
    real = torch.tensor([[step < length for step in steps] for length in batch.action_lengths.tolist()])
    return reference.teacher_forced(model, batch), batch.actions[real.to(batch.actions.device)]


SLOWEST = "loop over samples and actions"
WAYS = {
    "parallel over time (ours)": cases.parallel,
    "loop over actions, batched": stepwise.forward,
    SLOWEST: one_sample_at_a_time,
}


def training(arguments: argparse.Namespace, device: torch.device) -> Iterator[str]:
    """One training step of a batch of 32 pieces."""
    sets = {"generated pieces": cases.generated_samples(cases.BATCH), "yms_msrvtt": cases.real_samples()}
    rows = []
    for name, samples in sets.items():
        if not samples:
            continue
        batch = cases.batches(samples, device)[0]
        for forward in WAYS.values():  # or the comparison would mean nothing
            with torch.no_grad():
                expected, found = (way(cases.network(device), batch)[0] for way in (cases.parallel, forward))
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
        for threads in arguments.threads if device.type == "cpu" else (torch.get_num_threads(),):
            torch.set_num_threads(threads)
            for dtype, label in ((torch.float32, "fp32"), (torch.bfloat16, "bf16")):
                contestants: dict[str, Callable[[], object]] = {}
                for way, forward in WAYS.items():
                    if forward is one_sample_at_a_time and (dtype != torch.float32 or threads > 1):
                        continue  # so slow that once is enough, and more threads do not help it
                    trainer = cases.Trainer(cases.network(device, dtype), forward)
                    contestants[way] = lambda trainer=trainer, batch=batch: trainer.step(batch)  # type: ignore[misc]
                seconds = take_turns(contestants, arguments.rounds, device, seldom={SLOWEST: 2})
                rows += rows_of(seconds, name, str(threads) if device.type == "cpu" else "GPU", label)
    yield table("Training step (forward, backward, LARS), batch of 32", ("data", "threads", "type", *HEADS), rows)


def memory(arguments: argparse.Namespace, device: torch.device) -> Iterator[str]:
    """Memory over many epochs of batches that are all shaped differently."""
    made = cases.batches(cases.real_samples() or cases.generated_samples(), device)
    trainer, seen = cases.Trainer(cases.network(device), cases.parallel), []
    for epoch in range(arguments.epochs):
        print(f"\r  memory: epoch {epoch + 1} of {arguments.epochs} ", end="", file=sys.stderr, flush=True)
        for batch in made:
            trainer.step(batch)
        seen.append(resident_mib())
    print("\r" + " " * 60 + "\r", end="", file=sys.stderr, flush=True)
    heads = ["epochs of " + f"{len(made)} steps", "MiB after the first", "MiB after the last", "most MiB", "growth"]
    row = [str(len(seen)), f"{seen[0]:.0f}", f"{seen[-1]:.0f}", f"{max(seen):.0f}", f"{seen[-1] - seen[0]:+.1f} MiB"]
    if device.type == "cuda":
        heads.append("most GPU MiB")
        row.append(f"{torch.cuda.max_memory_allocated(device) / 2**20:.0f}")
    yield table("Resident memory while training", heads, [row])


def decoding(arguments: argparse.Namespace, device: torch.device) -> Iterator[str]:
    """Whole movies, as at a test."""
    sets = {"generated movies": cases.generated_movies(), "yms_msrvtt test split": cases.real_movies("test")}
    rows = []
    for name, movies in sets.items():
        if not movies:
            continue
        model = cases.network(device)
        for threads in arguments.threads if device.type == "cpu" else (torch.get_num_threads(),):
            torch.set_num_threads(threads)

            def all_at_once(config: DecodingConfig, movies: list[Example] = movies) -> Callable[[], object]:
                return lambda: align(model, movies, config)  # noqa: B023 (called before the loop goes on)

            def one_by_one(config: DecodingConfig, movies: list[Example] = movies) -> Callable[[], object]:
                return lambda: [align(model, [movie], config) for movie in movies]  # noqa: B023

            contestants = {
                "greedy, all movies at once": all_at_once(DecodingConfig()),
                "greedy, one movie after another": one_by_one(DecodingConfig()),
                "beam of 8, all movies at once": all_at_once(DecodingConfig(method="beam")),
            }
            seconds = take_turns(contestants, arguments.rounds, device)
            where = str(threads) if device.type == "cpu" else "GPU"
            rows += rows_of(seconds, f"{len(movies)} {name}", where)
    yield table("Decoding", ("movies", "threads", *HEADS), rows)


def stacks(arguments: argparse.Namespace, device: torch.device) -> Iterator[str]:
    """The Video Stack alone, forward and backward, beside torch's LSTM."""
    batch = cases.batches(cases.real_samples() or cases.generated_samples(), device)[0]
    lengths = batch.video_lengths
    packing = Packing.of(lengths, device)
    rows = []
    for threads in arguments.threads if device.type == "cpu" else (torch.get_num_threads(),):
        torch.set_num_threads(threads)
        ours, layer_norm = (RecurrentStack(300, 300, norm).to(device) for norm in (False, True))
        theirs = nn.LSTM(300, 300, num_layers=2, batch_first=True).to(device)

        def padded_torch(theirs: nn.LSTM = theirs) -> None:
            theirs(batch.video)[0].sum().backward()

        def packed_torch(theirs: nn.LSTM = theirs) -> None:
            packed = nn.utils.rnn.pack_padded_sequence(batch.video, lengths, batch_first=True, enforce_sorted=False)
            theirs(packed)[0].data.sum().backward()

        def stack(module: RecurrentStack) -> Callable[[], object]:
            return lambda: module(packing.pack(batch.video), packing.batch_sizes)[1][0].sum().backward()

        contestants = {
            "RecurrentStack (packed)": stack(ours),
            "nn.LSTM on the padded batch": padded_torch,
            "nn.LSTM on a PackedSequence": packed_torch,
            "RecurrentStack with layer norms": stack(layer_norm),
        }
        seconds = take_turns(contestants, arguments.rounds, device)
        rows += rows_of(seconds, str(threads) if device.type == "cpu" else "GPU")
    real, padded = int(lengths.sum()), batch.video.shape[0] * batch.video.shape[1]
    title = f"Two LSTM layers of 300, forward and backward, 32 sequences ({real} elements, {padded} with padding)"
    yield table(title, ("threads", *HEADS), rows)


PARTS = {
    "memory": memory,
    "training": training,
    "decoding": decoding,
    "stacks": stacks,
    "meltr": meltr,
    "univl": univl,
    "films": films,
    "pixels": pixels,
    "extraction": extraction,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=PARTS, nargs="+", default=list(PARTS), help="which parts to run")
    parser.add_argument("--rounds", type=int, default=5, help="how often each contestant runs (median; default 5)")
    parser.add_argument("--epochs", type=int, default=20, help="epochs of the memory part (default 20)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="CPU threads (default 1 and 2)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    print(f"{machine(device)}; {arguments.rounds} rounds\n")
    for part in arguments.only:
        for text in PARTS[part](arguments, device):
            print(text, flush=True)


if __name__ == "__main__":
    main()
