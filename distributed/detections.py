"""From regions that were detected elsewhere to clip features on a Ray cluster, film by film as from pixels.

Actors read the detector's files one picture at a time and encode its regions; this process finds the clip that each
picture belongs to, and writes a film's file as soon as all of its clips have come.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from distributed.extraction import Facts, bear_with_bad_files, device, gather, on_actors, written
from models.config import StrictConfig
from models.data.files import read_lines
from models.data.movie import Clip
from models.data.regions import MEAN, Regions, read_regions, region_encoder
from models.data.timecode import parse_interval
from models.data.yms import SEGMENTATION
from models.errors import UserError

BATCH = 64


class DetectionConfig(StrictConfig):
    """What is made of a picture's regions. A folder of features is of one such setting."""

    regions_encoder: str = MEAN
    frames: int = Field(default=1, ge=1)
    """Pictures of a clip, whose features are averaged."""


def read_clips(place: Path) -> dict[str, list[Clip]]:
    """The clips of each film of a segmentation file in YMS's format, or of the one in a folder.

    Raises UserError naming file and line.
    """
    path = place / SEGMENTATION if place.is_dir() else place
    films: dict[str, list[Clip]] = {}
    for number, line in read_lines(path):
        folder, _, id = line.strip().partition("/")
        try:
            film, start, end = parse_interval(id)
        except UserError as error:
            raise UserError(f"{path}:{number}: {error}") from None
        if film != folder:
            raise UserError(f"{path}:{number}: expected {film}/{id}")
        films.setdefault(film, []).append(Clip(id, start, end))
    if not films:
        raise UserError(f"{path}: holds no clips; expected lines FILM/FILM_START-END")
    return films


class EncodeRegions:
    """What an actor does: a file of regions -> the features of its pictures, with an encoder that it loads once."""

    def __init__(self, source: str) -> None:
        self.encoder = region_encoder(source, device())

    def __call__(self, rows: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """`paths` -> rows of `id` and `feature`, or of `error`; a damaged picture stops no other."""
        waiting: list[Regions] = []
        for found in (found for paths in rows["paths"] for path in paths for found in read_regions(Path(str(path)))):
            if isinstance(found, Regions):
                waiting.append(found)
                if len(waiting) == BATCH:
                    yield self._encoded(waiting)
                    waiting = []
            else:
                yield _told([""], [str(found)], [b""])
        if waiting:
            yield self._encoded(waiting)

    def _encoded(self, pictures: Sequence[Regions]) -> dict[str, Any]:
        ids = [picture.id for picture in pictures]
        try:
            features = self.encoder.encode(pictures).numpy()
        except UserError as error:
            if len(pictures) == 1:
                return _told(ids, [str(error)], [b""])
            alone = [self._encoded([picture]) for picture in pictures]  # one that does not fit stops no other
            return {column: [row[column][0] for row in alone] for column in alone[0]}
        return _told(ids, [""] * len(ids), [row.tobytes() for row in features])


def _told(ids: Sequence[str], errors: Sequence[str], features: Sequence[bytes]) -> dict[str, Any]:
    return {"id": list(ids), "error": list(errors), "feature": list(features)}


class Places:
    """Which picture is of which clip.

    A picture is named after its clip, FILM_START-END, or FILM_NUMBER by its number among the pictures of its film,
    from 0 in the order of time, as `extract --pictures` names them.
    """

    def __init__(self, films: Mapping[str, Sequence[Clip]], frames: int) -> None:
        self.frames = frames
        self.facts = {
            name: Facts(name, [(clip.start, clip.end) for clip in clips], 0, 0, 0, 0.0) for name, clips in films.items()
        }
        self.told = {name: facts.told() for name, facts in self.facts.items()}
        self.clips = {name: [clip.id for clip in clips] for name, clips in films.items()}
        self.seen = {name: bytearray(frames * len(clips)) for name, clips in films.items()}
        self.strangers = 0
        self.width = 0
        self._numbers = {id: (name, n) for name, ids in self.clips.items() for n, id in enumerate(ids)}

    def find(self, id: str) -> tuple[str, int] | None:
        """(film, number of the picture) of a picture's name."""
        if id in self._numbers and self.frames == 1:
            return self._numbers[id]
        film, _, number = id.rpartition("_")
        if film not in self.seen or not (number.isascii() and number.isdigit()):
            return None
        return (film, int(number)) if int(number) < len(self.seen[film]) else None

    def rows(self, arrived: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """What actors give -> rows for `gather`. Of a picture that comes twice the first counts."""
        for row in arrived:
            id, error = str(row["id"]), str(row["error"])
            if error:
                # A damaged picture says where it is; regions that do not fit the encoder name their picture.
                where = id or error.split(": ", maxsplit=1)[0]
                yield {"film": [where], "number": [-1], "told": [json.dumps({"error": error})], "feature": [None]}
                continue
            place = self.find(id)
            if place is None:
                self.strangers += 1
            elif not self.seen[place[0]][place[1]]:
                film, number = place
                feature = np.frombuffer(row["feature"], np.float32)
                self.width = self.width or len(feature)
                told = self.told[film]
                if len(feature) != self.width:
                    told = json.dumps({"error": f"{id}: regions of another width ({len(feature)}, not {self.width})"})
                    film, number = id, -1
                else:
                    self.seen[film][number] = 1
                yield {"film": [film], "number": [number], "told": [told], "feature": [feature]}

    def missing(self, film: str) -> str | None:
        """What a film lacks; None if nothing."""
        lacking = [number for number, there in enumerate(self.seen[film]) if not there]
        if not lacking:
            return None
        clip = self.clips[film][lacking[0] // self.frames]
        return (
            f"{film}: no regions of {len(lacking)} of {len(self.seen[film])} pictures ({film}_{lacking[0]}, "
            f"of clip {clip})"
        )


def detect(
    folder: Path,
    files: Sequence[Path],
    films: Mapping[str, Sequence[Clip]],
    config: DetectionConfig,
    gpus: float,
    encoders: int,
) -> Iterator[tuple[str, str | None]]:
    """Writes the file of each film as it is complete -> (film, None), or (film or picture, why not)."""
    import ray.data

    bear_with_bad_files()
    small = [str(path.absolute()) for path in files if path.suffix == ".npz"]  # of one picture each
    items = [{"paths": [str(path.absolute())]} for path in files if path.suffix != ".npz"]
    items += [{"paths": small[start : start + BATCH]} for start in range(0, len(small), BATCH)]
    source = ray.data.from_items(items, override_num_blocks=len(items))
    rows = on_actors(source, EncodeRegions, config.regions_encoder, 1, gpus, encoders)
    places = Places(films, config.frames)
    yield from written(folder, gather(places.rows(rows.iter_rows()), config.frames))
    if places.strangers:
        print(f"{places.strangers} pictures are of no clip that is wanted")
    for name in films:
        if why := places.missing(name):
            yield name, why
