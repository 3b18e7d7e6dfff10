"""The look of every figure on a page, in files that stay the same for the same figure, and its place in the HTML."""

import base64
import html
import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib
from matplotlib.figure import Figure

from models.data.files import atomic_path

HEAD = Path(__file__).parent / "head.html"
"""What pages of pictures begin with: their safety, and their look."""
WIDTH = 6.4
"""Of a figure, in inches: narrow enough that its text can be read on a phone."""

STYLE: dict[Any, Any] = {
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "text.parse_math": False,  # a name may have a $ in it
    "svg.hashsalt": "meltmatch",  # the same figure is the same file
}


def _theme(paper: str, ink: str, grid: str) -> dict[Any, Any]:
    inks = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    return {"figure.facecolor": paper, "axes.facecolor": paper, "grid.color": grid, **dict.fromkeys(inks, ink)}


Theme = Literal["light", "dark"]
THEMES: dict[Theme, dict[Any, Any]] = {
    "light": _theme("#ffffff", "#1c1d1f", "#d8dade"),
    "dark": _theme("#1e2126", "#eceef1", "#3a3f47"),
}
# Okabe and Ito's colours, with a lighter blue for dark screens and grey for yellow, which is faint on white.
COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#d55e00", "#cc79a7", "#3d8fd1", "#8a8f98")


@dataclass(frozen=True)
class Picture:
    """One figure of a page; its texts are plain."""

    name: str
    title: str
    caption: str
    alt: str
    height: float
    """In inches."""
    draw: Callable[[Figure], None]
    paper: str = ""
    """The paper's figure that it corresponds to, if any."""


def render(picture: Picture, kind: Literal["png", "svg"], theme: Theme) -> bytes:
    """The figure as a file; the same bytes for the same figure."""
    with matplotlib.rc_context({**STYLE, **THEMES[theme]}):
        figure = Figure(figsize=(WIDTH, picture.height), layout="constrained")
        picture.draw(figure)
        file = io.BytesIO()
        no_date: dict[str, Any] = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
        figure.savefig(file, format=kind, dpi=200, metadata=no_date)
    return file.getvalue()


def section(picture: Picture, light: bytes, dark: bytes, remark: str = "") -> str:
    """A figure as HTML, its image (PNG) inside, for light and for dark screens; `remark` is plain text."""
    day, night = (f"data:image/png;base64,{base64.b64encode(image).decode()}" for image in (light, dark))
    small = f" <small>{html.escape(remark)}</small>" if remark else ""
    return (
        f"<section>\n<h2>{html.escape(picture.title)}</h2>\n<figure>\n"
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{night}">'
        f'<img src="{day}" alt="{html.escape(picture.alt)}"></picture>\n'
        f"<figcaption>{html.escape(picture.caption)}{small}</figcaption>\n</figure>\n</section>"
    )


def write_filled(path: Path, template: Path, slots: Mapping[str, str]) -> None:
    """Writes `template` with HTML in place of each {{slot}}, and HEAD in that of {{head}}, to `path`, whole or not at
    all."""
    text = template.read_text(encoding="utf-8").replace("{{head}}", HEAD.read_text(encoding="utf-8"))
    # One pass, so that a slot's name inside a name stays what it is.
    pattern = r"\{\{(" + "|".join(slots) + r")\}\}"
    page = re.sub(pattern, lambda slot: slots[slot[1]], text)
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
