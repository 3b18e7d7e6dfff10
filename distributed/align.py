"""Aligns a film with its script, and writes what was found for programs, for players and for people.

    python -m distributed.align MOVIE SCRIPT --run RUN [--beam 8] [--to FOLDER]

MOVIE is a video file; SCRIPT plain text, subtitles, a screenplay or annotations in YMS's format; RUN a run of the task
alignment, its folder or URI, or an export. The film is cut and encoded as the run's own clips were (`extraction.json`
beside its clip features), in this process, without a cluster. FOLDER (default: MOVIE-alignment, beside the film) gets
alignment.json, annotations_phrases.txt with clip_segmentation.txt, NAME.srt and alignment.html.
"""

import argparse
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from safetensors.torch import save

from distributed.aligning import check_width, clips_of, read_model, read_passages
from distributed.command import main_of
from distributed.exported import Export
from distributed.extraction import Encode
from distributed.pages.alignment import write_alignment_page
from distributed.pages.thumbnails import within_budget
from models.data.aligned import annotated, write_subtitles
from models.data.examples import Example
from models.data.files import check_writable
from models.data.film import Film
from models.data.movie import Alignment, Movie
from models.data.segmentation import DETECTORS
from models.data.sentences import embed_texts
from models.data.timecode import check_movie_id, movie_id_of
from models.data.yms import ANNOTATIONS, SEGMENTATION, write_yms
from models.errors import UserError
from models.neumatch.certainty import confidences, of_snippets
from models.neumatch.decoding import DecodingConfig, align
from models.neumatch.metrics import score

JSON, PAGE = "alignment.json", "alignment.html"
FORMAT = "meltmatch alignment 1"
ROW = "NeuMATCH"


def _digest(export: Export) -> str:
    """Names the weights and what goes before them, whatever file they came from."""
    tensors = {**export.weights, **export.preprocessors.state()}
    return hashlib.sha256(save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()})).hexdigest()


def document(
    movie: Movie, placed: Movie, alignment: Alignment, sure: Sequence[float], reference: str | None
) -> dict[str, Any]:
    """The part of alignment.json that tells of clips and snippets. `movie` has the script's own times, `placed` those
    of the alignment."""
    own: list[list[int]] = [[] for _ in movie.snippets]
    for number, texts in enumerate(alignment):
        for j in texts:
            own[j].append(number)
    clips = [
        {"start": clip.start, "end": clip.end, "snippets": list(texts), "confidence": round(confidence, 6)}
        for clip, texts, confidence in zip(movie.clips, alignment, sure, strict=True)
    ]
    snippets: list[dict[str, Any]] = []
    for j, confidence in enumerate(of_snippets(alignment, len(movie.snippets), sure)):
        there, told = placed.snippets[j], movie.snippets[j]
        snippets.append(
            {
                "text": told.text,
                "clips": own[j],
                "start": there.start if there.matched else None,
                "end": there.end if there.matched else None,
                "confidence": None if confidence is None else round(confidence, 6),
            }
        )
        if reference is not None:
            snippets[-1]["reference"] = {"start": told.start, "end": told.end, "matched": told.matched}
    compared = None
    if reference is not None:
        figures = score([movie], [alignment])
        compared = {"kind": reference, "video_accuracy": figures.video_accuracy, "text_iou": figures.text_iou}
    return {"reference": compared, "clips": clips, "snippets": snippets}


def align_film(arguments: Sequence[str]) -> None:
    """The command."""
    options = _options(arguments)
    film, run = options.movie, str(options.run)
    name = options.name or movie_id_of(film)
    check_movie_id(name)
    folder = (options.to or film.with_name(f"{film.stem}-alignment")).absolute()
    Film.open(film)  # what is wrong with film, place, run, script or encoders is said before the work begins
    check_writable(folder, "name another with --to")
    model = read_model(options)
    script = read_passages(options.script, name, model.texts, options.sentences)
    fitted = model.export.preprocessors
    texts = embed_texts([passage.text for passage in script.passages], model.texts.sentence_encoder, None)
    of_text = f"the sentence encoder {model.texts.sentence_encoder!r}"
    check_width(texts.shape[1], fitted.text.width, of_text, "--sentence-encoder", run)
    encode = Encode(model.extraction.encoder)
    of_image = f"the image encoder {model.extraction.encoder!r} ({model.came_from})"
    check_width(encode.encoder.width, fitted.video.width, of_image, "--encoder", run)
    print(f"{film}: cutting, and encoding with {model.extraction.encoder} (settings: {model.came_from})", flush=True)
    clips, features, pictures = clips_of(film, name, model.extraction, encode)
    movie = script.movie(name, tuple(clips))
    network, example = model.export.network(), fitted.apply(Example(movie, features, texts))
    (alignment,) = align(network, [example], model.decoding)
    (sure,) = confidences(network, [example], [alignment])
    placed = annotated(movie, alignment)
    about = {key: model.export.about.get(key) for key in ("run", "step", "epoch")}
    whole = {
        "format": FORMAT,
        "movie": {"name": name, "file": os.path.relpath(film.absolute(), folder), "seconds": clips[-1].end},
        "script": os.path.relpath(options.script.absolute(), folder),
        "model": {**about, "sha256": _digest(model.export)},
        "settings": {
            **model.extraction.model_dump(mode="json", exclude={"damaged"}),
            "sentence_encoder": model.texts.sentence_encoder,
            "decoding": model.decoding.model_dump(mode="json"),
        },
        **document(movie, placed, alignment, sure, script.reference),
    }
    with _all_or_nothing(folder, (JSON, ANNOTATIONS, SEGMENTATION, f"{name}.srt", PAGE)) as made:
        (made / JSON).write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        write_yms(made, {name: placed}, {"train": (), "validation": (), "test": (name,)})
        write_subtitles(made / f"{name}.srt", placed.snippets)
        write_alignment_page(
            made / PAGE,
            movie,
            {ROW: alignment},
            title=f"{name} and its script",
            note=f"Aligned by the run {about['run']} at step {about['step']}, decoding: {_said(model.decoding)}.",
            reference=script.reference,
            confidences={ROW: sure},
            film=quote(whole["movie"]["file"]),
            thumbnails=within_budget(pictures),
        )
    told = sum(snippet.matched for snippet in placed.snippets)
    print(f"{len(clips)} clips; {told} of {len(placed.snippets)} texts were found in them")
    if (compared := whole["reference"]) is not None:
        print(
            f"beside the {compared['kind']}: video accuracy {compared['video_accuracy']:.1f}, "
            f"text IoU {compared['text_iou']:.1f}"
        )
    print(f"{folder}: {JSON}, {ANNOTATIONS}, {SEGMENTATION}, {name}.srt\nlook at it: {(folder / PAGE).as_uri()}")


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m distributed.align", description="Align a film with its script.")
    parser.add_argument("movie", type=Path, help="a video file")
    parser.add_argument("script", type=Path, help=".txt (a text a line), .srt, .vtt, .fountain, or YMS's annotations")
    parser.add_argument("--run", required=True, help="an alignment run's folder or URI, or an export")
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best")
    parser.add_argument("--beam", type=int, metavar="WIDTH", help="beam search (default: as the run's recipe decodes)")
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="default: MOVIE-alignment, beside the film")
    parser.add_argument("--name", help="the film's, also in annotations (default: its file's)")
    yes_or_no = argparse.BooleanOptionalAction
    text = parser.add_argument_group("the script (default: as the run's own texts were read)")
    text.add_argument("--sentences", action=yes_or_no, help="cut and join it into sentences")
    text.add_argument("--language", help="of it, for --sentences")
    text.add_argument("--dialogue", action=yes_or_no, help="of a screenplay: also what is said")
    text.add_argument("--sentence-encoder", metavar="NAME", help="a local folder, a hub name, or minilm")
    cut = parser.add_argument_group("the film (default: as the run's own clips were made)")
    cut.add_argument("--encoder", help="of images, as distributed.extract takes it")
    cut.add_argument("--frames", type=int, help="of a clip, whose features are averaged")
    cut.add_argument("--detector", choices=list(DETECTORS), help="PySceneDetect's")
    cut.add_argument("--threshold", type=float, help="of the detector")
    cut.add_argument("--min-frames", type=int, help="of a clip")
    cut.add_argument("--damaged", action="store_true", help="take a film whose end is lost as far as it goes")
    options = parser.parse_args(arguments)
    if options.beam is not None and options.beam < 1:
        raise UserError(f"--beam {options.beam}: expected a width of 1 or more")
    return options


def _said(decoding: DecodingConfig) -> str:
    return f"beam search of width {decoding.width}" if decoding.method == "beam" else decoding.method


@contextmanager
def _all_or_nothing(folder: Path, names: Sequence[str]) -> Iterator[Path]:
    """A folder to write to; when the block ends well the files called so take their places in `folder` together."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".alignment-", dir=folder) as made:
            yield Path(made)
            for name in names:
                if (folder / name).is_dir():
                    raise UserError(f"{folder / name}: is a folder, but a file is to be written there; move it away")
            for name in names:
                (Path(made) / name).replace(folder / name)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror or error}); name another with --to") from None


if __name__ == "__main__":
    main_of(align_film)
