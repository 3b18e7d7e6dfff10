"""Turns films and their scripts into what alignment recipes read, on all CPUs and GPUs of a Ray cluster.

    python -m distributed.extract FILM_OR_FOLDER ... --to FOLDER [--scripts FOLDER]
    python -m distributed.extract --annotations FILE --to FOLDER [--sentence-encoder minilm]
    python -m distributed.extract --regions FILE_OR_FOLDER --clips FOLDER --to FOLDER [--encoder mean]

Writes a file a film into FOLDER/films (clips and their features) and FOLDER/texts (sentences and their embeddings),
and out of them clip_segmentation.txt, clip_features.npz, text_features.npz and sentences.csv; failed.csv names what
could not be read, and why. The same command again goes on: films that have their file are skipped.
"""

import argparse
import csv
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from pydantic import ValidationError

from distributed import detections, embedding
from distributed.command import main_of
from distributed.detections import DetectionConfig
from distributed.embedding import SentenceConfig
from distributed.extraction import (
    FILMS,
    RETRIES,
    ExtractionConfig,
    begin,
    finished,
    gather,
    pipeline,
    read_film,
    written,
)
from distributed.progress import duration
from distributed.train import start_ray
from models.data.encoders import LITE0, geometry
from models.data.features import write_features
from models.data.files import atomic_path
from models.data.movie import Clip
from models.data.regions import MEAN, find_regions, region_encoder
from models.data.segmentation import DETECTORS, SegmentationConfig
from models.data.sentences import MINILM, SentenceEncoder
from models.data.timecode import check_movie_id, format_interval, movie_id_of
from models.data.yms import ANNOTATIONS, read_phrases, write_segmentation
from models.errors import UserError

VIDEO_SUFFIXES = {".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".ogv", ".flv", ".wmv"}
T = TypeVar("T")
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
            name = movie_id_of(file)
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


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command's options. Raises UserError for those that do not go together."""
    parser = argparse.ArgumentParser(prog="python -m distributed.extract", description="Films to features.")
    parser.add_argument("videos", type=Path, nargs="*", help="files, or folders that are searched for videos")
    parser.add_argument("--to", type=Path, required=True, metavar="FOLDER", help="where the features go")
    parser.add_argument("--encoder", help=f"{LITE0}, or a vision model; of regions: {MEAN}, or an LXMERT")
    parser.add_argument("--frames", type=int, default=1, help="of a clip, whose features are averaged; 1: the central")
    parser.add_argument("--detector", choices=list(DETECTORS), default="content", help="PySceneDetect's")
    parser.add_argument("--threshold", type=float, help="of the detector (content: 20)")
    parser.add_argument("--min-frames", type=int, default=5, help="of a clip")
    parser.add_argument("--damaged", action="store_true", help="take films whose end is lost as far as they go")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="keep the frames there as FILM_NUMBER.jpg")
    parser.add_argument("--regions", type=Path, metavar="PLACE", help=".tsv and .npz files of a region detector")
    parser.add_argument("--clips", type=Path, metavar="FOLDER", help="whose clips the regions are of")
    parser.add_argument("--scripts", type=Path, metavar="FOLDER", help="a script a film, called like it")
    parser.add_argument("--annotations", type=Path, metavar="FILE", help="annotated phrases in YMS's format")
    parser.add_argument("--sentence-encoder", default=MINILM, help=f"{MINILM}, or a text model, or an LXMERT")
    parser.add_argument("--language", default="en", help="of the scripts")
    parser.add_argument("--dialogue", action="store_true", help="of screenplays take also what is said")
    parser.add_argument("--encoders", type=int, default=1, help="actors that encode")
    parser.add_argument("--gpus", type=float, default=0.0, help="of each encoder")
    options = parser.parse_args(arguments)
    if not (options.videos or options.regions or options.scripts or options.annotations):
        raise UserError("nothing to extract from; name videos, --regions, --scripts or --annotations")
    if options.videos and options.regions:
        raise UserError("clips have features of videos or of --regions; extract the others into another folder")
    if bool(options.regions) != bool(options.clips):
        raise UserError("--regions and --clips go together: FOLDER holds the clip_segmentation.txt that they are of")
    if options.scripts and options.annotations:
        raise UserError("--scripts and --annotations: name one of them")
    if options.encoders < 1 or options.gpus < 0:
        raise UserError(f"--encoders {options.encoders} --gpus {options.gpus:g}: expected 1 or more, and 0 or more")
    return options


def extract(arguments: Sequence[str]) -> None:
    """The command."""
    options = parse(arguments)
    folder = options.to.absolute()
    # Whatever is wrong with any of it is said before anything starts.
    films = find_videos(options.videos)
    try:
        config, regions, sentences = settings(options)
    except ValidationError as error:
        wrong = error.errors()[0]
        option = str(wrong["loc"][-1]).replace("_", "-")
        raise UserError(f"--{option} {wrong['input']}: {wrong['msg'].lower()}") from None
    clips = detections.read_clips(options.clips) if options.clips else {}
    files = find_regions(options.regions) if options.regions else []
    scripts, given = texts(options)
    if films:
        geometry(config.encoder)
    if files:
        region_encoder(regions.regions_encoder)
    if scripts:
        SentenceEncoder.load(sentences.sentence_encoder)

    failed: dict[str, str] = {}
    if films:
        begin(folder, config)
        failed |= from_films(folder, films, config, options)
    if files:
        begin(folder, regions)
        failed |= from_regions(folder, files, clips, regions, options)
    if scripts:
        begin_sentences(folder, sentences)
        failed = from_texts(folder, films, scripts, given, sentences, options) | failed
    with atomic_path(folder / FAILED) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("file", "reason"), *failed.items()])
    if failed:
        print(f"{len(failed)} left out: see {folder / FAILED}")
    if films or files:
        count = collect(folder)
        if not count:
            raise UserError(f"{folder}: none of the {len(films or clips)} films could be read; {first(failed)}")
        print(f"{count} clips of {len(finished(folder))} films: {folder / CLIP_FEATURES}")
    if scripts:
        count = embedding.collect_sentences(folder, sentences)
        if not count:
            raise UserError(f"{folder}: none of the {len(scripts)} scripts could be read; {first(failed)}")
        print(f"{count} sentences of {len(embedding.embedded(folder))} films: {folder / embedding.TEXT_FEATURES}")


def first(failed: Mapping[str, str]) -> str:
    """The first reason."""
    return next(iter(failed.values()), "")


def settings(options: argparse.Namespace) -> tuple[ExtractionConfig, DetectionConfig, SentenceConfig]:
    """What films, regions and texts are made into. Raises pydantic's ValidationError."""
    segmentation = SegmentationConfig(
        detector=options.detector, threshold=options.threshold, min_frames=options.min_frames
    )
    return (
        ExtractionConfig(
            segmentation=segmentation,
            encoder=options.encoder or LITE0,
            frames=options.frames,
            damaged=options.damaged,
            pictures=str(options.pictures.absolute()) if options.pictures else None,
        ),
        DetectionConfig(regions_encoder=options.encoder or MEAN, frames=options.frames),
        SentenceConfig(
            sentence_encoder=options.sentence_encoder,
            source="annotations" if options.annotations else "scripts",
            language=options.language,
            dialogue=options.dialogue,
        ),
    )


def texts(options: argparse.Namespace) -> tuple[dict[str, Path], dict[str, str]]:
    """Where the text of each film stands, and those sentences that are known already."""
    if options.scripts:
        return embedding.find_scripts(options.scripts), {}
    if not options.annotations:
        return {}, {}
    snippets = {film: found for film, found in read_phrases(options.annotations).items() if found}
    if not snippets:
        raise UserError(f"{options.annotations}: holds no phrases")
    return dict.fromkeys(snippets, options.annotations.absolute()), {
        film: embedding.told(embedding.of_snippets(found)) for film, found in snippets.items()
    }


def from_films(
    folder: Path, films: Mapping[str, Path], config: ExtractionConfig, options: argparse.Namespace
) -> dict[str, str]:
    """Cuts and encodes the films that have no file yet; why some could not be, by file."""
    todo = left_of(films, finished(folder))
    if not todo:
        return {}
    start_ray(show_workers=False)
    return follow({name: str(path) for name, path in todo.items()}, encoded(folder, todo, config, options))


def encoded(
    folder: Path, todo: Mapping[str, Path], config: ExtractionConfig, options: argparse.Namespace
) -> Iterator[tuple[str, str | None]]:
    """Writes the file of each film as it is complete -> (film, None), or (film, why not)."""
    rows = pipeline(todo, config, 1, options.gpus, options.encoders)
    batches = rows.iter_batches(batch_size=None, batch_format="numpy")
    return written(folder, gather(batches, config.frames))


def from_regions(
    folder: Path,
    files: Sequence[Path],
    clips: Mapping[str, Sequence[Clip]],
    config: DetectionConfig,
    options: argparse.Namespace,
) -> dict[str, str]:
    """Encodes the regions of the films that have no file yet; why some could not be, by film or file and line."""
    done = finished(folder)
    for name in sorted({*done} & clips.keys()):
        facts, _ = read_film(folder / FILMS / f"{name}.safetensors")
        if facts.clips != [(clip.start, clip.end) for clip in clips[name]]:
            raise UserError(f"{folder}: {name} is cut otherwise than in {options.clips}; name another folder with --to")
    todo = left_of(clips, done)
    if not todo:
        return {}
    start_ray(show_workers=False)
    arrivals = detections.detect(folder, files, todo, config, options.gpus, options.encoders)
    return follow({name: name for name in todo}, arrivals)


def begin_sentences(folder: Path, config: SentenceConfig) -> None:
    """Notes the settings in a new folder. Raises UserError where annotations would be written over."""
    if config.source == "scripts" and not (folder / embedding.SETTINGS).exists() and (folder / ANNOTATIONS).exists():
        raise UserError(
            f"{folder / ANNOTATIONS}: would be written over; embed it with --annotations, or name another folder "
            "with --to"
        )
    begin(folder, config, embedding.SETTINGS)


def from_texts(
    folder: Path,
    films: Mapping[str, Path],
    scripts: Mapping[str, Path],
    given: Mapping[str, str],
    config: SentenceConfig,
    options: argparse.Namespace,
) -> dict[str, str]:
    """Embeds the texts that have no file yet, of the films that are named, or of all; why some could not be."""
    failed = {str(path): f"{path}: has no text called {name!r}" for name, path in films.items() if name not in scripts}
    for why in failed.values():
        print(f"warning: left out: {why}", flush=True)
    wanted = {name: path for name, path in scripts.items() if name in films or not films}
    if len(wanted) < len(scripts):
        print(f"{len(scripts) - len(wanted)} texts are of none of the films")
    for name in wanted.keys() - films.keys():
        check_movie_id(name)
    done = [name for name in embedding.embedded(folder) if name in wanted and not changed(folder, name, given)]
    todo = left_of(wanted, done)
    if todo:
        start_ray(show_workers=False)
        arrivals = embedding.embed(folder, todo, given, config, options.gpus, options.encoders)
        labels = {name: f"{path}: {name}" if given else str(path) for name, path in todo.items()}
        failed |= follow(labels, arrivals)
    return failed


def changed(folder: Path, film: str, given: Mapping[str, str]) -> bool:
    """Whether annotations are others than those that were embedded."""
    path = folder / embedding.TEXTS / f"{film}.safetensors"
    return film in given and embedding.told(embedding.read_text(path)[0]) != given[film]


def left_of(films: Mapping[str, T], done: Iterable[str]) -> dict[str, T]:
    """Those that are not done; says how many are."""
    there = {*done}
    todo = {name: value for name, value in films.items() if name not in there}
    if len(todo) < len(films):
        print(f"{len(films) - len(todo)} of {len(films)} films are done already", flush=True)
    return todo


def follow(labels: Mapping[str, str], arrivals: Iterable[tuple[str, str | None]]) -> dict[str, str]:
    """Tells how far it is while films arrive; why some do not, by their label."""
    failed: dict[str, str] = {}
    left = dict(labels)
    began = told = time.monotonic()
    for name, why in arrivals:
        if why is not None:
            failed[labels.get(name, name)] = why
            print(f"warning: left out: {why}", flush=True)
        left.pop(name, None)
        now = time.monotonic()
        if now - told > 10 or not left:
            told, count = now, len(labels) - len(left)
            speed = count / (now - began)
            remaining = f"  ETA {duration(len(left) / speed)}" if count else ""
            print(f"film {count}/{len(labels)}  {speed:.2g} films/s{remaining}", flush=True)
    for label in left.values():
        failed[label] = f"{label}: its process died {RETRIES + 1} times, or met an error that Ray's log has"
        print(f"warning: left out: {failed[label]}", flush=True)
    return failed


if __name__ == "__main__":
    main_of(extract)
