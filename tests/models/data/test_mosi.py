"""CMU-MOSI's utterances, generated and real, and what is said of each mistake in them."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.data.mosi import MOSIDataConfig, load_mosi
from models.data.videos import LeftOut
from models.errors import UserError

DATA = os.environ.get("MELTMATCH_DATA")
COUNT = 12


def write(path: Path, **changes: Any) -> MOSIDataConfig:
    source = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        "id": np.array([f"film_{number // 2}_{number % 2}" for number in range(COUNT)]),
        "text": np.array([f"word {number}" for number in range(COUNT)]),
        "y": np.linspace(-3, 3, COUNT).astype(np.float32),
        "declare_part": np.array(["train"] * 8 + ["test"] * 4),
        "f_video": source.normal(size=(COUNT, 5)).astype(np.float32),
        "f_audio": source.normal(size=(COUNT, 3)).astype(np.float32),
    }
    np.savez(path, allow_pickle=False, **{k: v for k, v in (arrays | changes).items() if v is not None})
    return MOSIDataConfig(path=str(path), validation=0.25)


def test_the_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = np.linspace(-3, 3, COUNT).astype(np.float32)
    labels[1] = np.nan
    splits = load_mosi(write(tmp_path / "a.npz", y=labels))
    assert "1 of 6 train utterances have no label (film_0_1); left out" in capsys.readouterr().err
    assert splits["train"].left_out == LeftOut(
        tmp_path / "a.npz", "train", ("film_0_1",), 6, "utterances have no label"
    )
    assert splits["test"].left_out is None
    found = {name: split.videos for name, split in splits.items()}
    assert sorted(sum(found.values(), [])) == sorted(f"film_{n // 2}_{n % 2}" for n in range(COUNT) if n != 1)  # noqa: RUF017
    films = {name: {id.rpartition("_")[0] for id in ids} for name, ids in found.items()}
    assert not films["train"] & films["validation"]
    assert len(films["validation"]) == 1
    assert splits["test"].frames.features.shape == (4, 1, 8)
    assert splits["test"].labels is not None
    assert splits["test"].labels.tolist() == pytest.approx(labels[8:].tolist())
    assert [caption.text for caption in splits["test"].captions] == [f"word {n}" for n in range(8, 12)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y": np.full(COUNT, 4.0)}, "'film_0_0' has a label outside -3 to 3 \\(12 utterances do\\)"),
        ({"text": np.array([" "] * COUNT)}, "'film_0_0' has no text"),
        ({"f_audio": np.full((COUNT, 3), np.inf)}, "'film_0_0' has a feature that is NaN"),
        ({"declare_part": np.array(["dev"] * COUNT)}, "declare_part of 'film_0_0' is 'dev'"),
        ({"f_video": None}, "holds no array 'f_video'"),
        ({"text": None}, "holds no array 'text'"),
        ({"f_video": np.zeros(COUNT)}, "array 'f_video' is \\(12,\\); expected one entry an utterance"),
        ({"y": np.array(["good"] * COUNT)}, "array 'y' is of type <U4; expected numbers"),
        ({"id": np.arange(COUNT)}, "'id' is int64 \\(12,\\); expected a 1-D array of unicode strings"),
        ({"id": np.array(["film_0_0"] * COUNT)}, "'film_0_0' comes twice"),
        ({"y": np.zeros(3)}, "arrays differ in length"),
    ],
)
def test_mistakes(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_mosi(write(tmp_path / "a.npz", **changes))


@pytest.mark.skipif(DATA is None, reason="needs real data: set MELTMATCH_DATA to the folder that holds cmu_mosi/")
def test_the_real_file() -> None:
    splits = load_mosi(MOSIDataConfig())
    assert sum(len(split) for split in splits.values()) == 2195
    assert splits["train"].frames.features.shape[2] == 173
    assert {name: split.left_out.names for name, split in splits.items() if split.left_out} == {
        "train": ("5W7Z1C_fDaE_24", "BioHAh1qJAQ_30", "lXPQBPVc5Cw_30"),
        "test": ("2WGyTLYerpo_44",),
    }
