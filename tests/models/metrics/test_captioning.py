"""Caption scores: by hand, against the papers' formulas and the published METEOR on human captions, and refusals."""

import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from pycocoevalcap.meteor.meteor import Meteor

from models.metrics import captioning
from models.metrics.captioning import caption_scores
from models.metrics.tokenise import tokenise
from tests.reference.captioning import Corpus, bleu, cider_d, rouge_l
from tests.support.msrvtt import human_captions

needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="needs Java: no `java` on PATH")


@pytest.fixture
def no_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    captioning._warn.cache_clear()


def corpus(candidates: dict[str, str], references: dict[str, list[str]]) -> Corpus:
    def words(caption: str) -> tuple[str, ...]:
        return tuple(tokenise(caption))

    return [(words(candidates[id]), [words(caption) for caption in references[id]]) for id in candidates]


def by_formula(candidates: dict[str, str], references: dict[str, list[str]]) -> dict[str, float]:
    pairs = corpus(candidates, references)
    scores = {f"BLEU-{n}": 100 * bleu(pairs, n) for n in range(1, 5)}
    return {**scores, "ROUGE-L": 100 * rouge_l(pairs), "CIDEr": 100 * cider_d(pairs)}


@pytest.mark.usefixtures("no_java")
def test_by_hand() -> None:
    scores = caption_scores(
        {"a": "the cat the cat sat on mats", "b": "A dog!"}, {"a": ["the cat sat on the mat"], "b": ["a dog"]}
    )
    # Of 7 + 2 words 2 (the) + 1 (cat) + 2 (sat, on) + 2 are right; of 6 + 1 pairs 3 + 1; longer than the references.
    assert scores["BLEU-1"] == pytest.approx(100 * 7 / 9)
    assert scores["BLEU-2"] == pytest.approx(100 * math.sqrt(7 / 9 * 4 / 7))
    # "the cat sat on" is common to both: 4 of 7 and 4 of 6 words.
    p, r, beta = 4 / 7, 4 / 6, 1.2
    assert scores["ROUGE-L"] == pytest.approx(100 * ((1 + beta**2) * p * r / (r + beta**2 * p) + 1) / 2)


@pytest.mark.usefixtures("no_java")
def test_a_short_candidate_pays_for_its_brevity() -> None:
    # Three references, of 5, 3 and 9 words: 5 and 3 are as near to 4, and the shorter counts.
    references = {"a": ["a b c d e", "a b c", "a b c d e f g h i"]}
    assert caption_scores({"a": "a b c d"}, references)["BLEU-1"] == pytest.approx(100)
    references = {"a": ["a b c d e f", "a b c d e f g"]}
    assert caption_scores({"a": "a b c d"}, references)["BLEU-1"] == pytest.approx(100 * math.exp(1 - 6 / 4))


@pytest.mark.usefixtures("no_java")
def test_cider_by_hand() -> None:
    scores = caption_scores({"a": "a cat", "b": "a dog"}, {"a": ["a cat"], "b": ["a dog"]})
    # "a" is in every video and weighs nothing. Perfect for words and pairs, and there are no longer n-grams.
    assert scores["CIDEr"] == pytest.approx(100 * 10 * 2 / 4)
    assert caption_scores({"a": "a cat"}, {"a": ["a cat"]})["CIDEr"] == 0


@needs_java
def test_human_captions_by_formula_and_with_the_published_meteor(data_root: Path) -> None:
    captions = dict(sorted(human_captions(data_root).items())[:50])
    candidates = {id: own[0] for id, own in captions.items()}
    references = {id: own[1:] for id, own in captions.items()}
    scores = caption_scores(candidates, references)
    assert list(scores) == ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr"]
    expected = by_formula(candidates, references) | {"METEOR": 100 * published_meteor(candidates, references)}
    assert scores == pytest.approx(expected, rel=1e-6)


def published_meteor(candidates: dict[str, str], references: dict[str, list[str]]) -> float:
    def tokens(captions: Sequence[str]) -> list[str]:
        return [" ".join(tokenise(caption)) for caption in captions]

    scorer = Meteor()
    try:
        score, _ = scorer.compute_score(
            {id: tokens(own) for id, own in references.items()}, {id: tokens([own]) for id, own in candidates.items()}
        )
    finally:
        for pipe in (scorer.meteor_p.stdout, scorer.meteor_p.stderr):  # which it leaves open
            pipe.close()
    return float(score)


@pytest.mark.usefixtures("no_java")
def test_bad_captions_by_formula() -> None:
    references = {"a": ["a man is cooking food", "someone cooks"], "b": ["a dog runs in a park"], "c": ["two cats"]}
    for candidates in (
        {"a": "", "b": "a dog runs in a park", "c": "a man is cooking food"},
        {"a": "...", "b": "a a a a a a dog runs in a", "c": "cats"},
        {"a": "A man is cooking food.", "b": "a dog runs in a garden", "c": "two cats two cats"},
    ):
        scores = caption_scores(candidates, references)
        assert scores == pytest.approx(by_formula(candidates, references), rel=1e-6)


@pytest.mark.usefixtures("no_java")
def test_empty_captions_score_nothing() -> None:
    scores = caption_scores({"a": "", "b": "?"}, {"a": ["a cat"], "b": ["a dog"]})
    assert scores == pytest.approx(dict.fromkeys(scores, 0.0), abs=1e-6)


@pytest.mark.usefixtures("no_java")
def test_without_java_one_line_says_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        scores = caption_scores({"a": "a cat"}, {"a": ["a cat"]})
        assert list(scores) == ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr"]
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert output.err.startswith("warning: METEOR is left out: METEOR needs Java")


def test_nothing_to_score() -> None:
    assert caption_scores({}, {}) == {}


@pytest.mark.parametrize(
    ("candidates", "references", "message"),
    [
        ({"v1": "a", "v2": "b"}, {"v1": ["a"]}, "'v2' has a caption and no references"),
        ({"v1": "a"}, {"v1": []}, "'v1' has a caption and no references"),
        ({"v1": "a"}, {"v1": ["a"], "v3": ["c"]}, "'v3' has references and no caption"),
        ({"v1": "a"}, {"v1": "a"}, "references of 'v1' are a string"),
    ],
)
def test_captions_that_do_not_fit_are_refused(
    candidates: dict[str, str], references: dict[str, Sequence[str]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        caption_scores(candidates, references)
