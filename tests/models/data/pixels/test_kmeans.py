"""Codebooks: tokens beside one cell and one codeword at a time, the same fit from the same frames, files."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.data.pixels.augmentation import square
from models.data.pixels.sampling import places
from models.data.pixels.sources import open_frames
from models.data.pixels.visual_tokens import VisualTokensConfig, fit_or_load
from models.data.pixels.visual_tokens.dvae import DVAETokenizer, Encoder
from models.data.pixels.visual_tokens.kmeans import CELLS_A_FRAME, KMeansTokenizer, Settings, cells
from models.errors import UserError

SETTINGS = Settings(codes=5, colours=2, normalise=False, sample=400, seed=3, grid=3)


def noise(count: int = 40, frames: int = 2, side: int = 12) -> list[NDArray[np.uint8]]:
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (frames, 3, side, side)).astype(np.uint8) for _ in range(count)]


def floats(videos: list[NDArray[np.uint8]]) -> Tensor:
    return torch.from_numpy(np.stack(videos)).float() / 255


def reference_cell(frame: Tensor, row: int, column: int, settings: Settings) -> list[float]:
    """The colours of one cell, one at a time."""
    side = frame.shape[-1] // settings.grid
    part = side // settings.colours
    colours = []
    for channel in range(3):
        for y in range(settings.colours):
            for x in range(settings.colours):
                top, left = row * side + y * part, column * side + x * part
                colours.append(float(frame[channel, top : top + part, left : left + part].double().mean()))
    if settings.normalise:
        mean = sum(colours) / len(colours)
        variance = sum((colour - mean) ** 2 for colour in colours) / len(colours)
        colours = [(colour - mean) / (variance + 1e-4) ** 0.5 for colour in colours]
    return colours


@pytest.mark.parametrize("normalise", [False, True])
def test_tokens_against_one_codeword_at_a_time(normalise: bool) -> None:
    settings = SETTINGS._replace(normalise=normalise)
    tokenizer = KMeansTokenizer.fit(noise(), settings)
    assert tokenizer.codes == 5
    frames = floats(noise(3))
    tokens = tokenizer(frames)
    assert tokens.shape == (3, 2, 3, 3)
    assert tokens.dtype == torch.int64
    rows = cells(frames.flatten(0, 1), 3, settings).view(3, 2, 3, 3, 12)
    for video, frame, y, x in np.ndindex(3, 2, 3, 3):
        cell = reference_cell(frames[video, frame], y, x, settings)
        assert rows[video, frame, y, x].tolist() == pytest.approx(cell, abs=1e-4)
        distances = [sum((a - b) ** 2 for a, b in zip(cell, word, strict=True)) for word in tokenizer.codebook.tolist()]
        assert int(tokens[video, frame, y, x]) == distances.index(min(distances))
    assert len(tokens.unique()) > 2


def test_no_batch_mate_changes_a_frames_tokens() -> None:
    tokenizer = KMeansTokenizer.fit(noise(), SETTINGS)
    frames = floats(noise(9))
    whole = tokenizer(frames)
    assert torch.equal(whole[[7, 2]], tokenizer(frames[[7, 2]]))
    assert torch.equal(whole[:, :1], tokenizer(frames[:, :1]))
    assert tokenizer(frames[:0]).shape == (0, 2, 3, 3)


def test_the_same_frames_give_the_same_codebook() -> None:
    first, again = (KMeansTokenizer.fit(noise(), SETTINGS).codebook for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, KMeansTokenizer.fit(noise(), SETTINGS._replace(seed=4)).codebook)


def test_what_differs_is_told_apart() -> None:
    """Cells of four colours: four codewords, one each."""
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]], np.uint8)
    chosen = np.random.default_rng(1).integers(0, 4, (30, 3, 3))
    videos = [colours[own].repeat(4, 0).repeat(4, 1).transpose(2, 0, 1)[None] for own in chosen]
    tokenizer = KMeansTokenizer.fit(videos, SETTINGS._replace(codes=4))
    words = {tuple(word) for word in tokenizer.codebook.view(4, 3, 4).mean(2).mul(255).round().int().tolist()}
    assert words == {tuple(colour) for colour in colours.tolist()}
    tokens = tokenizer(floats(videos))[:, 0].numpy()
    assert len({(int(a), int(b)) for a, b in zip(tokens.flat, chosen.flat, strict=True)}) == 4


def test_no_more_frames_are_read_than_needed() -> None:
    seen = []

    def frames() -> Iterator[NDArray[np.uint8]]:
        for number, video in enumerate(noise()):
            seen.append(number)
            yield video

    KMeansTokenizer.fit(frames(), SETTINGS._replace(sample=10 * CELLS_A_FRAME))
    assert seen == [0, 1, 2, 3, 4]  # of two frames each


def test_too_few_different_cells() -> None:
    black = [np.zeros((2, 3, 12, 12), np.uint8)]
    with pytest.raises(UserError, match=r"codes=5: the 16 sampled cells hold 1 different ones; .* set fewer codes"):
        KMeansTokenizer.fit(black, SETTINGS)
    with pytest.raises(UserError, match="the 0 sampled cells"):
        KMeansTokenizer.fit([], SETTINGS)


def test_a_file_gives_back_what_was_saved(tmp_path: Path) -> None:
    tokenizer = KMeansTokenizer.fit(noise(), SETTINGS)
    tokenizer.save(tmp_path / "some" / "codebook.safetensors")
    found = KMeansTokenizer.load(tmp_path / "some" / "codebook.safetensors", 6)
    assert torch.equal(found.codebook, tokenizer.codebook)
    assert found.settings == SETTINGS
    assert found(floats(noise(1))).shape == (1, 2, 6, 6)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("missing", "no such file; expected a visual codebook"),
        ("text", "is no safetensors file or is cut short"),
        ("cut", "is no safetensors file or is cut short"),
        ("foreign", "its format is None; expected 'visual codebook 1'"),
        ("later", "its format is 'visual codebook 2'"),
        ("settings", "its settings {}; expected"),
        ("no json", "its settings once; expected"),
        ("shape", r"codebook is torch.float32 \(4, 12\)"),
        ("type", "codebook is torch.float64"),
        ("nan", "holds NaN or infinity"),
    ],
)
def test_what_is_no_codebook(tmp_path: Path, kind: str, says: str) -> None:
    path = tmp_path / "codebook.safetensors"
    KMeansTokenizer.fit(noise(), SETTINGS).save(path)
    book = load_file(path)["codebook"]
    about = {"format": "visual codebook 1", "settings": json.dumps(SETTINGS._asdict())}
    if kind == "missing":
        path.unlink()
    elif kind == "text":
        path.write_text("once upon a time")
    elif kind == "cut":
        path.write_bytes(path.read_bytes()[:-10])
    elif kind == "nan":
        book[0, 0] = torch.nan
        save_file({"codebook": book}, path, about)
    else:
        changed: dict[str, tuple[Tensor, dict[str, str] | None]] = {
            "foreign": (book, None),
            "later": (book, about | {"format": "visual codebook 2"}),
            "settings": (book, about | {"settings": "{}"}),
            "no json": (book, about | {"settings": "once"}),
            "shape": (book[:4], about),
            "type": (book.double(), about),
        }
        save_file({"codebook": changed[kind][0]}, path, changed[kind][1])
    with pytest.raises(UserError, match=says) as error:
        KMeansTokenizer.load(path, 3)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


CONFIG = VisualTokensConfig(name="kmeans", codes=5, colours=2, sample=400)


def test_a_codebook_is_fitted_once(tmp_path: Path) -> None:
    path = tmp_path / "codebook.safetensors"
    first = fit_or_load(CONFIG, noise(), 3, 3, path)
    assert isinstance(first, KMeansTokenizer)
    again = fit_or_load(CONFIG, [], 3, 3, path)
    assert isinstance(again, KMeansTokenizer)
    assert torch.equal(first.codebook, again.codebook)
    for config, grid, seed, says in (
        (CONFIG.model_copy(update={"codes": 6}), 3, 3, "codes=5, this run has codes=6"),
        (CONFIG.model_copy(update={"normalise": True}), 3, 3, "normalise=False, this run has normalise=True"),
        (CONFIG, 3, 4, "seed=3, this run has seed=4"),
        (CONFIG, 6, 3, "grid=3, this run has grid=6"),
    ):
        with pytest.raises(UserError, match=says):
            fit_or_load(config, noise(), grid, seed, path)
    given = CONFIG.model_copy(update={"file": str(path)})
    found = fit_or_load(given, [], 6, 99, tmp_path / "none.safetensors")  # how it was fitted is its own affair
    assert isinstance(found, KMeansTokenizer)
    assert (found.grid, found.codes) == (6, 5)
    with pytest.raises(UserError, match="colours=2, this run has colours=3"):
        fit_or_load(given.model_copy(update={"colours": 3}), [], 6, 99, tmp_path / "none.safetensors")
    assert not (tmp_path / "none.safetensors").exists()


def test_the_other_tokenizers(tmp_path: Path) -> None:
    assert fit_or_load(VisualTokensConfig(), [], 3, 0, tmp_path / "none") is None
    save_file(Encoder(4, 1, 11).state_dict(), tmp_path / "encoder.safetensors")
    config = VisualTokensConfig(name="dvae", file=str(tmp_path / "encoder.safetensors"))
    found = fit_or_load(config, [], 3, 0, tmp_path / "none")
    assert isinstance(found, DVAETokenizer)
    assert found.codes == 11
    assert found(floats(noise(2))).shape == (2, 2, 3, 3)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"name": "dvae"}, "needs the file with the encoder's tensors"),
        ({"file": "a.safetensors"}, "name=none uses none"),
        ({"name": "kmeans", "codes": 100, "sample": 50}, "sample=50 cells are fewer than codes=100"),
    ],
)
def test_what_makes_no_sense(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        VisualTokensConfig(**values)


def test_real_frames(data_root: Path, tmp_path: Path) -> None:
    source = open_frames(data_root / "msrvtt" / "frames_test_1ka.tar")
    videos = [square(source.frames(video, places(2)), 112) for video in source.names()[:100]]
    config = VisualTokensConfig(name="kmeans", codes=64, sample=1500)
    tokenizer = fit_or_load(config, videos, 7, 0, tmp_path / "codebook.safetensors")
    assert tokenizer is not None
    frames = floats(videos)
    tokens = tokenizer(frames)
    assert len(tokens.unique()) > 55
    assert isinstance(tokenizer, KMeansTokenizer)
    rows = cells(frames.flatten(0, 1), 7, tokenizer.settings)
    near = rows - tokenizer.codebook[tokens.flatten()]
    assert float(near.square().sum()) < 0.35 * float((rows - rows.mean(0)).square().sum())  # what k-means is for
