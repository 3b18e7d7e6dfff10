"""Scores of answers: by hand, against scikit-learn, and what cannot be scored."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score  # type: ignore[import-untyped]

from models.data.asked import Item
from models.metrics.answering import answer_scores, first_word, majority


def asked(*questions: tuple[str, int]) -> list[Item]:
    return [Item(place, (text,), answer) for place, (text, answer) in enumerate(questions)]


def classes(*answers: int) -> list[Item]:
    return [Item(place, (), answer) for place, answer in enumerate(answers)]


def test_open_ended_by_hand() -> None:
    items = asked(("what is it?", 3), ("What now?", 0), ("who?", 1), ("is it?", 2), ("who else?", -1), ("how?", 4))
    # The fifth has no known answer: wrong, whatever its place.
    found = answer_scores(torch.tensor([1, 6, 1, 5, 1, 2]), items, "open_ended")
    assert found == pytest.approx(
        {
            "accuracy": 100 * 2 / 6,
            "top-5": 100 * 4 / 6,
            "accuracy (what)": 50,
            "accuracy (who)": 50,
            "accuracy (how)": 0,
            "accuracy (other)": 0,
        }
    )
    assert list(found)[:2] == ["accuracy", "top-5"]


def test_multiple_choice_by_hand() -> None:
    items = [Item(0, tuple(f"What does the man do ? {option}" for option in "abcde"), answer) for answer in (0, 4, 2)]
    found = answer_scores(torch.tensor([1, 5, 1]), items, "multiple_choice")
    assert found == pytest.approx({"accuracy": 200 / 3, "accuracy (what)": 200 / 3})


def test_recognition_by_hand() -> None:
    # Class 0: 1 of 3; class 2: 1 of 1; class 5: 0 of 1; and one that is no known class.
    found = answer_scores(torch.tensor([1, 2, 6, 1, 9, 1]), classes(0, 0, 0, 2, 5, -1), "recognition")
    assert found == pytest.approx({"accuracy": 100 / 3, "top-5": 50, "mean class accuracy": 100 * (1 / 3 + 1 + 0) / 3})
    assert answer_scores(torch.tensor([1]), classes(-1), "recognition") == {"accuracy": 0, "top-5": 0}


@pytest.mark.parametrize("seed", range(10))
def test_agrees_with_scikit_learn(seed: int) -> None:
    source = torch.Generator().manual_seed(seed)
    scores = torch.rand(40, 8, generator=source)
    truth = torch.randint(8, (40,), generator=source)
    truth[:8] = torch.arange(8)
    places = 1 + (scores > scores.gather(1, truth[:, None])).sum(1)
    found = answer_scores(places, classes(*truth.tolist()), "recognition")
    guess = scores.argmax(1)
    assert found["accuracy"] == pytest.approx(100 * (guess == truth).double().mean().item())
    assert found["top-5"] == pytest.approx(100 * top_k_accuracy_score(truth.numpy(), scores.numpy(), k=5))
    assert found["mean class accuracy"] == pytest.approx(100 * balanced_accuracy_score(truth.numpy(), guess.numpy()))


ROWS = st.tuples(st.sampled_from(["what a?", "who b?", "so?", "why?"]), st.integers(-1, 4), st.integers(1, 5))


@given(st.lists(ROWS, min_size=1))
def test_the_kinds_of_question_make_up_the_whole(rows: list[tuple[str, int, int]]) -> None:
    items = asked(*[(text, answer) for text, answer, _ in rows])
    found = answer_scores(torch.tensor([place for *_, place in rows]), items, "open_ended")
    words = [first_word(text) for text, *_ in rows]
    whole = sum(words.count(word) * found[f"accuracy ({word})"] for word in set(words)) / len(rows)
    assert found["accuracy"] == pytest.approx(whole)
    assert found["accuracy"] <= found["top-5"] <= 100
    known = sum(answer >= 0 for _, answer, _ in rows)
    assert found["top-5"] == pytest.approx(100 * known / len(rows))  # of five answers all are among the best five


@pytest.mark.parametrize(
    ("question", "word"),
    [
        ("what is it?", "what"),
        ("  WHO runs", "who"),
        ("'where' is it", "where"),
        ("what's that", "what"),
        ("whatever", "other"),
        ("how many men dance ?", "how"),
        ("", "other"),
        ("42?", "other"),
        ("in which room", "other"),
    ],
)
def test_first_words(question: str, word: str) -> None:
    assert first_word(question) == word


def test_the_majority_by_hand() -> None:
    training = classes(3, 1, 1, 3, 2, -1, -1, -1)
    # 1 and 3 are as frequent: the first counts; what is not known is no answer.
    assert majority(training, classes(1, 3, -1, 1)) == 50
    assert majority(training, classes(-1)) == 0
    for trained, tested in ((classes(-1), classes(0)), ([], classes(0)), (classes(0), [])):
        with pytest.raises(ValueError, match="needs known training answers"):
            majority(trained, tested)


def test_none() -> None:
    assert answer_scores(torch.zeros(0, dtype=torch.long), [], "open_ended") == {}


def test_what_cannot_be_scored_is_refused() -> None:
    for places in ([1], [1, 2, 3], [0, 1]):
        with pytest.raises(ValueError, match="needs a place, from 1, for each of 2 items"):
            answer_scores(torch.tensor(places), classes(0, 1), "recognition")
    with pytest.raises(ValueError, match="retrieval has no answers"):
        answer_scores(torch.tensor([1]), classes(0), "retrieval")
