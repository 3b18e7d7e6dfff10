"""The page of a sweep: one file that needs no other, with the trials' own numbers, whose names stay text."""

import base64
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from distributed.pages.pictures import Picture, render
from models.errors import UserError
from tests.support.sweeps import realistic, record, sweep_of
from tuning.page import summary, write_page, write_pictures
from tuning.plots import PICTURES
from tuning.records import Sweep

EVIL = '<img src="https://evil.example/x" onerror=alert(1)> & {{title}} <b>long</b> $\\frac{a$'
HELD_OUT = {
    "best (trial 7)": {"validation": {"video_accuracy": 0.8, "loss": 1.25}, "test": {"video_accuracy": 0.78125}},
    "base recipe": {"test": {"loss": math.nan}},
}


class _Page(HTMLParser):
    """Tags with their attributes, tables as rows of texts, and all text outside of style elements."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[str]]] = []
        self.text = ""
        self._open = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "wbr":
            return
        self._open = tag
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in {"td", "th"}:
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        self.text += "" if self._open == "style" else data
        if self._open in {"td", "th"}:
            self.tables[-1][-1][-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def _written(folder: Path, sweep: Sweep, held_out: Any = None) -> str:
    write_page(folder / "page.html", sweep, held_out)
    assert [path.name for path in folder.iterdir()] == ["page.html"]
    return (folder / "page.html").read_text(encoding="utf-8")


def _evil() -> Sweep:
    """Every text that a sweep has, its states aside, is markup."""
    records = [
        record(0, {}, 0.1, state="failed", reason=EVIL),
        *(record(n, {EVIL: EVIL, f"{EVIL}.b": n}, 0.1 * n) for n in range(1, 7)),
    ]
    return replace(sweep_of(*records, baseline=0, note=EVIL), name=EVIL, metric=EVIL)


@pytest.fixture(scope="module")
def evil(tmp_path_factory: pytest.TempPathFactory) -> str:
    return _written(tmp_path_factory.mktemp("evil"), _evil(), {EVIL: {EVIL: {EVIL: 1.0}}})


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> str:
    return _written(tmp_path_factory.mktemp("plain"), realistic(), HELD_OUT)


def test_every_picture_is_on_the_page_for_light_and_dark_screens(plain: str) -> None:
    page = _Page(plain)
    pictures = [picture for draw in PICTURES if isinstance(picture := draw(realistic()), Picture)]
    assert len(pictures) == len(PICTURES) == 5
    prefix = "data:image/png;base64,"
    shown = [base64.b64decode((image["src"] or "").removeprefix(prefix)) for image in page.all("img")]
    dark = [base64.b64decode((source["srcset"] or "").removeprefix(prefix)) for source in page.all("source")]
    assert shown == [render(picture, "png", "light") for picture in pictures]
    assert dark[0] == render(pictures[0], "png", "dark")
    assert [source["media"] for source in page.all("source")] == ["(prefers-color-scheme: dark)"] * 5
    assert [image["alt"] for image in page.all("img")] == [picture.alt for picture in pictures]
    assert all(picture.title in page.text and picture.caption in page.text for picture in pictures)


def test_the_table_has_every_trial_best_first_and_failed_ones_last(plain: str) -> None:
    head, *rows = _Page(plain).tables[1]
    assert head == [
        "trial", "state", "accuracy", "optimiser.eta", "training.batch_size", "model.normalisation",
        "epochs", "minutes", "reason",
    ]  # fmt: skip
    sweep = realistic()
    assert sweep.best is not None
    assert len(rows) == len(sweep.records)
    assert rows[0][0] == str(sweep.best.number)
    values = [float(row[2]) for row in rows[:-1]]
    assert values == sorted(values, reverse=True)
    assert rows[-1][:3] == ["5", "failed", "—"]
    assert rows[-1][-3:] == ["0", "0.0", "the loss is not finite"]
    base = next(row for row in rows if row[0] == "0 (base recipe)")
    assert base == ["0 (base recipe)", "finished", "0.65", "base", "base", "base", "3", "3.0", ""]
    assert {row[1] for row in rows} == {"finished", "stopped early", "failed"}


def test_the_lowest_is_first_where_lower_is_better(tmp_path: Path) -> None:
    sweep = sweep_of(record(0, {"a": 1}, 3.0), record(1, {"a": 2}, 1.0), record(2, {"b": 3}, 2.0), mode="min")
    head, *rows = _Page(_written(tmp_path, sweep)).tables[0]
    assert "reason" not in head
    assert [row[0] for row in rows] == ["1", "2", "0"]
    assert rows[1][3:5] == ["—", "3"]


def test_held_out_figures_have_a_row_for_each_split(plain: str) -> None:
    assert _Page(plain).tables[0] == [
        ["recipe", "split", "video_accuracy", "loss"],
        ["best (trial 7)", "validation", "0.8", "1.25"],
        ["best (trial 7)", "test", "0.7812", "—"],
        ["base recipe", "test", "—", "—"],
    ]


def test_names_stay_text(evil: str) -> None:
    page = _Page(evil)
    pictures = [draw(_evil()) for draw in PICTURES]
    assert len(page.all("img")) == sum(isinstance(picture, Picture) for picture in pictures)
    assert not page.all("b")
    assert not page.all("script")
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert page.text.count(EVIL) > 20  # title, note, table, captions
    assert EVIL in (page.all("img")[0]["alt"] or "")
    assert EVIL in page.tables[1][-1][-1]
    assert page.tables[0] == [["recipe", "split", EVIL], [EVIL, EVIL, "1"]]
    assert "{{" not in evil.replace("{{title}} &lt;b", "")


@pytest.mark.parametrize("which", ["plain", "evil"])
def test_nothing_comes_from_outside(which: str, request: pytest.FixtureRequest) -> None:
    text = request.getfixturevalue(which)
    bare = re.sub(r"base64,[A-Za-z0-9+/=]+", "", text).replace("https://evil", "").replace("https://<wbr>evil", "")
    assert not re.search(r"https?://|@import|url\(", bare)
    page = _Page(text)
    links = [value or "" for _, a in page.tags for name, value in a.items() if name in {"src", "href", "srcset"}]
    assert links
    assert all(link.startswith("data:") for link in links)
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv")) or ""
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def test_the_same_sweep_gives_the_same_page(plain: str, tmp_path: Path) -> None:
    assert _written(tmp_path, realistic(), HELD_OUT) == plain


def test_a_page_of_no_trials_says_so(tmp_path: Path) -> None:
    page = _Page(_written(tmp_path, sweep_of()))
    assert "No trial was begun yet." in page.text
    assert page.text.count("There is no figure of ") == len(PICTURES)
    assert not page.tables
    assert not page.all("img")


def test_a_reason_that_is_a_trace_is_cut(tmp_path: Path) -> None:
    page = _Page(_written(tmp_path, sweep_of(record(0, {"a": 1}, state="failed", reason="x" * 5000))))
    assert page.tables[0][1][-1] == "x" * 299 + "…"
    assert "None has a value yet." in page.text


def test_the_summary_counts_and_compares() -> None:
    records = [
        record(0, {}, 0.4, 0.5),
        record(1, {"a": 1}, 0.6),
        record(2, {"a": 2}, 0.3, state="stopped"),
        record(3, {"a": 3}, state="failed"),
    ]
    timed = [replace(r, begun=1000.0 + 1800 * r.number, seconds=1800.0) for r in records]
    assert summary(sweep_of(*timed, baseline=0)) == (
        "4 trials: 2 finished, 1 stopped early and 1 failed. The best is trial 1 with accuracy 0.6, 0.1 (20.0 %) above "
        "the base recipe's 0.5. The trials took 2 h 0 min in all, within 2 h 0 min, 2 trials an hour."
    )
    assert "best is trial 2 with accuracy 0.3, 0.1 (25.0 %) below the base recipe's 0.4." in summary(
        sweep_of(*records, mode="min", baseline=0)
    )
    assert summary(sweep_of(*records, baseline=0)).endswith("The trials took 4 min in all.")
    assert "0.6. The" in summary(sweep_of(*records))
    itself = summary(sweep_of(record(0, {}, 0.9), record(1, {"a": 1}, 0.5), baseline=0))
    assert "with accuracy 0.9, which is the base recipe itself." in itself
    failed = summary(sweep_of(record(0, {}, 0.9, state="failed"), record(1, {"a": 1}, 0.5), baseline=0))
    assert "best is trial 1 with accuracy 0.5. " in failed


def test_pictures_are_written_as_svg(tmp_path: Path) -> None:
    written = write_pictures(tmp_path / "new", realistic())
    assert [path.name for path in written] == [f"{draw.__name__}.svg" for draw in PICTURES]
    assert sorted(tmp_path.glob("new/*")) == sorted(written)
    assert all(path.read_text(encoding="utf-8").count("</svg>") == 1 for path in written)
    assert write_pictures(tmp_path / "none", sweep_of()) == []


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written") as raised:
        write_page(tmp_path / "file" / "page.html", sweep_of())
    assert "\n" not in str(raised.value)
