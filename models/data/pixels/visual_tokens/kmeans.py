"""Visual tokens by k-means: a cell's token is the nearest of the codewords that training frames gave.

Shape legend: N frames of s x s pixels, each a grid of g x g cells; a cell is k x k colours; K codewords; D = 3 k k.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from models.data.files import atomic_path
from models.errors import UserError

FORMAT = "visual codebook 1"
CELLS_A_FRAME = 8
"""How many cells of a frame are learned from: many frames say more than many cells of a few."""
_AT_ONCE = 4096
_NAME = "codebook"


class Settings(NamedTuple):
    """How a codebook came about."""

    codes: int
    colours: int
    """k: a cell is averaged to so many colours down and across."""
    normalise: bool
    """Whether each cell's mean is taken off and its contrast made 1 (Coates et al. 2011), so that tokens tell shapes
    and not brightness."""
    sample: int
    """Cells that it was fitted to, at most."""
    seed: int
    grid: int
    """g, of the frames that it was fitted to."""


class KMeansTokenizer:
    """Nearest codewords, in Euclidean distance; of equally near ones the first."""

    def __init__(self, codebook: Tensor, settings: Settings, grid: int) -> None:
        """`codebook`: (K, D) float32; `grid`: of the frames to come."""
        self.codebook, self.settings, self.grid = codebook, settings, grid
        self.codes = len(codebook)
        self._here: tuple[Tensor, Tensor] | None = None

    @classmethod
    def fit(cls, frames: Iterable[NDArray[np.uint8]], settings: Settings) -> "KMeansTokenizer":
        """Fits a codebook to random cells; the same frames and settings give the same codebook.

        Args:
            frames: (T, 3, s, s) RGB each; read until there are `settings.sample` cells.

        Raises:
            UserError: there are fewer different cells than codes.
        """
        from sklearn.cluster import MiniBatchKMeans  # type: ignore[import-untyped]
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        sample = _sampled(frames, settings)
        different = len(np.unique(sample, axis=0))
        if different < settings.codes:
            raise UserError(
                f"visual_tokens.codes={settings.codes}: the {len(sample)} sampled cells hold {different} different "
                "ones; expected at least as many as codes: set fewer codes, a larger sample, or give more videos"
            )
        means = MiniBatchKMeans(
            settings.codes, random_state=settings.seed, n_init=1, batch_size=max(1024, settings.codes)
        )
        with threadpool_limits(1):  # each number of threads adds up in another order
            means.fit(sample)
        return cls(torch.from_numpy(means.cluster_centers_.astype(np.float32)), settings, settings.grid)

    def save(self, path: Path) -> None:
        """Writes codebook and settings as .safetensors, whole or not at all."""
        about = {"format": FORMAT, "settings": json.dumps(self.settings._asdict())}
        with atomic_path(path) as temporary:
            save_file({_NAME: self.codebook.contiguous()}, temporary, metadata=about)

    @classmethod
    def load(cls, path: Path, grid: int) -> "KMeansTokenizer":
        """Raises UserError: the file is missing, damaged, of another format, or its codebook is not what it says."""
        try:
            with safe_open(path, framework="pt") as file:
                about: dict[str, str] = file.metadata() or {}
                if about.get("format") != FORMAT or _NAME not in file.keys():  # noqa: SIM118 (it is no dictionary)
                    raise UserError(
                        f"{path}: its format is {about.get('format')!r}; expected {FORMAT!r}; fit the codebook again"
                    )
                codebook: Tensor = file.get_tensor(_NAME)
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; expected a visual codebook") from None
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path}: is no safetensors file or is cut short ({error}); fit it again") from None
        settings = _settings(about.get("settings", ""))
        expected = settings and (settings.codes, 3 * settings.colours**2)
        if settings is None or tuple(codebook.shape) != expected or codebook.dtype != torch.float32:
            raise UserError(
                f"{path}: codebook is {codebook.dtype} {tuple(codebook.shape)}, its settings {about.get('settings')}; "
                "expected float32 (codes, 3 x colours x colours); fit it again"
            )
        if not bool(codebook.isfinite().all()):
            raise UserError(f"{path}: the codebook holds NaN or infinity; fit it again")
        return cls(codebook, settings, grid)

    @torch.no_grad()
    def __call__(self, frames: Tensor) -> Tensor:
        if self._here is None or self._here[0].device != frames.device:
            words = self.codebook.to(frames.device, torch.float64)
            self._here = words, words.square().sum(1)
        words, squares = self._here
        rows = cells(frames.flatten(0, 1).float(), self.grid, self.settings)
        # Double precision, so that no near tie turns on how a batch was cut up.
        nearest = [(squares - 2 * part.double() @ words.T).argmin(1) for part in rows.split(_AT_ONCE)]
        return torch.cat(nearest).view(*frames.shape[:2], self.grid, self.grid)


def cells(frames: Tensor, grid: int, settings: Settings) -> Tensor:
    """(N, 3, s, s) from 0 to 1 -> (N g g, D): the k x k colours of each cell, of its frame row by row."""
    k = settings.colours
    small = F.adaptive_avg_pool2d(frames, grid * k)
    rows = small.view(len(frames), 3, grid, k, grid, k).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(0, 2)
    if settings.normalise:
        rows = rows - rows.mean(1, keepdim=True)
        rows = rows / (rows.square().mean(1, keepdim=True) + 1e-4).sqrt()
    return rows


def _sampled(frames: Iterable[NDArray[np.uint8]], settings: Settings) -> NDArray[np.float32]:
    """Random cells, (sample or fewer, D)."""
    random = np.random.default_rng(settings.seed)
    found: list[NDArray[np.float32]] = []
    total = 0
    for video in frames:
        pixels = torch.from_numpy(np.ascontiguousarray(video)).float() / 255
        rows = cells(pixels, settings.grid, settings).view(len(pixels), settings.grid**2, -1).numpy()
        for frame in rows:
            found.append(frame[random.permutation(len(frame))[: min(CELLS_A_FRAME, settings.sample - total)]])
            total += len(found[-1])
        if total >= settings.sample:
            break
    return np.concatenate(found) if found else np.empty((0, 3 * settings.colours**2), np.float32)


def _settings(told: str) -> Settings | None:
    try:
        values: Any = json.loads(told)
    except json.JSONDecodeError:
        return None
    if not isinstance(values, dict) or values.keys() != set(Settings._fields):
        return None
    return Settings(**values) if all(isinstance(value, int) for value in values.values()) else None
