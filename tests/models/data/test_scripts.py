"""Scripts in every format become passages in order; what is malformed is named with its line."""

from pathlib import Path

import pytest

from models.data.scripts import Passage, into_sentences, read_script
from models.errors import UserError

SRT = """1
00:00:01,000 --> 00:00:02,500
<i>A ball</i> rolls
over the meadow.

2
00:00:02,500 --> 00:00:04,000
Then it

3
00:00:04,000 --> 00:00:05,000
rests. A star
"""
VTT = """WEBVTT - a film

STYLE
::cue { color: red }

NOTE nobody reads this

opening
00:01.000 --> 00:02.500 align:start
A ball rolls over the meadow.

01:00:02.500 --> 01:00:04.000
<v Anna>Then it rests.
"""
SCREENPLAY = """Title: A Ball
Author: Nobody

INT. MEADOW - DAY

A red *ball* rolls over the meadow.
It is **huge**.

ANNA (O.S.)
(softly)
Look at that!
It rolls.

CUT TO:

.A DARK ROOM

/* not
this */ Nobody is here. [[a note]]

# Act two

= A synopsis.

> THE END <

!ALL IN CAPITALS it ends.
"""


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "\ufeffOne  thing.\r\n\r\n  Another, then.\n")
    assert read_script(path) == [Passage("One thing."), Passage("Another, then.")]


def test_subrip(tmp_path: Path) -> None:
    assert read_script(write(tmp_path / "a.srt", SRT)) == [
        Passage("A ball rolls over the meadow.", 1.0, 2.5),
        Passage("Then it", 2.5, 4.0),
        Passage("rests. A star", 4.0, 5.0),
    ]


def test_webvtt(tmp_path: Path) -> None:
    assert read_script(write(tmp_path / "a.vtt", VTT)) == [
        Passage("A ball rolls over the meadow.", 1.0, 2.5),
        Passage("Then it rests.", 3602.5, 3604.0),
    ]


def test_two_speakers_at_once(tmp_path: Path) -> None:
    text = "1\n00:00:01,000 --> 00:00:05,000\nOne.\n\n2\n00:00:03,000 --> 00:00:06,000\nTwo.\n"
    assert [(p.start, p.end) for p in read_script(write(tmp_path / "a.srt", text))] == [(1.0, 3.0), (3.0, 6.0)]


def test_a_screenplay_says_what_is_seen(tmp_path: Path) -> None:
    path = write(tmp_path / "a.fountain", SCREENPLAY)
    seen = ["A red ball rolls over the meadow. It is huge.", "Nobody is here.", "ALL IN CAPITALS it ends."]
    assert [passage.text for passage in read_script(path)] == seen
    spoken = [passage.text for passage in read_script(path, dialogue=True)]
    assert spoken == [seen[0], "ANNA: Look at that! It rolls.", *seen[1:]]


def test_annotations_as_yms_has_them(tmp_path: Path) -> None:
    lines = [
        "m_00.00.00.000-00.00.02.000\tA ball rolls.",
        "m_00.00.02.000-00.00.03.000\tUNMATCHED",
        "m_00.00.03.000-00.00.04.000\tUNMATCHED: A star.",
        "n_00.00.00.000-00.00.01.000\tElsewhere.",
    ]
    path = write(tmp_path / "annotations_phrases.txt", "\n".join(lines))
    assert read_script(path, movie="m") == [Passage("A ball rolls.", 0.0, 2.0), Passage("A star.", 3.0, 4.0, False)]
    with pytest.raises(UserError, match="holds 2 movies; name one"):
        read_script(path)
    with pytest.raises(UserError, match="has no movie 'q'; there are m, n"):
        read_script(path, movie="q")


def test_sentences_across_subtitles_with_their_times(tmp_path: Path) -> None:
    found = read_script(write(tmp_path / "a.srt", SRT), sentences=True)
    assert [passage.text for passage in found] == ["A ball rolls over the meadow.", "Then it rests.", "A star"]
    assert (found[0].start, found[0].end) == (1.0, 2.5)
    # "rests. A star" has 13 letters in its second; "rests." is the first 6 of them.
    assert (found[1].start, found[1].end) == pytest.approx((2.5, 4.0 + 6 / 13))
    assert (found[2].start, found[2].end) == pytest.approx((4.0 + 7 / 13, 5.0))


def test_sentences_of_text_without_times() -> None:
    found = into_sentences([Passage("Dr. Smith goes in. He stays!"), Passage("Nobody else")])
    assert found == [Passage("Dr. Smith goes in."), Passage("He stays!"), Passage("Nobody else")]


def test_a_pause_or_a_text_without_video_ends_a_sentence() -> None:
    passages = [Passage("and then", 0.0, 1.0), Passage("it rests", 5.0, 6.0), Passage("it is said", 6.0, 7.0, False)]
    assert into_sentences(passages) == passages


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.txt", "\n \n", "a.txt: holds no text"),
        ("a.srt", "A ball rolls.\n", "a.srt:1: is no .srt file"),
        ("a.vtt", SRT, "a.vtt:1: is no .vtt file"),
        ("a.srt", SRT.replace("02,500 --> 00:00:04,000", "02,500 -> 00:00:04,000"), "a.srt:7: malformed times"),
        ("a.srt", SRT.replace("00:00:02,500 --> 00:00:04,000", "00:02 --> 00:00:04,000"), "a.srt:7: malformed times"),
        (
            "a.srt",
            SRT.replace("00:00:01,000 --> 00:00:02,500", "00:00:02,000 --> 00:00:01,000"),
            "expected an end after",
        ),
        ("a.srt", SRT.replace("00:00:04,000 --> 00:00:05", "00:00:00,000 --> 00:00:05"), "expected them in time order"),
        ("a.fountain", "Title: A Ball\n", "a.fountain: holds no text"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, name: str, text: str, says: str) -> None:
    with pytest.raises(UserError, match=says.replace(".", r"\.")) as error:
        read_script(write(tmp_path / name, text))
    assert "\n" not in str(error.value)


def test_an_absent_file_and_another_encoding(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.srt: no such file"):
        read_script(tmp_path / "a.srt")
    (tmp_path / "b.txt").write_bytes("Grüße\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"b\.txt:1: byte 3 of the line is not UTF-8"):
        read_script(tmp_path / "b.txt")
