"""A page that shows one movie's gold and predicted alignments on a timeline: one HTML file, no outside requests."""

import html
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.data.files import atomic_path
from models.data.movie import Alignment, Movie
from models.neumatch.metrics import Score, score, snippet_ious
from models.neumatch.oracle import oracle_alignment

GOLD = "gold"
_TEMPLATE = Path(__file__).with_name("alignment.html")


def write_alignment_page(
    path: Path,
    movie: Movie,
    alignments: Mapping[str, Alignment],
    *,
    title: str,
    figures: Mapping[str, Score],
    note: str = "",
) -> None:
    """Writes the page to `path`, whole or not at all.

    Args:
        path: the HTML file; missing folders are made.
        movie: the clips and snippets to show.
        alignments: the rows, in this order. Where none is called "gold", the oracle's alignment comes first under
            that name; agreement is with it.
        title: the page's heading, plain text.
        figures: each method's mean over a whole set of movies. They are shown beside the figures of this one movie,
            which are computed here; methods that are no row may be among them.
        note: a plain sentence under the heading, such as what the data are.

    Raises:
        ValueError: an alignment does not fit the movie.
        UserError: the file cannot be written.
    """
    rows = {**({} if GOLD in alignments else {GOLD: oracle_alignment(movie)}), **alignments}
    data = _data(movie, rows, figures)
    slots = {"title": html.escape(title), "note": html.escape(note), "data": _embed(data)}
    # One pass, so that a slot's name inside a title stays what it is.
    page = re.sub(r"\{\{(title|note|data)\}\}", lambda slot: slots[slot[1]], _TEMPLATE.read_text(encoding="utf-8"))
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _data(movie: Movie, rows: Mapping[str, Alignment], figures: Mapping[str, Score]) -> dict[str, Any]:
    return {
        "movie": movie.id,
        "gold": list(rows).index(GOLD),
        "clips": [[clip.id, clip.start, clip.end] for clip in movie.clips],
        "snippets": [[s.id, s.text, s.start, s.end, s.matched] for s in movie.snippets],
        "rows": [
            {
                "name": name,
                "links": [sorted(texts) for texts in alignment],
                "ious": [round(iou, 2) for iou in snippet_ious(movie, alignment)],
                "score": _pair(score([movie], [alignment])),
            }
            for name, alignment in rows.items()
        ],
        "figures": {name: _pair(figure) for name, figure in figures.items()},
    }


def _pair(figure: Score) -> list[float]:
    return [figure.video_accuracy, figure.text_iou]


def _embed(data: Mapping[str, Any]) -> str:
    """JSON that cannot end its script element nor open another, whatever the texts hold."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
