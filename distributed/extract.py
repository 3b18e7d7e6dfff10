"""Cuts videos into clips and turns each into a feature, on all CPUs and GPUs of a Ray cluster.

    python -m distributed.extract VIDEO_OR_FOLDER ... --to FOLDER [--encoder efficientnet-lite0] [--frames 1]

Writes FOLDER/films/NAME.safetensors a film, and out of them FOLDER/clip_segmentation.txt and FOLDER/clip_features.npz,
which recipes read; FOLDER/failed.csv names the files that could not be read, and why. The same command again goes on:
films that have their file are skipped. Give FOLDER the annotations of a data set in YMS's formats, and it can be
trained on.
"""

import argparse
import csv
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from pydantic import ValidationError

from distributed.command import main_of
from distributed.extraction import (
    FILMS,
    RETRIES,
    ExtractionConfig,
    begin,
    finished,
    gather,
    pipeline,
    read_film,
    write_film,
)
from distributed.progress import duration
from distributed.train import start_ray
from models.data.encoders import LITE0, geometry
from models.data.features import write_features
from models.data.files import atomic_path
from models.data.movie import Clip
from models.data.segmentation import DETECTORS, SegmentationConfig
from models.data.timecode import check_movie_id, format_interval
from models.data.yms import write_segmentation
from models.errors import UserError

VIDEO_SUFFIXES = {".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".ogv", ".flv", ".wmv"}
CLIP_FEATURES, FAILED = "clip_features.npz", "failed.csv"


def find_videos(places: Sequence[Path]) -> dict[str, Path]:
    """Files as they are named, and the videos below folders (by their suffix), by name without suffix and blanks.

    Raises:
        UserError: a place that is not there, a folder without videos, two films of one name, a name that is none.
    """
    found: dict[str, Path] = {}
    for place in places:
        if not place.exists():
            raise UserError(f"{place}: no such file or folder; expected a video, or a folder of videos")
        files = [place]
        if place.is_dir():
            files = sorted(file for file in place.rglob("*") if file.suffix.lower() in VIDEO_SUFFIXES)
            if not files:
                raise UserError(f"{place}: holds no video ({', '.join(sorted(VIDEO_SUFFIXES))})")
        for file in files:
            name = "_".join(file.stem.split())  # names stand in text files, between blanks
            check_movie_id(name)
            if name in found:
                raise UserError(f"{file}: is called like {found[name]}; a film's name must be its own")
            found[name] = file.absolute()
    return found


def collect(folder: Path) -> int:
    """Puts the films' files together into the two files that recipes read; returns how many clips there are."""
    clips: dict[str, list[Clip]] = {}
    features = []
    for name in finished(folder):
        facts, rows = read_film(folder / FILMS / f"{name}.safetensors")
        clips[name] = [clip_of(name, start, end) for start, end in facts.clips]
        features.append(rows)
    if clips:
        write_segmentation(folder, clips)
        ids = [clip.id for pieces in clips.values() for clip in pieces]
        write_features(folder / CLIP_FEATURES, ids, torch.cat(features))
    return sum(map(len, clips.values()))


def clip_of(film: str, start: float, end: float) -> Clip:
    """A clip with times in whole milliseconds, as YMS's files have them."""
    start, end = round(start * 1000) / 1000, round(end * 1000) / 1000
    return Clip(format_interval(film, start, end), start, end)


def extract(arguments: Sequence[str]) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m distributed.extract", description="Videos to clips and features.")
    parser.add_argument("videos", type=Path, nargs="+", help="files, or folders that are searched for videos")
    parser.add_argument("--to", type=Path, required=True, metavar="FOLDER", help="where the features go")
    parser.add_argument("--encoder", default=LITE0, help=f"{LITE0}, or a folder or hub name of a vision model")
    parser.add_argument("--frames", type=int, default=1, help="of a clip, whose features are averaged; 1: the central")
    parser.add_argument("--detector", choices=list(DETECTORS), default="content", help="PySceneDetect's")
    parser.add_argument("--threshold", type=float, help="of the detector (content: 20)")
    parser.add_argument("--min-frames", type=int, default=5, help="of a clip")
    parser.add_argument("--damaged", action="store_true", help="take films whose end is lost as far as they go")
    parser.add_argument("--encoders", type=int, default=1, help="actors that encode")
    parser.add_argument("--gpus", type=float, default=0.0, help="of each encoder")
    options = parser.parse_args(arguments)
    films = find_videos(options.videos)
    try:
        segmentation = SegmentationConfig(
            detector=options.detector, threshold=options.threshold, min_frames=options.min_frames
        )
        config = ExtractionConfig(
            segmentation=segmentation, encoder=options.encoder, frames=options.frames, damaged=options.damaged
        )
    except ValidationError as error:
        wrong = error.errors()[0]
        option = str(wrong["loc"][-1]).replace("_", "-")
        raise UserError(f"--{option} {wrong['input']}: {wrong['msg'].lower()}") from None
    geometry(config.encoder)  # says what is wrong with it before anything starts
    folder = options.to.absolute()
    begin(folder, config)
    done = set(finished(folder))
    todo = {name: path for name, path in films.items() if name not in done}
    if len(todo) < len(films):
        print(f"{len(films) - len(todo)} of {len(films)} films are done already", flush=True)
    failed = run(folder, todo, config, options.gpus, options.encoders) if todo else {}
    clips = collect(folder)
    with atomic_path(folder / FAILED) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("file", "reason"), *((str(films[name]), why) for name, why in failed.items())])
    if failed:
        print(f"{len(failed)} of {len(films)} files could not be read: see {folder / FAILED}")
    if not clips:
        raise UserError(f"{folder}: none of the {len(films)} films could be read; {next(iter(failed.values()))}")
    print(f"{clips} clips of {len(finished(folder))} films: {folder / CLIP_FEATURES}")


def run(folder: Path, todo: dict[str, Path], config: ExtractionConfig, gpus: float, encoders: int) -> dict[str, str]:
    """Extracts the films and writes their files; why some could not be, by film."""
    start_ray(show_workers=False)
    failed: dict[str, str] = {}
    began = told = time.monotonic()
    rows = pipeline(todo, config, 1, gpus, encoders).iter_batches(batch_size=None, batch_format="numpy")
    left = dict(todo)
    for name, facts, features in gather(rows, config.frames):
        if isinstance(facts, str) or features is None:
            failed[name] = str(facts)
            print(f"warning: left out: {facts}", flush=True)
        else:
            write_film(folder, name, facts, features)
        left.pop(name, None)
        now = time.monotonic()
        if now - told > 10 or not left:
            told, count = now, len(todo) - len(left)
            remaining = (now - began) / count * len(left)
            speed = count / (now - began)
            print(f"film {count}/{len(todo)}  {speed:.2g} films/s  ETA {duration(remaining)}", flush=True)
    for name, path in left.items():
        failed[name] = f"{path}: its process died {RETRIES + 1} times, or met an error that Ray's log has"
        print(f"warning: left out: {failed[name]}", flush=True)
    return failed


if __name__ == "__main__":
    main_of(extract)
