"""The alignment page: whole data, safe with hostile texts, and nothing from outside. Needs no browser."""

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from distributed.pages.alignment import write_alignment_page
from models.data.movie import Alignment, Clip, Movie, Snippet
from models.errors import UserError
from models.neumatch.metrics import Score, snippet_ious, text_iou, video_accuracy
from models.neumatch.oracle import oracle_alignment

HOSTILE = (
    "</script><script>alert('x')</script> <!-- & <img src=https://evil.example/x onerror=alert(1)> {{title}} \u2028"
)
MOVIE = Movie(
    "0042",
    (Clip("a", 0, 4), Clip("b", 4, 6.5), Clip("c", 6.5, 10)),
    (Snippet("x", HOSTILE, 1, 5), Snippet("y", "über naïve", 5, 6, matched=False), Snippet("z", "three", 6, 10)),
)
GUESS: Alignment = [(0,), (0, 2), ()]


class _Page(HTMLParser):
    """Tags, their attributes, and the text inside each script, title, h1 and p element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside: list[tuple[str, str]] = []
        self._open = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in {"script", "title", "h1", "p"}:
            self._open = tag
            self.inside.append((tag, ""))

    def handle_endtag(self, tag: str) -> None:
        self._open = "" if tag == self._open else self._open

    def handle_data(self, data: str) -> None:
        if self._open:
            self.inside[-1] = (self._open, self.inside[-1][1] + data)

    def texts(self, tag: str) -> list[str]:
        return [text for name, text in self.inside if name == tag]


def _write(tmp_path: Path, title: str = "A movie", note: str = "", **alignments: Alignment) -> tuple[str, _Page, Any]:
    path = tmp_path / "deep" / "page.html"
    rows = alignments or {"guess": GUESS}
    write_alignment_page(path, MOVIE, rows, title=title, figures={"guess": Score(61.25, 50)}, note=note)
    text = path.read_text(encoding="utf-8")
    page = _Page(text)
    return text, page, json.loads(page.texts("script")[0])


def test_every_clip_snippet_and_link_is_there(tmp_path: Path) -> None:
    _, _, data = _write(tmp_path)
    assert data["movie"] == "0042"
    assert data["clips"] == [[c.id, c.start, c.end] for c in MOVIE.clips]
    assert data["snippets"] == [[s.id, s.text, s.start, s.end, s.matched] for s in MOVIE.snippets]
    gold, guess = data["rows"]
    assert gold["name"] == "gold"
    assert gold["links"] == [list(texts) for texts in oracle_alignment(MOVIE)]
    assert guess["links"] == [[0], [0, 2], []]
    assert guess["score"] == pytest.approx([video_accuracy(MOVIE, GUESS), text_iou(MOVIE, GUESS)])
    assert guess["ious"] == pytest.approx(snippet_ious(MOVIE, GUESS), abs=0.005)
    assert data["figures"] == {"guess": [61.25, 50]}


def test_a_given_gold_is_kept_where_it_stands(tmp_path: Path) -> None:
    _, _, data = _write(tmp_path, guess=GUESS, gold=[(0,), (), (2,)])
    assert [row["name"] for row in data["rows"]] == ["guess", "gold"]
    assert data["gold"] == 1
    assert data["rows"][1]["links"] == [[0], [], [2]]


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    text, page, data = _write(tmp_path, title=HOSTILE, note=HOSTILE)
    assert [attributes.get("type") for tag, attributes in page.tags if tag == "script"] == ["application/json", None]
    assert "img" not in {tag for tag, _ in page.tags}
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert page.texts("title") == page.texts("h1") == [HOSTILE]
    assert HOSTILE in page.texts("p")
    assert data["snippets"][0][1] == HOSTILE
    assert not set("<>&") & set(text.split('id="data">')[1].split("</script>")[0])
    assert "innerHTML" not in text


def test_nothing_comes_from_outside(tmp_path: Path) -> None:
    text, page, _ = _write(tmp_path)
    plain = text.replace(json.dumps(HOSTILE)[1:-1].replace("<", "\\u003c").replace(">", "\\u003e"), "")
    plain = plain.replace("http://www.w3.org/2000/svg", "")  # a namespace, never fetched
    assert "https://" not in plain.replace("https://evil.example", "")
    assert "http://" not in plain
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|WebSocket|import\(", plain)
    links = [value for _, attributes in page.tags for name, value in attributes.items() if name in {"src", "href"}]
    assert links == ["data:,"]
    policy = next(a["content"] for tag, a in page.tags if tag == "meta" and a.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_no_slot_is_left(tmp_path: Path) -> None:
    text, _, _ = _write(tmp_path)
    assert "{{" not in text.replace("{{title}} ", "", 1)


def test_an_alignment_that_does_not_fit_leaves_the_old_page(tmp_path: Path) -> None:
    before, _, _ = _write(tmp_path)
    with pytest.raises(ValueError, match="movie 0042"):
        _write(tmp_path, guess=[(0,)])
    assert (tmp_path / "deep" / "page.html").read_text(encoding="utf-8") == before
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["page.html"]


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "deep").write_text("a file, no folder")
    with pytest.raises(UserError, match="cannot be written"):
        _write(tmp_path)


def test_without_a_reference_texts_have_no_times(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    pictures = [b"\xff\xd8one", None, b"\xff\xd8two"]
    options: dict[str, Any] = {"title": "t", "reference": None, "film": "../a%20b.mp4", "thumbnails": pictures}
    write_alignment_page(path, MOVIE, {"guess": GUESS}, confidences={"guess": (0.5, 0.25, 0.12345)}, **options)
    data = json.loads(_Page(path.read_text(encoding="utf-8")).texts("script")[0])
    assert data["gold"] == -1
    assert [snippet[2:] for snippet in data["snippets"]] == [[None, None, True]] * 3
    (row,) = data["rows"]
    assert (row["name"], row["links"], row["score"], row["ious"]) == ("guess", [[0], [0, 2], []], None, None)
    assert row["confidence"] == [0.5, 0.25, 0.123]
    assert data["film"] == "../a%20b.mp4"
    assert data["pictures"] == [base64.b64encode(picture or b"").decode() for picture in pictures]


def test_another_reference_has_its_own_name(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write_alignment_page(path, MOVIE, {"guess": GUESS}, title="t", reference="subtitles")
    data = json.loads(_Page(path.read_text(encoding="utf-8")).texts("script")[0])
    assert [row["name"] for row in data["rows"]] == ["subtitles", "guess"]
    assert data["gold"] == 0


@pytest.mark.parametrize("options", [{"confidences": {"guess": (0.5,)}}, {"thumbnails": [b"", b""]}])
def test_what_does_not_fit_the_movie_is_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="movie 0042 has 3 clips"):
        write_alignment_page(tmp_path / "page.html", MOVIE, {"guess": GUESS}, title="t", **options)
    with pytest.raises(ValueError, match="does not fit movie 0042"):
        write_alignment_page(tmp_path / "page.html", MOVIE, {"guess": [(0,), (3,), ()]}, title="t", reference=None)
