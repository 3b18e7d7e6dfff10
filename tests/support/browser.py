"""The system's Chromium, headless, for tests of pages; tests that need it are skipped where there is none."""

import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser, Dialog, Locator, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
DESK, PHONE = (1280, 900), (360, 740)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A running browser, or the test is skipped."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"needs a browser: none of {', '.join(NAMES)} is on PATH")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found)
        yield browser
        browser.close()


class Opened:
    """A page and what it did: errors of its scripts, dialogs, and what it asked for."""

    def __init__(self, browser: Browser, path: Path, size: tuple[int, int] = DESK, dark: bool = False) -> None:
        self.context = browser.new_context(
            viewport={"width": size[0], "height": size[1]},
            color_scheme="dark" if dark else "light",
            has_touch=size == PHONE,
        )
        self.page: Page = self.context.new_page()
        self.problems: list[str] = []
        self.requests: list[str] = []
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", lambda message: self.problems.append(message.text) if message.type == "error" else None)
        self.page.on("dialog", self._dismiss)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())

    def _dismiss(self, dialog: Dialog) -> None:
        self.problems.append(dialog.message)
        dialog.dismiss()

    def __enter__(self) -> "Opened":
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()

    def __call__(self, script: str) -> Any:
        """What a line of JavaScript gives."""
        return self.page.evaluate(script)

    def all(self, css: str) -> Locator:
        return self.page.locator(css)

    def text(self, css: str) -> str:
        return self.page.inner_text(css)

    def until(self, script: str) -> None:
        """Waits until a condition in JavaScript holds (by asking: the page's own policy forbids it to eval)."""
        for _ in range(1000):
            if self(script):
                return
            self.page.wait_for_timeout(30)
        raise AssertionError(f"never came to be: {script}")

    def picture(self) -> NDArray[np.uint8]:
        """(height, width, 3): what is seen."""
        return np.asarray(Image.open(io.BytesIO(self.page.screenshot())).convert("RGB"))

    def colour_at(self, css: str, number: int, x: float = 0.5, y: float = 0.5) -> tuple[int, ...]:
        """The colour that is seen at a place, in shares of its width and height, of an element."""
        box = self.all(css).nth(number).bounding_box()
        assert box is not None
        row, column = round(box["y"] + y * box["height"]), round(box["x"] + x * box["width"])
        return tuple(self.picture()[row, column].tolist())
