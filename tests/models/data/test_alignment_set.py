"""An alignment data set from its recipe's names to features, and what is said when a file is wrong."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from models.data.alignment_set import AlignmentDataConfig, load_annotations, load_examples
from models.data.features import FeatureStore, write_features
from models.data.synthetic import CLIP_FEATURES, generate_movies
from models.data.yms import read_splits, read_yms
from models.errors import UserError

TEXT_FEATURES = "text_features.npz"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A generated set `movies/` with text features, so that no sentence encoder has to run."""
    path = tmp_path / "movies"
    generate_movies(path, 4, seed=2, width=8)
    ids = [snippet.id for movie in read_yms(path).values() for snippet in movie.snippets]
    write_features(path / TEXT_FEATURES, ids, torch.arange(3.0 * len(ids)).view(-1, 3))
    return path


def config(root: Path | None, **changes: object) -> AlignmentDataConfig:
    names = {
        "annotations": "movies",
        "clip_features": f"movies/{CLIP_FEATURES}",
        "text_features": f"movies/{TEXT_FEATURES}",
    }
    return AlignmentDataConfig.model_validate({"root": str(root) if root else None, **names, **changes})


def rejected(settings: AlignmentDataConfig) -> str:
    with pytest.raises(UserError) as caught:
        load_examples(settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_movie_with_its_features(folder: Path) -> None:
    examples = load_examples(config(folder.parent))
    movies = read_yms(folder)
    splits = read_splits(folder, movies)
    assert {split: [e.movie.id for e in members] for split, members in examples.items()} == splits
    clips, texts = FeatureStore.open(folder / CLIP_FEATURES), FeatureStore.open(folder / TEXT_FEATURES)
    for members in examples.values():
        for example in members:
            assert example.movie == movies[example.movie.id]
            assert torch.equal(example.video, clips.gather([clip.id for clip in example.movie.clips]))
            assert torch.equal(example.text, texts.gather([snippet.id for snippet in example.movie.snippets]))
            assert example.video.dtype == example.text.dtype == torch.float32


def test_where_files_are_looked_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MELTMATCH_DATA", str(folder.parent))
    assert len(load_examples(config(None))["train"]) == 2
    monkeypatch.setenv("MELTMATCH_DATA", "/nowhere")
    assert len(load_examples(config(folder.parent))["train"]) == 2  # the recipe's own root goes first
    absolute = config(None, annotations=str(folder), clip_features=str(folder / CLIP_FEATURES),
                      text_features=str(folder / TEXT_FEATURES))  # fmt: skip
    assert len(load_examples(absolute)["train"]) == 2
    monkeypatch.delenv("MELTMATCH_DATA")
    assert len(load_examples(absolute)["train"]) == 2
    message = rejected(config(None))
    assert message.startswith("data: 'movies' is a relative path; set MELTMATCH_DATA to the data folder, or ")


def test_features_by_row(folder: Path) -> None:
    expected = load_examples(config(folder.parent))["test"][0].video
    movies = read_yms(folder)
    ids = [clip.id for movie in movies.values() for clip in movie.clips]
    table = FeatureStore.open(folder / CLIP_FEATURES).gather(ids)
    np.savez(folder / "table.npz", features=table.numpy())
    (folder / "rows.csv").write_text("clip,row\n" + "".join(f"{id},{row}\n" for row, id in enumerate(ids)))
    examples = load_examples(config(folder.parent, clip_features="movies/table.npz", clip_index="movies/rows.csv"))
    assert torch.equal(examples["test"][0].video, expected)


def test_a_missing_root(tmp_path: Path) -> None:
    assert str(tmp_path / "nowhere" / "movies") in rejected(config(tmp_path / "nowhere"))


@pytest.mark.parametrize("key", ["clip_features", "text_features", "clip_index"])
def test_a_missing_file(folder: Path, key: str) -> None:
    assert str(folder / "no.npz") in rejected(config(folder.parent, **{key: "movies/no.npz"}))


@pytest.mark.parametrize(("file", "what"), [(CLIP_FEATURES, "clip"), (TEXT_FEATURES, "snippet")])
@pytest.mark.parametrize("fault", ["missing", "nan", "infinite"])
def test_a_bad_feature_is_named(folder: Path, file: str, what: str, fault: str) -> None:
    with np.load(folder / file) as stored:
        ids, features = stored["ids"], stored["features"].copy()
    keep = slice(None)
    if fault == "missing":
        keep = slice(1, None)
    else:
        features[0, 1] = np.nan if fault == "nan" else np.inf
    np.savez(folder / file, ids=ids[keep], features=features[keep])
    message = rejected(config(folder.parent))
    assert message.startswith(str(folder / file))
    assert f"{what} {str(ids[0])!r}" in message
    assert ("no feature for" if fault == "missing" else "holds NaN or infinity") in message


def test_features_of_ragged_width(folder: Path) -> None:
    with np.load(folder / CLIP_FEATURES) as stored:
        arrays = {str(id): row for id, row in zip(stored["ids"], stored["features"], strict=True)}
    last = list(arrays)[-1]
    arrays[last] = arrays[last][:5]
    np.savez(folder / "ragged.npz", allow_pickle=False, **arrays)
    message = rejected(config(folder.parent, clip_features="movies/ragged.npz"))
    assert f"{last!r} has 5 dimensions and " in message
    assert "has 8; expected one width" in message


def test_lsmdc_movies_can_be_held_out(tmp_path: Path) -> None:
    lines = [
        f"{movie}_00.00.0{i}.000-00.00.0{i}.900\t" + f"00.00.0{i}.000\t00.00.0{i}.900\t" * 2 + "Someone runs."
        for movie in ("0001_A", "0002_B", "0003_C")
        for i in range(1, 4)
    ]
    (tmp_path / "lsmdc.csv").write_text("\n".join(lines) + "\n")
    settings = config(tmp_path, format="lsmdc", annotations="lsmdc.csv", lsmdc_validation=["0002_B"])
    movies = load_annotations(settings)
    assert {split: [movie.id for movie in members] for split, members in movies.items()} == {
        "train": ["0001_A", "0003_C"],
        "validation": ["0002_B"],
        "test": [],
    }
    with pytest.raises(UserError, match=r"data.lsmdc_validation: '0009_X' is not a movie of .*lsmdc.csv"):
        load_annotations(config(tmp_path, format="lsmdc", annotations="lsmdc.csv", lsmdc_validation=["0009_X"]))


def test_the_composed_set(data_root: Path, tmp_path: Path) -> None:
    settings = AlignmentDataConfig(
        root=os.fspath(data_root),
        annotations="yms_msrvtt",
        clip_features="msrvtt/frame_features.npz",
        clip_index="yms_msrvtt/clip_frames.csv",
    )
    movies = load_annotations(settings)
    assert {split: len(members) for split, members in movies.items()} == {"train": 66, "validation": 12, "test": 15}
    # The texts have no stored features here; a zero for each keeps the encoder out of this test.
    ids = [snippet.id for members in movies.values() for movie in members for snippet in movie.snippets]
    write_features(tmp_path / "text.npz", ids, torch.zeros(len(ids), 2))
    examples = load_examples(settings.model_copy(update={"text_features": str(tmp_path / "text.npz")}))
    assert all(len(e.video) == len(e.movie.clips) for members in examples.values() for e in members)
