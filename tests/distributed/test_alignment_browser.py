"""The alignment page in a real browser: the film plays at a click, keys move, everything is seen, also on a phone."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser

from distributed.pages.alignment import write_alignment_page
from distributed.pages.thumbnails import thumbnail
from models.data.film import stills
from models.data.movie import Alignment, Clip, Movie, Snippet
from models.data.rendering import Scene, Subject, render
from tests.support.browser import DESK, PHONE, Opened, chromium

HOSTILE = "</script><script>alert('x')</script> <!-- <img src=https://evil.example/x onerror=alert(1)> {{title}}"
CLIPS = tuple(Clip(f"c{i}", 2 * i, 2 * i + 2) for i in range(4))
SNIPPETS = (
    Snippet("a", "A red ball rolls from left to right on a green meadow.", 0, 3.5),
    Snippet("b", HOSTILE, 3.5, 4.5, matched=False),
    Snippet("c", "A white star spins around on the open sea.", 6, 8),
)
MOVIE = Movie("0007", CLIPS, SNIPPETS)
FOUND: Alignment = [(0,), (0,), (), (2,)]
SURE = (0.99, 0.9, 0.3, 0.6)
PURPLE = {  # LEVELS, on light and on dark screens
    "light": [(218, 218, 235), (169, 164, 208), (117, 107, 177), (74, 20, 134)],
    "dark": [(61, 54, 86), (109, 93, 160), (169, 155, 220), (233, 227, 255)],
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight seconds, a scene every two."""
    path = tmp_path_factory.mktemp("pages") / "a film #1.mp4"
    seen = [Subject(0, 0, 0, 0), Subject(0, 0, 0, 0), None, Subject(3, 4, 3, 2)]
    render(path, [Scene(subject, take, 2.0) for take, subject in enumerate(seen)])
    return path


@pytest.fixture
def write(film: Path) -> Callable[..., Path]:
    """Writes a page beside the film."""
    pictures = [thumbnail(image) for image in stills(film, [1, 3, 5, 7])]

    def written(**options: Any) -> Path:
        given: dict[str, Any] = {
            "reference": None,
            "confidences": {"NeuMATCH": SURE},
            "film": "a%20film%20%231.mp4",
            "thumbnails": pictures,
            "title": "0007 and its script",
        }
        path = film.with_name("page.html")
        write_alignment_page(path, MOVIE, {"NeuMATCH": FOUND}, **{**given, **options})
        return path

    return written


def ready(opened: Opened) -> Opened:
    """With the film loaded."""
    opened.until("!document.querySelector('#film').hidden")
    return opened


PLAYING = "!document.querySelector('#film').paused && !document.querySelector('#film').seeking"


def now(opened: Opened) -> float:
    return float(opened("document.querySelector('#film').currentTime"))


def test_a_click_plays_the_film_from_there(browser: Browser, write: Callable[..., Path], film: Path) -> None:
    with ready(Opened(browser, write())) as page:
        assert page("document.querySelector('#film').paused")
        page.all(".clip").nth(3).click()
        page.until(f"{PLAYING} && document.querySelector('#film').currentTime > 6")
        assert 6 < now(page) <= 8
        assert page("document.querySelector('#film').src") == film.as_uri()
        assert page("document.querySelector('#film').videoWidth") == 192
        assert "Clip 4 of 4 · 0:06.0 – 0:08.0" in page.text("#detail")
        assert "A white star" in page.text("#detail")
        assert "60 % sure" in page.text("#detail")
        page.all(".text").nth(0).click()
        page.until(f"{PLAYING} && document.querySelector('#film').currentTime < 5")
        assert "clips 1–2 (0:00.0 – 0:04.0) · 95 % sure" in page.text("#detail")  # the mean of 99 and 90
        assert page.problems == []


def test_the_selection_follows_the_film(browser: Browser, write: Callable[..., Path]) -> None:
    with ready(Opened(browser, write())) as page:
        page.all(".clip").nth(0).click()
        page.until("document.querySelector('#detail').textContent.startsWith('Clip 2 of 4')")
        assert now(page) >= 1.98
        left = page("parseFloat(document.querySelector('.playhead').style.left)")
        assert left == pytest.approx(page("px(document.querySelector('#film').currentTime)"), abs=page("px(1)"))


def test_what_no_clip_shows_is_marked_and_plays_nothing(browser: Browser, write: Callable[..., Path]) -> None:
    with ready(Opened(browser, write())) as page:
        assert page("[...document.querySelectorAll('.text.novideo')].map(x => x.item.text)") == [1]
        assert page("[...document.querySelectorAll('.clip.none')].map(x => x.item.clip)") == [2]
        page.all(".text").nth(1).click()
        assert page("document.querySelector('#film').paused")
        assert "no clip shows it" in page.text("#detail")
        page.all(".clip").nth(2).click()
        page.until(PLAYING)
        assert "unmatched" in page.text("#detail")


def test_keys_move_play_and_let_go(browser: Browser, write: Callable[..., Path]) -> None:
    with ready(Opened(browser, write())) as page:
        press, picked = page.page.keyboard.press, "picked && JSON.stringify(picked)"
        press("ArrowRight")
        assert page(picked) == '{"row":-1,"text":0}'
        press("ArrowDown")
        assert page(picked) == '{"row":0,"clip":0}'
        for _ in range(5):
            press("ArrowRight")
        assert page(picked) == '{"row":0,"clip":3}'
        assert page.all(".clip.cursor").count() == 1
        press("ArrowUp")
        assert page(picked) == '{"row":-1,"text":2}'
        press("Enter")
        page.until(f"{PLAYING} && document.querySelector('#film').currentTime >= 6")
        press(" ")
        page.until("document.querySelector('#film').paused")
        press(" ")
        page.until(PLAYING)
        press("Escape")
        page.until("document.querySelector('#film').paused")
        assert page("picked") is None
        assert page.all(".cursor").count() == 0
        page.all("#fit").focus()
        press("Enter")  # a button does what it says
        assert page("document.querySelector('#film').paused")
        assert page("document.querySelector('#track').offsetWidth") <= page(
            "document.querySelector('#scroll').offsetWidth"
        )


def test_a_film_that_is_not_there_is_said(browser: Browser, write: Callable[..., Path]) -> None:
    with Opened(browser, write(film="gone/b%20c.mp4")) as page:
        page.until("!document.querySelector('#missing').hidden")
        assert "there is no gone/b c.mp4 beside this page" in page.text("#missing")
        assert not page.all("#film").is_visible()
        page.all(".clip").nth(0).click()
        assert "Clip 1 of 4" in page.text("#detail")


def luminance(colour: Sequence[int]) -> float:
    return float(np.dot(colour, (0.299, 0.587, 0.114)))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_bands_have_the_colour_of_how_sure_the_model_is(
    browser: Browser, write: Callable[..., Path], theme: str
) -> None:
    with ready(Opened(browser, write(), dark=theme == "dark")) as page:
        levels = PURPLE[theme]
        assert page.all(".links path").count() == 2
        assert page.colour_at(".links path", 0) == pytest.approx(levels[2], abs=3)  # 94.5 %
        assert page.colour_at(".links path", 1) == pytest.approx(levels[1], abs=3)  # 60 %
        found = [page.colour_at(".sure", number) for number in range(4)]
        assert found == [pytest.approx(levels[n], abs=3) for n in (3, 2, 0, 1)]
        # Lightness alone tells them apart, whatever colours a reader sees.
        steps = np.diff([luminance(level) for level in levels])
        assert (np.abs(steps) > 25).all()
        assert len(set(np.sign(steps))) == 1
        # Above the clip that nothing is matched with there is no band.
        clip, links = page.all(".clip").nth(2).bounding_box(), page.all(".links").bounding_box()
        assert clip
        assert links
        below = round(links["y"] + links["height"] - 3)
        row = page.picture()[below, round(clip["x"] + 3) : round(clip["x"] + clip["width"] - 3)]
        card = (255, 255, 255) if theme == "light" else (30, 33, 38)
        assert (np.abs(row.astype(int) - card) <= 3).all()


def test_the_film_strip_shows_each_clip(browser: Browser, write: Callable[..., Path], film: Path) -> None:
    with ready(Opened(browser, write())) as page:
        page.until("[...document.querySelectorAll('.clip img')].filter(x => x.naturalWidth).length === 4")
        for number, image in enumerate(stills(film, [1, 3, 5, 7])):
            seen = np.array(page.colour_at(".clip img", number, 0.3, 0.95), float)
            height, width = image.shape[:2]
            there = image[round(0.95 * height) - 3 :, round(0.3 * width) - 8 : round(0.3 * width) + 8].mean((0, 1))
            if number == 2:  # unmatched: pale
                there = (there + 230) / 2
            assert np.abs(seen - there).max() < 60, (number, seen, there)


@pytest.mark.parametrize("size", [DESK, PHONE])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"reference": "gold", "title": "Averylongtitlewithoutanyblank" * 5},
        {"film": None, "thumbnails": (), "confidences": {}},
        {"film": None, "thumbnails": (), "reference": "gold", "confidences": {}},
    ],
)
def test_no_page_is_wider_than_its_screen(
    browser: Browser, write: Callable[..., Path], size: tuple[int, int], options: dict[str, Any]
) -> None:
    with Opened(browser, write(**options), size) as page:
        for key in ("ArrowRight", "ArrowDown"):  # which do not scroll by themselves, as a click of this driver does
            page.page.keyboard.press(key)
        assert page("document.documentElement.scrollWidth") <= size[0]
        box, dock = page.all(".clip.cursor").bounding_box(), page.all("#dock").bounding_box()
        assert box
        assert dock
        assert box["y"] + box["height"] <= dock["y"]  # what was picked is not hidden behind what is said of it
        assert dock["y"] + dock["height"] <= size[1]
        assert page.problems == []


def test_gold_stands_beside_what_was_found(browser: Browser, write: Callable[..., Path]) -> None:
    with ready(Opened(browser, write(reference="gold"))) as page:
        assert page("ROWS.map(row => row.name)") == ["gold", "NeuMATCH"]
        assert page("[...document.querySelectorAll('.clip')].map(x => x.item.row)") == [0] * 4 + [1] * 4
        assert page.all(".good").count() == 4 + 1  # and the legend's
        assert page.all(".miss").count() == 1
        assert "4 of 4 clips as in the gold" in page.text("#track")
        page.all(".clip").nth(5).click()
        assert "✓ as in the gold" in page.text("#detail")
        page.all(".text").nth(0).click()
        page.until(PLAYING)
        assert "IoU 88 %" in page.text("#detail")  # 3.5 of 4 seconds
        assert "Video accuracy" in page.text("#figures")


def test_without_gold_nothing_is_compared(browser: Browser, write: Callable[..., Path]) -> None:
    with ready(Opened(browser, write())) as page:
        assert not page.all("#scores").is_visible()
        assert page.all(".good, .miss").count() == 0
        assert "gold" not in page.text("body")
        assert "4 clips (1 unmatched), 3 texts (1 without video)" in page.text("#size")


def test_hostile_texts_are_texts(browser: Browser, write: Callable[..., Path], film: Path) -> None:
    with ready(Opened(browser, write(title=HOSTILE, note=HOSTILE))) as page:
        page.all(".text").nth(1).click()
        assert HOSTILE in page.text("#detail")
        assert page.page.title() == HOSTILE
        assert page.problems == []
        assert all(url == film.as_uri() or url.startswith(("data:", "file:")) for url in page.requests)


def test_a_long_film_is_drawn_where_it_is_looked_at(browser: Browser, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    count, texts = 1500, 700
    clips = tuple(Clip(f"c{i}", 4.0 * i, 4.0 * i + 4) for i in range(count))
    snippets = tuple(Snippet(f"s{j}", f"Sentence {j} says something.", 0, 1) for j in range(texts))
    owners = np.sort(random.choice(texts, count))
    found: Alignment = [(int(j),) if random.random() < 0.7 else () for j in owners]
    picture = thumbnail(np.full((54, 96, 3), 90, np.uint8))
    write_alignment_page(
        tmp_path / "long.html",
        Movie("long", clips, snippets),
        {"NeuMATCH": found},
        title="long",
        reference=None,
        thumbnails=[picture] * count,
    )
    with Opened(browser, tmp_path / "long.html") as page:
        assert page.all(".clip").count() == count
        assert 0 < page.all(".clip img").count() < 120
        page("document.querySelector('#scroll').scrollLeft = 50000")
        page.until("CLIPS.some((x, i) => px(x.start) > 50000 && strip[i].pictured)")
        for button in ("#read", "#fit"):
            page.all(button).click()
            edges = np.array(page("boxes"))
            assert (edges[1:, 0] - edges[:-1].sum(1) > -1e-6 * page("px(TO)")).all()  # in order, none over another
            assert edges[0, 0] > -1e-3
            assert edges[-1].sum() < page("px(TO)") * 1.000001
        assert page.problems == []
