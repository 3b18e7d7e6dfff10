"""What one film's alignment is made of: its script, a trained aligner and its settings, clips and their features."""

import argparse
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import ValidationError
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

from distributed import fetch
from distributed.config import AlignmentRecipe, Recipe
from distributed.embedding import SETTINGS as TEXT_SETTINGS
from distributed.embedding import SentenceConfig
from distributed.exported import Export, export_of, read_export
from distributed.extract import clip_of
from distributed.extraction import SETTINGS, Encode, ExtractionConfig, check_end, frame_times
from distributed.pages.alignment import GOLD
from distributed.pages.thumbnails import thumbnail
from distributed.recipe_file import load_recipe
from models.config import StrictConfig
from models.data.alignment_set import AlignmentDataConfig
from models.data.encoders import geometry
from models.data.film import Film, stills
from models.data.movie import Clip, Movie, Snippet
from models.data.scripts import Passage, format_of, read_script
from models.data.segmentation import segment
from models.errors import UserError
from models.neumatch.decoding import DecodingConfig

C = TypeVar("C", bound=StrictConfig)
_RESERVED = ("UNMATCHED", "UNMACTHED")
"""What begins a phrase of YMS's annotations that is no plain text; the second is a misspelling in the official file."""


@dataclass(frozen=True)
class Script:
    """The passages to align.

    Attributes:
        reference: what the passages' own times are called, None where not all have times that are in order.
    """

    passages: list[Passage]
    reference: str | None

    def movie(self, name: str, clips: tuple[Clip, ...]) -> Movie:
        """With the passages' own times; without, they are spread over the film, where nobody looks at them."""
        seconds, count = clips[-1].end, len(self.passages)
        snippets = []
        for number, passage in enumerate(self.passages):
            start, end = seconds * number / count, seconds * (number + 1) / count
            if self.reference is not None and passage.start is not None and passage.end is not None:
                start, end = passage.start, passage.end
            snippets.append(Snippet(f"{name}_{number + 1}", passage.text, start, end, passage.matched))
        return Movie(name, clips, tuple(snippets))


@dataclass(frozen=True)
class Model:
    """A trained aligner, and how films and texts come to it.

    Attributes:
        came_from: of the extraction's settings, in words.
    """

    export: Export
    decoding: DecodingConfig
    extraction: ExtractionConfig
    came_from: str
    texts: SentenceConfig


def read_passages(path: Path, name: str, config: SentenceConfig, sentences: bool | None) -> Script:
    """The script's passages with plain texts. `sentences`: whether they are cut and joined into sentences; None: where
    the model's own texts were, and the script is no annotation.

    Raises:
        UserError: it cannot be read, or holds what cannot be aligned or written.
    """
    form = format_of(path)
    read = read_script(
        path,
        form,
        sentences=sentences if sentences is not None else config.source == "scripts" and form != "yms",
        language=config.language,
        dialogue=config.dialogue,
        movie=name if form == "yms" else None,
    )
    passages = []
    for number, passage in enumerate(read, start=1):
        text = " ".join(passage.text.split())
        if text.startswith(_RESERVED):
            raise UserError(f"{path}: text {number} begins with {text[:9]!r}, which annotations keep for themselves")
        passages.append(Passage(text, passage.start, passage.end, passage.matched))
    ordered, last = True, 0.0
    for passage in passages:
        ordered &= passage.start is not None and passage.end is not None and last - 1e-6 <= passage.start < passage.end
        last = passage.end or last
    kind = {"yms": GOLD, "srt": "subtitles", "vtt": "subtitles"}.get(form)
    return Script(passages, kind if ordered else None)


def read_model(options: argparse.Namespace) -> Model:
    """The run or export, with the settings that its own features were made by where no option says otherwise.

    Raises:
        UserError: it is no trained aligner, or an option or settings file is wrong.
    """
    where = fetch.view(options.run, options.checkpoint)
    decoding = DecodingConfig()
    if (where / "recipe.yaml").is_file():
        recipe = load_recipe(where / "recipe.yaml", [], Recipe)
        if not isinstance(recipe, AlignmentRecipe):
            raise UserError(f"{options.run}: an alignment run is expected; this one's task is {recipe.task}")
        export, data, decoding = export_of(where, options.checkpoint), recipe.data, recipe.decoding
    elif (where / "config.json").is_file():
        export = read_export(where)
        try:
            data = AlignmentDataConfig.model_validate_json(json.dumps(export.about["data"]))
        except (KeyError, ValidationError):
            raise UserError(f"{where}/config.json: does not name the run's data; make the export again") from None
    else:
        raise UserError(f"{options.run}: neither a run (recipe.yaml) nor an export (config.json)")
    if options.beam is not None:
        decoding = decoding.model_copy(update={"method": "beam", "width": options.beam})
    extraction, came_from = _extraction(data, options)
    return Model(export, decoding, extraction, came_from, _texts(data, options))


def _root(data: AlignmentDataConfig) -> str | None:
    """Where the data's relative paths begin, if that is known here."""
    return data.root or os.environ.get("MELTMATCH_DATA")


def _beside(data: AlignmentDataConfig, features: str | None, name: str) -> tuple[Path, dict[str, Any]] | None:
    """What a settings file beside a file of features says; None where there is none, or no such data here."""
    root = _root(data)
    if features is None or (root is None and not Path(features).is_absolute()):
        return None
    path = data.path(features).parent / name
    if not path.is_file():
        return None
    try:
        return path, dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: cannot be read as the settings of features ({error})") from None


def _extraction(data: AlignmentDataConfig, options: argparse.Namespace) -> tuple[ExtractionConfig, str]:
    found = _beside(data, data.clip_features, SETTINGS)
    values, came_from = ({}, "defaults") if found is None else (found[1], str(found[0]))
    if "regions_encoder" in values and options.encoder is None:
        raise UserError(f"{came_from}: the run's clips are a detector's regions, which no film tells by itself")
    config = _checked(ExtractionConfig, {} if "regions_encoder" in values else values, came_from)
    cutting = _given(options, "detector", "threshold", "min_frames")
    values = config.model_dump(mode="json") | _given(options, "encoder", "frames")
    values["segmentation"] |= cutting
    if "detector" in cutting and "threshold" not in cutting:
        values["segmentation"]["threshold"] = None  # another detector's is on another scale
    values["damaged"] = options.damaged
    try:
        config = ExtractionConfig.model_validate_json(json.dumps(values))
    except ValidationError as error:
        wrong = error.errors()[0]
        option = str(wrong["loc"][-1]).replace("_", "-")
        raise UserError(f"--{option} {wrong['input']}: {wrong['msg'].lower()}") from None
    return config, came_from


def _texts(data: AlignmentDataConfig, options: argparse.Namespace) -> SentenceConfig:
    found = _beside(data, data.text_features, TEXT_SETTINGS)
    values: dict[str, Any] = {"source": "annotations", "sentence_encoder": data.sentence_encoder}
    config = _checked(SentenceConfig, values if found is None else found[1], str(found[0]) if found else "defaults")
    root = _root(data)
    if options.sentence_encoder is None and root and Path(root, config.sentence_encoder).is_dir():
        config = config.model_copy(update={"sentence_encoder": str(Path(root, config.sentence_encoder).absolute())})
    return config.model_copy(update=_given(options, "sentence_encoder", "language", "dialogue"))


def _given(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    return {name: getattr(options, name) for name in names if getattr(options, name) is not None}


def _checked(schema: type[C], values: dict[str, Any], place: str) -> C:
    try:
        return schema.model_validate_json(json.dumps(values))
    except ValidationError as error:
        wrong = error.errors()[0]
        raise UserError(f"{place}: {'.'.join(map(str, wrong['loc']))}: {wrong['msg'].lower()}") from None


def check_width(width: int, fitted: int, what: str, option: str, run: str) -> None:
    """Raises UserError where an encoder is not the one whose features a run was trained on."""
    if width != fitted:
        raise UserError(
            f"{what} gives features of width {width}, but {run} was trained on width {fitted}; name the one that made "
            f"its features with {option}"
        )


def clips_of(path: Path, name: str, config: ExtractionConfig, encode: Encode) -> tuple[list[Clip], Tensor, list[bytes]]:
    """Cuts and encodes a film -> clips, their features (clips, d) as `distributed.extract` makes them, and a picture
    of each.

    Raises:
        UserError: the film cannot be decoded, or not to its end and `config.damaged` does not allow that.
    """
    seconds = Film.open(path).seconds
    # Bars only on a terminal.
    with tqdm(total=seconds and round(seconds), desc="cutting", unit="s", disable=None, leave=False) as bar:
        found = segment(path, config.segmentation, lambda reached: bar.update(int(reached) - bar.n))
    check_end(path, found, config)
    times = [time for start, end in found.clips for time in frame_times(start, end, config.frames)]
    shape, rows, batch, pictures = geometry(config.encoder), [], [], []
    images = tqdm(stills(path, times, min(shape.side)), "encoding", len(times), unit="frame", disable=None, leave=False)
    for number, image in enumerate(images):
        if number % config.frames == config.frames // 2:
            pictures.append(thumbnail(image))
        batch.append(torch.from_numpy(shape.fit(image)))
        if len(batch) == 32 or number == len(times) - 1:
            rows.append(torch.as_tensor(encode({"image": torch.stack(batch).numpy()})["feature"]))
            batch = []
    features = torch.cat(rows).view(len(found.clips), config.frames, -1).mean(1)
    return [clip_of(name, start, end) for start, end in found.clips], features, pictures
