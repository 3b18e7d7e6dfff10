"""From scripts or annotations to sentences and their embeddings on a Ray cluster: one file a film, whole or not at all.

Actors that keep an encoder each read a film's script, cut it into sentences and embed them.
"""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from distributed.extraction import bear_with_bad_files, device, on_actors
from models.config import StrictConfig
from models.data.features import write_features
from models.data.files import atomic_path
from models.data.movie import Snippet
from models.data.scripts import Passage, read_script
from models.data.sentences import MINILM, SentenceEncoder
from models.data.timecode import format_interval, movie_id_of, parse_interval
from models.data.yms import ANNOTATIONS, read_phrases
from models.errors import UserError

TEXTS, SETTINGS = "texts", "sentences.json"
TEXT_FEATURES, SENTENCES = "text_features.npz", "sentences.csv"
BATCH = 8
"""Films whose sentences one task embeds: what an interruption loses."""
SCRIPT_SUFFIXES = {".txt", ".srt", ".vtt", ".fountain"}


class SentenceConfig(StrictConfig):
    """What is made of a text. A folder of embeddings is of one such setting."""

    sentence_encoder: str = MINILM
    source: str = "scripts"
    """`scripts` are cut into sentences; `annotations` are embedded phrase by phrase."""
    language: str = "en"
    dialogue: bool = False
    """Of screenplays: also what is said."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence of a film. `start` and `end` are seconds in whole milliseconds, None where its script has no times."""

    id: str
    text: str
    start: float | None
    end: float | None
    matched: bool


def told(sentences: Sequence[Sentence]) -> str:
    """As JSON."""
    return json.dumps([asdict(sentence) for sentence in sentences])


def heard(text: str) -> list[Sentence]:
    """The inverse of `told`."""
    return [Sentence(**values) for values in json.loads(text)]


def of_snippets(snippets: Sequence[Snippet]) -> list[Sentence]:
    """Annotations as they stand."""
    return [Sentence(s.id, s.text, s.start, s.end, s.matched) for s in snippets]


def of_passages(film: str, passages: Sequence[Passage]) -> list[Sentence]:
    """Those with times get the ids of YMS's annotations, FILM_START-END, others FILM_NUMBER, counted from 1.

    Raises UserError for times that are none, out of order or overlap.
    """
    found: list[Sentence] = []
    last = 0.0
    for number, passage in enumerate(passages, start=1):
        start, end = passage.start, passage.end
        if start is None or end is None:
            found.append(Sentence(f"{film}_{number}", passage.text, None, None, passage.matched))
            continue
        interval = parse_interval(format_interval(film, start, end))
        if interval.start < last:
            raise UserError(f"sentence {number} ({passage.text[:40]!r}) begins at {start:.3f} s, before another ends")
        last = interval.end
        id = format_interval(film, start, end)
        found.append(Sentence(id, passage.text, interval.start, interval.end, passage.matched))
    return found


class Embed:
    """What an actor does: films -> their sentences and embeddings, with an encoder that it loads once."""

    def __init__(self, config: SentenceConfig) -> None:
        self.config, self.encoder = config, SentenceEncoder.load(config.sentence_encoder, device())

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        """`film`, `script`, `told` (empty: the script is to be read) -> `film`, `told`, `error`, `embeddings`."""
        made: dict[str, list[Any]] = {"film": [], "told": [], "error": [], "embeddings": []}
        for film, script, given in zip(rows["film"], rows["script"], rows["told"], strict=True):
            text, error, values = str(given), "", b""
            try:
                text = text or told(self._read(str(film), Path(str(script))))
                embeddings = self.encoder.encode([sentence.text for sentence in heard(text)])
                values = embeddings.numpy().tobytes()
            except UserError as wrong:
                error = str(wrong)
            for column, value in zip(made, (str(film), text, error, values), strict=True):
                made[column].append(value)
        return made

    def _read(self, film: str, path: Path) -> list[Sentence]:
        options = {"language": self.config.language, "dialogue": self.config.dialogue}
        passages = read_script(path, sentences=True, **options)  # type: ignore[arg-type]
        try:
            return of_passages(film, passages)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None


def find_scripts(folder: Path) -> dict[str, Path]:
    """The scripts below a folder, by name without suffix and blanks. Raises UserError for none, or two of a name."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected a folder of scripts")
    found: dict[str, Path] = {}
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in SCRIPT_SUFFIXES):
        name = movie_id_of(path)
        if name in found:
            raise UserError(f"{path}: is called like {found[name]}; a film has one script")
        found[name] = path.absolute()
    if not found:
        raise UserError(f"{folder}: holds no script ({', '.join(sorted(SCRIPT_SUFFIXES))})")
    return found


def embed(
    folder: Path, todo: Mapping[str, Path], given: Mapping[str, str], config: SentenceConfig, gpus: float, encoders: int
) -> Iterator[tuple[str, str | None]]:
    """Writes the file of each film as it is done -> (film, None), or (film, why not).

    Args:
        todo: scripts by film, or the annotations' file.
        given: the sentences of films whose script is not to be read.
    """
    import ray.data

    bear_with_bad_files()
    items = [{"film": film, "script": str(path), "told": given.get(film, "")} for film, path in todo.items()]
    source = ray.data.from_items(items, override_num_blocks=-(-len(items) // BATCH))
    rows = on_actors(source, Embed, config, BATCH, gpus, encoders)
    for row in rows.iter_rows():
        film = str(row["film"])
        if row["error"]:
            yield film, str(row["error"])
            continue
        sentences = heard(str(row["told"]))
        values = np.frombuffer(row["embeddings"], np.float32).reshape(len(sentences), -1)
        with atomic_path(folder / TEXTS / f"{film}.safetensors") as temporary:
            metadata = {"sentences": told(sentences), "file": todo[film].name}
            save_file({"embeddings": torch.from_numpy(values.copy())}, temporary, metadata=metadata)
        yield film, None


def read_text(path: Path) -> tuple[list[Sentence], torch.Tensor]:
    """The sentences of a film's file and their embeddings. Raises UserError for a file that is something else."""
    try:
        with safe_open(path, framework="pt") as file:
            return heard((file.metadata() or {})["sentences"]), file.get_tensor("embeddings")
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: holds no embeddings of sentences ({error}); delete it, and it is made anew") from None


def embedded(folder: Path) -> list[str]:
    """The films whose sentences are embedded."""
    return sorted(path.stem for path in (folder / TEXTS).glob("*.safetensors"))


def collect_sentences(folder: Path, config: SentenceConfig) -> int:
    """Puts the films' files together into those that recipes read; returns how many sentences there are.

    Annotations of scripts with times are written in YMS's format; those that were given are left where they are.
    """
    sentences: list[Sentence] = []
    embeddings = []
    for film in embedded(folder):
        own, rows = read_text(folder / TEXTS / f"{film}.safetensors")
        sentences += own
        embeddings.append(rows)
    if not sentences:
        return 0
    write_features(folder / TEXT_FEATURES, [sentence.id for sentence in sentences], torch.cat(embeddings))
    with atomic_path(folder / SENTENCES) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("id", "text"), *((sentence.id, sentence.text) for sentence in sentences)])
    timed = [sentence for sentence in sentences if sentence.start is not None]
    if timed and config.source == "scripts":
        with atomic_path(folder / ANNOTATIONS) as temporary:
            lines = [f"{s.id}\t{'' if s.matched else 'UNMATCHED: '}{s.text}\n" for s in timed]
            temporary.write_text("".join(lines), encoding="utf-8")
            read_phrases(temporary)  # a text that would read back as another is an error
    return len(sentences)
