"""From videos to clips and features on a Ray cluster: decode and cut on CPUs, encode in actors, write film by film.

Ray Data moves the frames: one task a film cuts it and decodes its frames, actors that keep an encoder each take them
in batches across films, and this process writes a film's file as soon as its last clip has come. Such a file is there
whole or not at all, so whatever is there when a command begins again needs no second look.
"""

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from models.config import StrictConfig
from models.data.encoders import LITE0, geometry, image_encoder
from models.data.files import atomic_path
from models.data.film import stills
from models.data.segmentation import Segmentation, SegmentationConfig, segment
from models.errors import UserError

FILMS, SETTINGS = "films", "extraction.json"
CLIPS, FACTS = "features", "facts"
RETRIES = 2
"""How often a film is tried again whose process died; a node may have died with it, or the film may kill it."""


class ExtractionConfig(StrictConfig):
    """What is taken from a film. A folder of features is of one such setting."""

    segmentation: SegmentationConfig = SegmentationConfig()
    encoder: str = LITE0
    frames: int = Field(default=1, ge=1)
    """Of a clip: the central one, or so many at equal distances, whose features are averaged."""
    pictures: str | None = None
    """A folder for the frames themselves, as FILM_NUMBER.jpg, for a detector to look at."""
    damaged: bool = False
    """Whether films whose end cannot be decoded are taken as far as they go; otherwise they are left out, and named."""


@dataclass(frozen=True)
class Facts:
    """What is known of a film beside its features.

    Attributes:
        file: its name as given.
        clips: (start, end) in seconds of each.
        width, height, frames: 0 where its clips were detected elsewhere, and it was not decoded.
    """

    file: str
    clips: list[tuple[float, float]]
    width: int
    height: int
    frames: int
    lost: float

    def told(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, told: str) -> "Facts":
        """The inverse of `told`."""
        values = json.loads(told)
        return cls(**{**values, "clips": [(start, end) for start, end in values["clips"]]})


@dataclass
class _Arriving:
    """A film of which not all clips have come yet."""

    facts: Facts
    features: dict[int, NDArray[np.float32]] = field(default_factory=dict)


def frame_times(start: float, end: float, count: int) -> list[float]:
    """Seconds at the middles of `count` equal parts of a clip; one frame is the central one."""
    return [start + (end - start) * (2 * i + 1) / (2 * count) for i in range(count)]


def check_end(path: Path, found: Segmentation, config: ExtractionConfig) -> None:
    """Raises UserError for a film whose end is lost, unless the settings take it so."""
    if found.lost > max(1.0, 0.02 * (found.film.seconds or 0.0)) and not config.damaged:
        raise UserError(
            f"{path}: its last {found.lost:.1f} of {found.film.seconds:.1f} s cannot be decoded; "
            "take it as far as it goes with --damaged"
        )


class Cutter:
    """A film -> one row a frame: what a task does."""

    def __init__(self, config: ExtractionConfig) -> None:
        self.config = config

    def __call__(self, rows: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Columns of one film -> those of its frames; a film that cannot be read is one row that says why."""
        shape = geometry(self.config.encoder)
        for name, path in zip(rows["film"], rows["path"], strict=True):
            try:
                yield from self._frames(str(name), Path(str(path)), shape)
            except UserError as error:
                blank = np.zeros((*shape.side, 3), np.uint8)
                yield _columns(str(name), [-1], [blank], json.dumps({"error": str(error)}))

    def _frames(self, name: str, path: Path, shape: Any) -> Iterator[dict[str, Any]]:
        found = segment(path, self.config.segmentation)
        check_end(path, found, self.config)
        facts = Facts(path.name, list(found.clips), found.film.width, found.film.height, found.frames, found.lost)
        told = facts.told()
        times = [t for start, end in found.clips for t in frame_times(start, end, self.config.frames)]
        numbers: list[int] = []
        images: list[NDArray[np.uint8]] = []
        side = min(shape.side) if self.config.pictures is None else None
        for number, image in enumerate(stills(path, times, side)):
            if self.config.pictures is not None:
                _keep(Path(self.config.pictures) / f"{name}_{number}.jpg", image)
            numbers.append(number)
            images.append(shape.fit(image))
            if len(images) == 32:
                yield _columns(name, numbers, images, told)
                numbers, images = [], []
        if images:
            yield _columns(name, numbers, images, told)


def _keep(path: Path, image: NDArray[np.uint8]) -> None:
    done, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
    if not done:
        raise UserError(f"{path}: a frame of {image.shape[1]}x{image.shape[0]} pixels cannot be kept as JPEG")
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.tobytes())


def _columns(name: str, numbers: Sequence[int], images: Sequence[NDArray[np.uint8]], told: str) -> dict[str, Any]:
    count = len(numbers)
    return {"film": [name] * count, "number": list(numbers), "told": [told] * count, "image": np.stack(images)}


def device() -> str:
    """Where an actor puts its encoder: the GPU that Ray gave it, if any."""
    return "cuda" if torch.cuda.is_available() else "cpu"


class Encode:
    """What an actor does: frames -> features, with an encoder that it loads once."""

    def __init__(self, source: str) -> None:
        self.encoder = image_encoder(source, device())

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        images = torch.from_numpy(np.ascontiguousarray(rows.pop("image")))
        return {**rows, "feature": self.encoder.encode(images).cpu().numpy()}


def gather(rows: Iterable[Mapping[str, Any]], frames: int) -> Iterator[tuple[str, Facts | str, torch.Tensor | None]]:
    """Rows in any order -> (film, facts, (clips, d) features) when a film is complete, (film, why not, None) if bad."""
    arriving: dict[str, _Arriving] = {}
    columns = ("film", "number", "told", "feature")
    for batch in rows:
        for given, number, told, feature in zip(*(batch[column] for column in columns), strict=True):
            name = str(given)
            if number < 0:
                yield name, str(json.loads(str(told))["error"]), None
                continue
            if name not in arriving:
                arriving[name] = _Arriving(Facts.read(str(told)))
            film = arriving[name]
            film.features[int(number)] = np.asarray(feature, np.float32)
            if len(film.features) == frames * len(film.facts.clips):
                ordered = np.stack([film.features[i] for i in range(len(film.features))])
                means = torch.from_numpy(ordered).view(len(film.facts.clips), frames, -1).mean(1)
                del arriving[name]
                yield name, film.facts, means


def write_film(folder: Path, name: str, facts: Facts, features: torch.Tensor) -> None:
    """Writes a film's file, whole or not at all."""
    with atomic_path(folder / FILMS / f"{name}.safetensors") as temporary:
        save_file({CLIPS: features.contiguous()}, temporary, metadata={FACTS: facts.told()})


def written(
    folder: Path, arriving: Iterable[tuple[str, Facts | str, torch.Tensor | None]]
) -> Iterator[tuple[str, str | None]]:
    """Writes the file of each film that `gather` gives -> (film, None), or (film, why not)."""
    for name, facts, features in arriving:
        if isinstance(facts, str) or features is None:
            yield name, str(facts)
        else:
            write_film(folder, name, facts, features)
            yield name, None


def read_film(path: Path) -> tuple[Facts, torch.Tensor]:
    """What `write_film` wrote. Raises UserError for a file that is something else."""
    try:
        with safe_open(path, framework="pt") as file:
            return Facts.read((file.metadata() or {})[FACTS]), file.get_tensor(CLIPS)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: is no film's features ({error}); delete it, and it is made anew") from None


def finished(folder: Path) -> list[str]:
    """The films that have a file."""
    return sorted(path.stem for path in (folder / FILMS).glob("*.safetensors"))


def begin(folder: Path, config: StrictConfig, settings: str = SETTINGS) -> None:
    """Notes the settings in a new folder, in the file `settings`.

    Raises:
        UserError: the folder was begun with others, or holds something else.
    """
    path = folder / settings
    now = config.model_dump(mode="json", exclude={"damaged"})
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        changed = sorted(key for key in now | before if now.get(key) != before.get(key))
        if changed:
            raise UserError(
                f"{folder}: was begun with {changed[0]}={before.get(changed[0])!r}, not {now.get(changed[0])!r}; "
                "name another folder with --to"
            )
        return
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(now, indent=1), encoding="utf-8")


def bear_with_bad_files() -> None:
    """A file that kills the process which reads it stops no other; and this process tells how far it is itself."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.max_errored_blocks = -1
    context.enable_progress_bars = False


def pipeline(films: Mapping[str, Path], config: ExtractionConfig, cpus: float, gpus: float, encoders: int) -> Any:
    """The rows of all films as Ray Data streams them. `cpus`: of a task that cuts; `gpus`: of an encoder."""
    import ray.data
    from ray.util.annotations import RayDeprecationWarning

    bear_with_bad_files()
    items = [{"film": name, "path": str(path)} for name, path in films.items()]
    source = ray.data.from_items(items, override_num_blocks=len(items))
    with warnings.catch_warnings():
        # Left to itself Ray Data would try again for ever, and it has no other way to say this than a deprecated one.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        frames = source.map_batches(Cutter(config).__call__, batch_size=1, num_cpus=cpus, max_retries=RETRIES)
    return on_actors(frames, Encode, config.encoder, 64, gpus, encoders)


def on_actors(rows: Any, work: type, setting: object, batch: int, gpus: float, encoders: int) -> Any:
    """A data set after at most `encoders` actors made of `work(setting)` have seen it, so many rows at a time."""
    import ray.data

    return rows.map_batches(
        work,
        fn_constructor_args=(setting,),
        batch_size=batch,
        num_gpus=gpus,
        num_cpus=0 if gpus else 1,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=encoders),
    )
