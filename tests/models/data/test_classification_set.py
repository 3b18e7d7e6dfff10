"""An image classification data set from its recipe's names to splits, and what is said when they make no sense."""

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from models.data.cifar import digits, hold_out
from models.data.classification_set import ClassificationDataConfig, load_images
from models.errors import UserError


def write(folder: Path) -> None:
    """Twenty images to train on and ten to test, in the binary version."""
    random = np.random.default_rng(0)
    folder.mkdir()
    (folder / "fine_label_names.txt").write_text("a\nb\n")
    for split, count in (("train", 20), ("test", 10)):
        records = random.integers(0, 2, (count, 3074), dtype=np.uint8)
        records[:, 2] = np.arange(count)  # the first red value says which image it is
        (folder / f"{split}.bin").write_bytes(records.tobytes())


def test_splits(tmp_path: Path) -> None:
    write(tmp_path / "images")
    splits = load_images(ClassificationDataConfig(root=str(tmp_path), path="images", validation=0.25))
    numbers = {split: images.images[:, 0, 0, 0].tolist() for split, images in splits.items()}
    assert {split: len(part) for split, part in numbers.items()} == {"train": 15, "validation": 5, "test": 10}
    assert sorted(numbers["train"] + numbers["validation"]) == list(range(20))
    assert numbers["test"] == list(range(10))
    everything = load_images(ClassificationDataConfig(root=str(tmp_path), path="images", validation=0))
    assert {split: len(images) for split, images in everything.items()} == {"train": 20, "validation": 0, "test": 10}


def test_where_files_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "cifar100")
    monkeypatch.setenv("MELTMATCH_DATA", str(tmp_path))
    assert len(load_images(ClassificationDataConfig())["test"]) == 10
    monkeypatch.setenv("MELTMATCH_DATA", "/nowhere")
    assert len(load_images(ClassificationDataConfig(root=str(tmp_path)))["test"]) == 10
    assert len(load_images(ClassificationDataConfig(path=str(tmp_path / "cifar100")))["test"]) == 10
    with pytest.raises(UserError, match=r"^/nowhere/cifar100: no such folder or file"):
        load_images(ClassificationDataConfig())
    monkeypatch.delenv("MELTMATCH_DATA")
    with pytest.raises(UserError, match=r"^data: 'cifar100' is a relative path; set MELTMATCH_DATA to the data folder"):
        load_images(ClassificationDataConfig())


def test_digits_need_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MELTMATCH_DATA", raising=False)
    splits = load_images(ClassificationDataConfig(name="digits"))
    train, validation = hold_out(digits("train"), 0.1, seed=0)
    assert torch.equal(splits["train"].images, train.images)
    assert torch.equal(splits["validation"].labels, validation.labels)
    assert {split: len(images) for split, images in splits.items()} == {"train": 1170, "validation": 130, "test": 497}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"name": "digits", "path": "x"}, "path='x' has no meaning with name='digits'"),
        ({"validation": 1.0}, "less than 1"),
        ({"mixup_alpha": 0.0}, "greater than 0"),
        ({"name": "cifar10"}, "'cifar100' or 'digits'"),
    ],
)
def test_impossible_settings(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        ClassificationDataConfig.model_validate(settings)
