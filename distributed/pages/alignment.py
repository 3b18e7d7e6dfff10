"""A page that shows a movie's alignments on a timeline, with its pictures and its film: one HTML file, no requests."""

import base64
import html
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from models.data.files import atomic_path
from models.data.movie import Alignment, Movie
from models.neumatch.metrics import Score, score, snippet_ious
from models.neumatch.oracle import oracle_alignment

GOLD = "gold"
_FOLDER = Path(__file__).parent
_PARTS = {"style": "alignment.css", "timeline": "alignment.js", "film": "alignment_film.js"}


def write_alignment_page(
    path: Path,
    movie: Movie,
    alignments: Mapping[str, Alignment],
    *,
    title: str,
    figures: Mapping[str, Score] | None = None,
    note: str = "",
    reference: str | None = GOLD,
    confidences: Mapping[str, Sequence[float]] | None = None,
    film: str | None = None,
    thumbnails: Sequence[bytes | None] = (),
) -> None:
    """Writes the page to `path`, whole or not at all.

    Args:
        path: the HTML file; missing folders are made.
        movie: the clips and snippets to show.
        alignments: the rows, in this order. Where none is called as `reference`, the oracle's alignment comes first
            under that name; agreement is with it.
        title: the page's heading, plain text.
        figures: each method's mean over a whole set of movies. They are shown beside the figures of this one movie,
            which are computed here; methods that are no row may be among them.
        note: a plain sentence under the heading, such as what the data are.
        reference: what the snippets' own times are called; None: they have none, and nothing is compared.
        confidences: for rows by name how sure of it the method is, clip by clip, 0 to 1.
        film: the video file, as a URL relative to the page; it is played from where a reader points.
        thumbnails: a JPEG picture a clip, or None for some; empty: no pictures.

    Raises:
        ValueError: an alignment, or what comes with it, does not fit the movie.
        UserError: the file cannot be written.
    """
    rows = dict(alignments)
    if reference is not None and reference not in rows:
        rows = {reference: oracle_alignment(movie), **rows}
    if any(len(given) != len(movie.clips) for given in (*(confidences or {}).values(), *filter(None, [thumbnails]))):
        raise ValueError(f"movie {movie.id} has {len(movie.clips)} clips; expected a confidence and a picture for each")
    data = _data(movie, rows, reference, figures or {}, confidences or {})
    data |= {"film": film, "pictures": [base64.b64encode(jpeg or b"").decode() for jpeg in thumbnails]}
    slots = {name: (_FOLDER / file).read_text(encoding="utf-8") for name, file in _PARTS.items()}
    slots |= {"title": html.escape(title), "note": html.escape(note), "data": _embed(data)}
    template = (_FOLDER / "alignment.html").read_text(encoding="utf-8")
    # One pass, so that a slot's name inside a title stays what it is.
    page = re.sub(r"\{\{(" + "|".join(slots) + r")\}\}", lambda slot: slots[slot[1]], template)
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _data(
    movie: Movie,
    rows: Mapping[str, Alignment],
    reference: str | None,
    figures: Mapping[str, Score],
    confidences: Mapping[str, Sequence[float]],
) -> dict[str, Any]:
    compared = reference is not None
    return {
        "movie": movie.id,
        "gold": list(rows).index(reference) if reference is not None else -1,
        "clips": [[clip.id, clip.start, clip.end] for clip in movie.clips],
        "snippets": [
            [s.id, s.text, *((s.start, s.end, s.matched) if compared else (None, None, True))] for s in movie.snippets
        ],
        "rows": [
            {
                "name": name,
                "links": _links(movie, alignment),
                "confidence": [round(value, 3) for value in confidences[name]] if name in confidences else None,
                "ious": [round(iou, 2) for iou in snippet_ious(movie, alignment)] if compared else None,
                "score": _pair(score([movie], [alignment])) if compared else None,
            }
            for name, alignment in rows.items()
        ],
        "figures": {name: _pair(figure) for name, figure in figures.items()},
    }


def _links(movie: Movie, alignment: Alignment) -> list[list[int]]:
    fits = len(alignment) == len(movie.clips)
    if not fits or any(not 0 <= j < len(movie.snippets) for texts in alignment for j in texts):
        raise ValueError(f"this alignment does not fit movie {movie.id}")
    return [sorted(texts) for texts in alignment]


def _pair(figure: Score) -> list[float]:
    return [figure.video_accuracy, figure.text_iou]


def _embed(data: Mapping[str, Any]) -> str:
    """JSON that cannot end its script element nor open another, whatever the texts hold."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
