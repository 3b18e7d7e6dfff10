"""New training sequences out of known ones: each snippet with its clips is a unit that can stand anywhere.

An augmentation beyond the papers: which units follow each other is drawn anew, so that what is learned is how clips and
snippets fit, not the order of the few films that there are.
"""

from collections.abc import Sequence

import numpy as np
import torch

from models.neumatch.actions import Action
from models.neumatch.samples import Sample


def units_of(sample: Sample, actions: Sequence[Action]) -> list[Sample]:
    """Cuts a whole movie's gold actions after each snippet that is dropped; the clips left behind the last are a unit.

    Put together again in their order, the units are the sample.
    """
    units, begun = [], (0, 0, 0)
    clip = snippet = 0
    held = False  # the clip on top has been matched with a snippet that is gone
    for step, number in enumerate(sample.actions):
        action = actions[number]
        clip += action.drops_clip
        snippet += action.drops_snippet
        held = not action.drops_clip and (held or action is Action.MATCH_RETAIN_VIDEO)
        if (action.drops_snippet and not held) or step == len(sample.actions) - 1:
            first_step, first_clip, first_snippet = begun
            units.append(
                Sample(
                    sample.video[first_clip:clip],
                    sample.text[first_snippet:snippet],
                    sample.actions[first_step : step + 1],
                )
            )
            begun = (step + 1, clip, snippet)
    return units


def recompose(units: Sequence[Sample], length: int, source: np.random.Generator) -> Sample:
    """A sample of units that are drawn with replacement, of at most `length` actions, but of one unit at least."""
    chosen: list[Sample] = []
    count = 0
    while True:
        unit = units[int(source.integers(len(units)))]
        if chosen and count + len(unit.actions) > length:
            break
        chosen.append(unit)
        count += len(unit.actions)
    return Sample(
        torch.cat([unit.video for unit in chosen]),
        torch.cat([unit.text for unit in chosen]),
        tuple(action for unit in chosen for action in unit.actions),
    )
