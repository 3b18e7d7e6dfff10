"""Which visual tokens a recipe wants, and where they come from."""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from models.config import StrictConfig
from models.data.pixels.visual_tokens.dvae import DVAETokenizer
from models.data.pixels.visual_tokens.kmeans import KMeansTokenizer, Settings
from models.data.pixels.visual_tokens.tokenizer import VisualTokenizer
from models.errors import UserError


class VisualTokensConfig(StrictConfig):
    """How cells become tokens."""

    name: Literal["none", "kmeans", "dvae"] = "none"
    """`kmeans`: the nearest of codewords fitted to training frames; `dvae`: the encoder of DALL-E's discrete VAE, as
    Violet was pre-trained with."""
    file: str | None = None
    """The dVAE encoder's tensors; of `kmeans` a codebook that was fitted before, instead of one of this run."""
    codes: int = Field(default=1024, ge=2)
    """Of `kmeans`; the dVAE has its own."""
    colours: int = Field(default=8, ge=1)
    """Of `kmeans`: a cell is averaged to so many colours down and across."""
    normalise: bool = False
    """Of `kmeans`: each cell's mean is taken off and its contrast made 1."""
    sample: int = Field(default=20_000, ge=2)
    """Of `kmeans`: cells of training frames that the codebook is fitted to."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.name == "dvae" and self.file is None:
            raise ValueError("name=dvae needs the file with the encoder's tensors; set file")
        if self.name == "none" and self.file is not None:
            raise ValueError("file is set, but name=none uses none; set name, or leave file out")
        if self.name == "kmeans" and self.sample < self.codes:
            raise ValueError(f"sample={self.sample} cells are fewer than codes={self.codes}; set a larger sample")
        return self


def fit_or_load(
    config: VisualTokensConfig, frames: Iterable[NDArray[np.uint8]], grid: int, seed: int, path: Path
) -> VisualTokenizer | None:
    """The tokenizer that a recipe asks for; None for `none`.

    Args:
        frames: of training videos, (T, 3, s, s) RGB each, in an order of the caller's; read only if a codebook is
            fitted.
        grid: cells of a frame's side.
        path: where a run's own codebook is (.safetensors): read if it is there, else fitted and written.

    Raises:
        UserError: a file is missing or no such tokenizer, a codebook is not of these settings, or the frames hold too
            few different cells.
    """
    if config.name == "none":
        return None
    if config.name == "dvae":
        return DVAETokenizer.load(Path(config.file or ""), grid)
    wanted = Settings(config.codes, config.colours, config.normalise, config.sample, seed, grid)
    if config.file is not None:
        found = KMeansTokenizer.load(Path(config.file), grid)
        _check(Path(config.file), found.settings[:3], wanted)  # how it was fitted is its own affair
    elif path.exists():
        found = KMeansTokenizer.load(path, grid)
        _check(path, found.settings, wanted)
    else:
        found = KMeansTokenizer.fit(frames, wanted)
        found.save(path)
    return found


def _check(path: Path, found: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    for name, theirs, ours in zip(Settings._fields, found, wanted, strict=False):
        if theirs != ours:
            raise UserError(
                f"{path}: was fitted with {name}={theirs}, this run has {name}={ours}; set it to that, or name another "
                "file"
            )
