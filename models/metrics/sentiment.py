"""Sentiment scores from -3 to 3: binary accuracy, F1, mean absolute error and correlation (MELTR, Table 6)."""

import torch
from torch import Tensor


def sentiment_scores(predictions: Tensor, labels: Tensor) -> dict[str, float]:
    """The scores of (n,) predictions against (n,) labels in [-3, 3]; empty for n = 0.

    `BA` and `F1`, in percent, are of positive against negative; utterances labelled 0 are left out, as by Tsai et al.
    (ACL 2019), with whose figures CMU-MOSI's are compared; both are missing if no other label is there.
    `BA with zeros` and `F1 with zeros` are of non-negative against negative and count all utterances. F1 is the mean
    of both classes' F1, weighted by how many utterances each has.
    `MAE` and `Corr` (Pearson's) are of all utterances; `Corr` is 0 where predictions or labels are all the same, which
    leaves it undefined.

    Raises:
        ValueError: shapes that do not fit, or a NaN or infinity (its index is named).
    """
    if predictions.ndim != 1 or predictions.shape != labels.shape:
        raise ValueError(f"needs (n,) predictions and labels, not {(*predictions.shape,)} and {(*labels.shape,)}")
    for name, values in (("prediction", predictions), ("label", labels)):
        undefined = torch.nonzero(~values.isfinite()).flatten().tolist()
        if undefined:
            raise ValueError(
                f"{name} {undefined[0]} is {values[undefined[0]].item()} ({len(undefined)} are not finite)"
            )
    if not len(labels):
        return {}
    guess, truth = predictions.detach().double().cpu(), labels.double().cpu()
    scores: dict[str, float] = {}
    decided = truth != 0
    if decided.any():
        scores |= _binary(guess[decided] > 0, truth[decided] > 0, "")
    scores |= _binary(guess >= 0, truth >= 0, " with zeros")
    return {**scores, "MAE": (guess - truth).abs().mean().item(), "Corr": _correlation(guess, truth)}


def _binary(guess: Tensor, truth: Tensor, suffix: str) -> dict[str, float]:
    """Accuracy and weighted F1 of (n,) bool, n > 0, in percent."""
    f1 = 0.0
    for kind in (False, True):
        found, there = int((guess == kind).sum()), int((truth == kind).sum())
        right = int(((guess == kind) & (truth == kind)).sum())
        f1 += there * 2 * right / max(1, found + there)  # 0 for a class that is neither there nor guessed
    accuracy = (guess == truth).double().mean().item()
    return {f"BA{suffix}": 100 * accuracy, f"F1{suffix}": 100 * f1 / len(truth)}


def _correlation(x: Tensor, y: Tensor) -> float:
    if any(bool((values == values[0]).all()) for values in (x, y)):
        return 0.0
    x, y = x - x.mean(), y - y.mean()
    return float((x @ y / (x.norm() * y.norm())).clamp(-1, 1))
