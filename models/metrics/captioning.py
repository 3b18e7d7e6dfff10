"""Scores of generated captions against all references: BLEU, METEOR, ROUGE-L and CIDEr (MELTR, Tables 4 and 5)."""

import sys
from collections.abc import Mapping, Sequence
from functools import cache

from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from models.errors import UserError
from models.metrics.meteor import meteor
from models.metrics.tokenise import tokenise


def caption_scores(
    candidates: Mapping[str, str], references: Mapping[str, Sequence[str]], with_meteor: bool = True
) -> dict[str, float]:
    """`BLEU-1` to `BLEU-4`, `METEOR`, `ROUGE-L`, `CIDEr` of one caption an id; empty for no captions.

    All are of the whole corpus and times 100, CIDEr too, as the papers print it (its own scale ends at 10, so here at
    1000). BLEU is Papineni et al.'s (ACL 2002) with the nearest reference length, ROUGE-L Lin's (2004) with beta 1.2,
    CIDEr the variant CIDEr-D (Vedantam et al., CVPR 2015), whose word weights come from the references at hand: of a
    single id it is always 0. METEOR (see `meteor`) is left out, with one line on stderr, where it cannot be had.

    Args:
        candidates: the generated caption of each id; it may be empty.
        references: every reference caption of each id, one or more.
        with_meteor: whether METEOR is wanted, which starts a Java process for seconds.

    Raises:
        ValueError: an id has a caption and no references or the other way round (it is named).
    """
    _check(candidates, references)
    if not candidates:
        return {}
    generated = {id: [" ".join(tokenise(caption))] for id, caption in candidates.items()}
    written = {id: [" ".join(tokenise(caption)) for caption in references[id]] for id in candidates}
    bleu, _ = Bleu(4).compute_score(written, generated, verbose=0)
    scores = {f"BLEU-{n}": 100 * float(value) for n, value in enumerate(bleu, start=1)}
    if with_meteor:
        try:
            scores["METEOR"] = 100 * meteor([caption for [caption] in generated.values()], list(written.values()))
        except UserError as error:
            _warn(f"METEOR is left out: {error}")
    rouge, _ = Rouge().compute_score(written, generated)
    cider, _ = Cider().compute_score(written, generated)
    return {**scores, "ROUGE-L": 100 * float(rouge), "CIDEr": 100 * float(cider)}


def _check(candidates: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> None:
    for id in candidates:
        if isinstance(references.get(id), str):
            raise ValueError(f"the references of {id!r} are a string; expected a list of captions")
        if not references.get(id):
            raise ValueError(f"{id!r} has a caption and no references")
    for id in references:
        if id not in candidates:
            raise ValueError(f"{id!r} has references and no caption")


@cache  # a run that scores captions every epoch says it once
def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr, flush=True)
