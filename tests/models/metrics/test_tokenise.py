"""Tokens: what Stanford's PTBTokenizer gave for a list of hard cases, and the program itself on real captions."""

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocoevalcap.tokenizer import ptbtokenizer

from models.data.yms import read_yms
from models.metrics.tokenise import tokenise
from tests.support.msrvtt import human_captions

CASES = {
    "A Man is Cooking.": "a man is cooking",
    "": "",
    " ...  !": "",
    "he can't, cannot and won't": "he ca n't can not and wo n't",
    "it's the dogs' ball, isn’t it?": "it 's the dogs ball is n't it",
    "i'm gonna say they'd've": "i 'm gon na say they 'd 've",
    "'tis rock'n'roll of the '90s": "'t is rock 'n' roll of the '90s",
    "y'all at 6 o'clock, ma'am": "y' all at 6 o'clock ma'am",
    "mr. o'brien vs. dr. smith etc.": "mr. o'brien vs. dr. smith etc.",
    "the u.s. no. 1, not no.": "the u.s. no. 1 not no",
    "a t-shirt - or not -- well-known": "a t-shirt or not well-known",
    "says \"hello\" and ``bye''": "says hello and bye",
    "“one” ‘two’ three… — four": "one two three four",
    "add 1/2 cup, ½ cup or 1 1/2 cups": "add 1/2 cup 1/2 cup or 1\u00a01/2 cups",
    "$5 or £3.50, 50% of 1,000 at 10:30am": "$ 5 or # 3.50 50 % of 1,000 at 10:30 am",
    "#1 of 3d/2d, 4x4, -5 and 1990s": "# 1 of 3d/2d 4x4 -5 and 1990s",
    "he/she and/ or r&b, R&B": "he/she and / or r & b r&b",
    "(a [b] {c}) :)": "-lrb- a -lsb- b -rsb- -lcb- c -rcb- -rrb- :-rrb-",
    "what?! no!!! oh!": "what ?! no !!! oh",
    "see www.foo.com, foo.mp4 or me@foo.com": "see www.foo.com foo.mp4 or me@foo.com",
    "<unk> said @bob #fun a_b": "<unk> said @bob #fun a_b",
    "caf\u00e9 &amp; zo\u00eb 😀 soft\u00adhyphen zero\u200bwidth": "caf\u00e9 & zo\u00eb softhyphen zero width",
    "one\ntwo\tthree\u2028four": "one two three four",
}


@pytest.mark.parametrize(("caption", "tokens"), CASES.items())
def test_hard_cases(caption: str, tokens: str) -> None:
    assert " ".join(tokenise(caption)) == tokens


@given(st.text() | st.text("ab'.-/&1 \"(n't"))
def test_any_string_has_lower_case_tokens_without_blanks(caption: str) -> None:
    tokens = tokenise(caption)
    assert " ".join(tokens).split(" ") == (tokens or [""])
    assert [token.lower() for token in tokens] == tokens
    assert not any(token.isspace() for token in tokens)


def published(captions: list[str], folder: Path) -> list[str]:
    """What the published pipeline makes of `captions`, which hold no line ends: a Java program, then a word list."""
    source = folder / "captions.txt"
    source.write_text("".join(f"{caption}\n" for caption in captions), encoding="utf-8")
    jar = Path(ptbtokenizer.__file__).with_name(ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR)
    program = ["-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase", str(source)]
    command = ["java", "-Dfile.encoding=UTF-8", *program]
    lines = (
        subprocess.run(command, capture_output=True, check=True, encoding="utf-8").stdout.removesuffix("\n").split("\n")
    )
    assert len(lines) == len(captions)
    kept = [[token for token in line.split(" ") if token not in ptbtokenizer.PUNCTUATIONS] for line in lines]
    return [" ".join(tokens) for tokens in kept]


def disagreements(captions: list[str], folder: Path) -> list[tuple[str, str]]:
    ours = [" ".join(tokenise(caption)) for caption in captions]
    return [pair for pair in zip(ours, published(captions, folder), strict=True) if pair[0] != pair[1]]


needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="needs Java: no `java` on PATH")


@needs_java
def test_the_published_tokeniser_agrees_on_the_hard_cases(tmp_path: Path) -> None:
    captions = [caption for caption in CASES if "\n" not in caption and caption]
    assert disagreements(captions, tmp_path) == []


@needs_java
def test_the_published_tokeniser_agrees_on_msrvtt(data_root: Path, tmp_path: Path) -> None:
    captions = sorted({caption for own in human_captions(data_root).values() for caption in own})
    plain = [caption for caption in captions if all(word.isalnum() for word in caption.split())]
    hard = sorted(set(captions) - set(plain))
    assert len(hard) > 300
    assert disagreements([*plain[::10], *hard], tmp_path) == []


@needs_java
def test_the_published_tokeniser_agrees_on_sentences_with_punctuation(data_root: Path, tmp_path: Path) -> None:
    movies = read_yms(data_root / "yms").values()
    captions = sorted({snippet.text for movie in movies for snippet in movie.snippets})
    assert sum("," in caption for caption in captions) > 1000
    # `by J. Fox. He ...`: the program takes some words for the start of a sentence.
    assert len(disagreements(captions, tmp_path)) <= 0.001 * len(captions)
