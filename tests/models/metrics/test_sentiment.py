"""Sentiment scores: by hand, against scikit-learn and NumPy, and on CMU-MOSI's labels."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, mean_absolute_error  # type: ignore[import-untyped]

from models.metrics.sentiment import sentiment_scores

NAN = float("nan")


def test_by_hand() -> None:
    found = sentiment_scores(torch.tensor([1.0, -1.0, 0.0, 2.0, -0.5]), torch.tensor([2.0, -2.0, 1.0, 0.0, 0.0]))
    # Without zeros: positive for 1, negative for -1 and (not above 0) for 0; labels +, -, +.
    assert found["BA"] == pytest.approx(100 * 2 / 3)
    assert found["F1"] == pytest.approx(100 * (2 * 2 / 3 + 1 * 2 / 3) / 3)
    # With zeros: guesses +, -, +, +, -; labels +, -, +, +, +.
    assert found["BA with zeros"] == pytest.approx(80)
    assert found["F1 with zeros"] == pytest.approx(100 * (4 * 6 / 7 + 1 * 2 / 3) / 5)
    assert found["MAE"] == pytest.approx((1 + 1 + 1 + 2 + 0.5) / 5)
    assert list(found) == ["BA", "F1", "BA with zeros", "F1 with zeros", "MAE", "Corr"]


@pytest.mark.parametrize("seed", range(20))
def test_agrees_with_scikit_learn_and_numpy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.integers(-3, 4, rng.integers(2, 60)).astype(np.float64)
    truth[:2] = 1, -2
    guess = np.clip(truth * rng.random() + rng.normal(0, 1, len(truth)), -3, 3)
    guess[rng.random(len(guess)) < 0.2] = 0
    guess[:2] = 0.5, 0.25
    found = sentiment_scores(torch.from_numpy(guess), torch.from_numpy(truth))
    decided = truth != 0
    for suffix, there, said in (
        ("", truth[decided] > 0, guess[decided] > 0),
        (" with zeros", truth >= 0, guess >= 0),
    ):
        assert found[f"BA{suffix}"] == pytest.approx(100 * accuracy_score(there, said))
        expected = f1_score(there, said, average="weighted", zero_division=0)
        assert found[f"F1{suffix}"] == pytest.approx(100 * expected)
    assert found["MAE"] == pytest.approx(mean_absolute_error(truth, guess))
    assert found["Corr"] == pytest.approx(np.corrcoef(truth, guess)[0, 1])


def test_perfect_and_opposite() -> None:
    labels = torch.tensor([-3.0, -0.2, 0.4, 2.8])
    perfect = sentiment_scores(labels, labels)
    assert perfect == pytest.approx(
        {**dict.fromkeys(["BA", "F1", "BA with zeros", "F1 with zeros"], 100), "MAE": 0, "Corr": 1}
    )
    opposite = sentiment_scores(-labels, labels)
    assert opposite["BA"] == opposite["F1"] == 0
    assert opposite["Corr"] == pytest.approx(-1)


@pytest.mark.parametrize("constant", [0.1, 0.0, -2.3])
def test_constant_predictions_correlate_with_nothing(constant: float) -> None:
    labels = torch.tensor([1.0, -1.0, 2.0])
    assert sentiment_scores(torch.full((3,), constant), labels)["Corr"] == 0
    assert sentiment_scores(labels, torch.full((3,), constant))["Corr"] == 0


def test_neutral_labels_only_leave_out_what_is_undefined() -> None:
    found = sentiment_scores(torch.tensor([1.0, -1.0]), torch.zeros(2))
    assert found == {"BA with zeros": 50, "F1 with zeros": pytest.approx(100 * 2 / 3), "MAE": 1, "Corr": 0}


def test_none() -> None:
    assert sentiment_scores(torch.zeros(0), torch.zeros(0)) == {}


@pytest.mark.parametrize(
    ("predictions", "labels", "message"),
    [
        ([0.0, 1.0, 2.0], [0.0, NAN, NAN], r"label 1 is nan \(2 are"),
        ([0.0, float("inf")], [0.0, 1.0], "prediction 1 is inf"),
        ([0.0], [0.0, 1.0], r"not \(1,\) and \(2,\)"),
    ],
)
def test_what_cannot_be_scored_is_refused(predictions: list[float], labels: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sentiment_scores(torch.tensor(predictions), torch.tensor(labels))


def test_the_majority_of_cmu_mosi(data_root: Path) -> None:
    with np.load(data_root / "cmu_mosi" / "utterances.npz", allow_pickle=False) as file:
        labels = torch.from_numpy(file["y"][file["declare_part"] == "test"])
    with pytest.raises(ValueError, match=f"label {int(labels.isnan().nonzero()[0])} is nan"):
        sentiment_scores(torch.ones(len(labels)), labels)
    labels = labels[~labels.isnan()]
    found = sentiment_scores(-torch.ones(len(labels)), labels)
    negative = int((labels < 0).sum())
    assert found["BA"] == pytest.approx(100 * negative / int((labels != 0).sum()))
    assert found["BA with zeros"] == pytest.approx(100 * negative / len(labels))
    assert found["BA"] > found["BA with zeros"]
