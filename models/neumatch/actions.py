"""The transition system: actions, their effect on the two stacks, gold actions, and cutting them into samples.

Source: NeuMATCH (CVPR 2018) section 3; the action set of a data set is a subset of the five (spec section 1).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from models.data.movie import Alignment


class Action(StrEnum):
    """One move. A video action drops the top clip, a text action the top snippet, a match records the two tops."""

    POP_VIDEO = "pop_video"
    POP_TEXT = "pop_text"
    MATCH = "match"
    MATCH_RETAIN_TEXT = "match_retain_text"
    MATCH_RETAIN_VIDEO = "match_retain_video"

    @property
    def drops_clip(self) -> bool:
        return self in (Action.POP_VIDEO, Action.MATCH, Action.MATCH_RETAIN_TEXT)

    @property
    def drops_snippet(self) -> bool:
        return self in (Action.POP_TEXT, Action.MATCH, Action.MATCH_RETAIN_VIDEO)

    @property
    def matches(self) -> bool:
        return self in (Action.MATCH, Action.MATCH_RETAIN_TEXT, Action.MATCH_RETAIN_VIDEO)


YMS_ACTIONS = (Action.POP_VIDEO, Action.POP_TEXT, Action.MATCH_RETAIN_TEXT)
"""The subset for one snippet with many clips, in the id order of YMS."""


def gold_actions(alignment: Alignment, snippets: int, actions: Sequence[Action] = YMS_ACTIONS) -> list[int]:
    """The action ids that produce `alignment` from full stacks and leave both empty; deterministic.

    A snippet is popped as soon as nothing is left to match with it; an unmatched clip is popped before a match is
    made. One-to-one pairs use MATCH where the set has it.

    Raises:
        ValueError: the alignment is not monotone, or needs an action that is not in the set.
    """
    ids = {action: number for number, action in enumerate(actions)}
    last = {j: i for i, texts in enumerate(alignment) for j in texts}  # the last clip of each snippet
    result: list[int] = []

    def emit(action: Action) -> None:
        if action not in ids:
            raise ValueError(f"this alignment needs the action {action.value!r}, which is not in the set")
        result.append(ids[action])

    text = 0
    for clip, texts in enumerate(alignment):
        if list(texts) != sorted(set(texts)) or (texts and (texts[0] < text or texts[-1] >= snippets)):
            raise ValueError(f"clip {clip} is matched with snippets {texts} after snippet {text}: not monotone")
        while text < snippets and last.get(text, -1) < clip and not (texts and text == texts[0]):
            emit(Action.POP_TEXT)
            text += 1
        if not texts:
            emit(Action.POP_VIDEO)
            continue
        for position, j in enumerate(texts):
            while text < j:
                emit(Action.POP_TEXT)
                text += 1
            clip_ends, text_ends = position == len(texts) - 1, last[j] == clip
            if not clip_ends:
                emit(Action.MATCH_RETAIN_VIDEO)
                text += 1
            elif text_ends and Action.MATCH in ids:
                emit(Action.MATCH)
                text += 1
            else:
                emit(Action.MATCH_RETAIN_TEXT)
    for _ in range(text, snippets):
        emit(Action.POP_TEXT)
    return result


def play(action_ids: Sequence[int], clips: int, snippets: int, actions: Sequence[Action] = YMS_ACTIONS) -> Alignment:
    """The alignment that a sequence of actions makes from full stacks; what is left over is unmatched.

    Raises:
        ValueError: an action needs a clip or a snippet where none is left.
    """
    alignment: list[list[int]] = [[] for _ in range(clips)]
    clip = text = 0
    for step, number in enumerate(action_ids):
        action = actions[number]
        if (clip >= clips and (action.drops_clip or action.matches)) or (
            text >= snippets and (action.drops_snippet or action.matches)
        ):
            raise ValueError(f"action {step} ({action.value}) finds an empty stack")
        if action.matches:
            alignment[clip].append(text)
        clip += action.drops_clip
        text += action.drops_snippet
    return [tuple(texts) for texts in alignment]


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of one movie's gold actions with the clips and snippets that it touches (half-open ranges)."""

    clips: tuple[int, int]
    snippets: tuple[int, int]
    actions: tuple[int, ...]


def cut(action_ids: Sequence[int], longest: int, actions: Sequence[Action] = YMS_ACTIONS) -> list[Piece]:
    """Cuts gold actions into the fewest consecutive pieces of at most `longest` actions, of equal length (+-1).

    A snippet (or clip) that is matched on both sides of a cut belongs to both pieces.
    """
    count = -(-len(action_ids) // longest)
    edges = [round(k * len(action_ids) / count) for k in range(count + 1)] if count else []
    pieces, clip, text = [], 0, 0
    for start, stop in pairwise(edges):
        first_clip, first_text, end_clip, end_text = clip, text, clip, text
        for number in action_ids[start:stop]:
            action = actions[number]
            end_clip = max(end_clip, clip + (action.drops_clip or action.matches))
            end_text = max(end_text, text + (action.drops_snippet or action.matches))
            clip += action.drops_clip
            text += action.drops_snippet
        pieces.append(Piece((first_clip, end_clip), (first_text, end_text), tuple(action_ids[start:stop])))
    return pieces
