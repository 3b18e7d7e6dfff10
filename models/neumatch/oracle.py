"""The gold alignment of a movie, from the times of its clips and its annotated snippets."""

from models.data.movie import Alignment, Movie

_TOLERANCE = 1e-6  # seconds; equal times that differ by rounding must not decide


def oracle_alignment(movie: Movie) -> Alignment:
    """For each clip, the index of the one snippet it belongs to, or nothing: `[(0,), (0,), (), (1,), ...]`.

    A clip belongs to the matched snippet that it overlaps longest (the earlier of two equals), unless the part of the
    clip that no matched snippet covers is longer than that overlap; then it is unmatched. Snippets with `matched`
    false own no video. One sweep over both sequences, which must be in time order without overlaps.
    """
    snippets = [(i, s) for i, s in enumerate(movie.snippets) if s.matched]
    alignment: Alignment = []
    first = 0
    for clip in movie.clips:
        while first < len(snippets) and snippets[first][1].end <= clip.start:
            first += 1
        owner, longest, covered = -1, 0.0, 0.0
        # The last snippet looked at may reach into the next clip, so `first` does not move past it here.
        at = first
        while at < len(snippets) and snippets[at][1].start < clip.end:
            index, snippet = snippets[at]
            at += 1
            overlap = min(clip.end, snippet.end) - max(clip.start, snippet.start)
            covered += overlap
            if overlap > longest + _TOLERANCE:
                owner, longest = index, overlap
        uncovered = clip.seconds - covered
        alignment.append((owner,) if owner >= 0 and uncovered <= longest + _TOLERANCE else ())
    return alignment
