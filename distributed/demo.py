"""The demonstration: trains NeuMATCH on generated movies and a classifier with a learned loss, each on two Ray workers.

python -m distributed.demo [--folder runs]
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from distributed.command import main_of
from distributed.evaluate import evaluate
from distributed.inspect import inspect
from distributed.train import train
from models.data.synthetic import generate_movies


def demo(arguments: Sequence[str]) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m distributed.demo", description="Train and look, in minutes.")
    parser.add_argument("--folder", type=Path, default=Path("runs"), help="where data, run and page go")
    options = parser.parse_args(arguments)
    folder = options.folder.absolute()
    began = time.monotonic()
    print("1/5 generating movies: features and sentences in YMS file formats", flush=True)
    generate_movies(folder / "demo-data", movies=MOVIES, seed=0)
    print("2/5 training NeuMATCH (RP + LARS + SBN) on 2 Ray workers under DeepSpeed", flush=True)
    train(["demo", f"storage={folder}", f"data.root={folder / 'demo-data'}"])
    print("3/5 scoring the test movies", flush=True)
    page = folder / "demo" / "alignment.html"
    evaluate([str(folder / "demo"), "--beam", "8", "--page", str(page)])
    print("4/5 training a digit classifier on three losses that MELTR learns to combine", flush=True)
    changes = [f"storage={folder}", "name=demo-learned-loss", "training.epochs=4", "scaling.workers=2"]
    train(["digits_meltr", *changes])
    print("5/5 scoring it, and drawing what the learned loss has learned", flush=True)
    evaluate([str(folder / "demo-learned-loss")])
    inspect([str(folder / "demo-learned-loss")])
    print(f"\nDone in {time.monotonic() - began:.0f} s. Look at the alignment: file://{page}")


MOVIES = 80

if __name__ == "__main__":
    main_of(demo)
