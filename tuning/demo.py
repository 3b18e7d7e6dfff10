"""The demonstration: little films, from rendering them to a page that shows what a trained network made of one.

    python -m tuning.demo [--folder runs]

Renders films with cuts and scripts, cuts them into clips and features on Ray Data, trains NeuMATCH on two Ray workers
under DeepSpeed, scores it beside baselines, searches four recipes with Ray Tune, trains a small classifier whose three
losses MELTR learns to combine, and aligns a test film with its script.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from distributed.align import PAGE, align_film
from distributed.command import main_of
from distributed.evaluate import evaluate
from distributed.extract import extract
from distributed.inspect import inspect
from distributed.train import train
from models.data.filming import SCRIPTS, VIDEOS, film
from models.data.yms import SPLIT_FILES
from tuning.sweep import sweep

FILMS = 40
STEPS = 7


def demo(arguments: Sequence[str]) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tuning.demo", description="From films to an alignment's page.")
    parser.add_argument("--folder", type=Path, default=Path("runs"), help="where films, runs and pages go")
    folder = parser.parse_args(arguments).folder.absolute()
    began, done = time.monotonic(), 0
    films, run = folder / "demo-films", folder / "demo"
    data = [f"storage={folder}", f"data.root={films}"]

    def say(what: str) -> None:
        nonlocal done
        done += 1
        print(f"\n{done}/{STEPS} [{time.monotonic() - began:.0f} s] {what}", flush=True)

    say(f"rendering {FILMS} little films, each with a script")
    film(films, FILMS)
    say("cutting them into clips, and clips into features (EfficientNet-Lite0), on Ray Data")
    extract([str(films / VIDEOS), "--to", str(films)])
    say("training NeuMATCH on 2 Ray workers under DeepSpeed")
    train(["demo", *data])
    say("scoring the test films")
    evaluate([str(run)])
    say("searching learning rate and label smoothing with Ray Tune: 4 trials")
    settings = [word for value in data for word in ("--set", value)]
    sweep(["demo", f"storage={folder}", *settings])
    say("training a digit classifier on three losses that MELTR learns to combine")
    train(["digits_meltr", f"storage={folder}", "name=demo-learned-loss", "training.epochs=4", "scaling.workers=2"])
    evaluate([str(folder / "demo-learned-loss")])
    inspect([str(folder / "demo-learned-loss")])
    name = (films / SPLIT_FILES["test"]).read_text(encoding="utf-8").split()[0]
    say(f"aligning the film {name} with its script")
    movie, target = films / VIDEOS / f"{name}.mp4", folder / "demo-alignment"
    align_film([str(movie), str(films / SCRIPTS / f"{name}.txt"), "--run", str(run), "--to", str(target)])
    print(f"\nDone in {time.monotonic() - began:.0f} s. Look at")
    for what, page in {"the alignment": target / PAGE, "the sweep": folder / "demo-sweep" / "sweep.html"}.items():
        print(f"  {what}: file://{page}")


if __name__ == "__main__":
    main_of(demo)
