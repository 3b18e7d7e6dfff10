"""Actions and alignments: there and back again, what is impossible, and cutting into pieces."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.data.movie import Alignment
from models.neumatch.actions import YMS_ACTIONS, Action, cut, gold_actions, play
from tests.reference.batches import ALL_ACTIONS, legal_actions

SETS = st.sampled_from([YMS_ACTIONS, ALL_ACTIONS, tuple(reversed(ALL_ACTIONS))])
SIZES = st.integers(0, 12)


def drops(ids: list[int] | tuple[int, ...], actions: tuple[Action, ...]) -> tuple[int, int]:
    return sum(actions[i].drops_clip for i in ids), sum(actions[i].drops_snippet for i in ids)


@st.composite
def pairings(draw: st.DrawFn) -> tuple[Alignment, int]:
    """Any monotone alignment: a walk from pair to pair on which neither index falls."""
    clips, snippets = draw(SIZES), draw(SIZES)
    steps = draw(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=20))
    alignment: list[list[int]] = [[] for _ in range(clips)]
    clip = text = 0
    for right, down in steps:
        clip, text = clip + right, text + down
        if clip < clips and text < snippets and text not in alignment[clip]:
            alignment[clip].append(text)
    return [tuple(texts) for texts in alignment], snippets


@settings(deadline=None)
@given(pairings())
def test_every_monotone_alignment_comes_back(case: tuple[Alignment, int]) -> None:
    alignment, snippets = case
    ids = gold_actions(alignment, snippets, ALL_ACTIONS)
    assert play(ids, len(alignment), snippets, ALL_ACTIONS) == alignment
    assert drops(ids, ALL_ACTIONS) == (len(alignment), snippets)  # both stacks end empty
    assert ids == gold_actions(alignment, snippets, ALL_ACTIONS)


@settings(deadline=None)
@given(SETS, SIZES, SIZES, st.integers(0, 10**6))
def test_whatever_actions_make_comes_back(actions: tuple[Action, ...], clips: int, snippets: int, seed: int) -> None:
    alignment = play(legal_actions(clips, snippets, actions, random.Random(seed)), clips, snippets, actions)
    ids = gold_actions(alignment, snippets, actions)
    assert play(ids, clips, snippets, actions) == alignment
    assert drops(ids, actions) == (clips, snippets)


def names(alignment: Alignment, snippets: int, actions: tuple[Action, ...] = YMS_ACTIONS) -> list[str]:
    return [actions[i].value for i in gold_actions(alignment, snippets, actions)]


def test_by_hand() -> None:
    assert names([(0,), (), (0,), (2,)], 4) == [
        "match_retain_text",
        "pop_video",  # an unmatched clip between two clips of one snippet
        "match_retain_text",
        "pop_text",  # as soon as nothing is left to match with it
        "pop_text",  # a snippet without clips
        "match_retain_text",
        "pop_text",
        "pop_text",
    ]
    # One-to-one uses Match where there is one; the clips of one snippet end with it.
    assert names([(0,), (1,), (1,)], 2, ALL_ACTIONS) == ["match", "match_retain_text", "match"]
    assert names([(0, 1)], 2, ALL_ACTIONS) == ["match_retain_video", "match"]
    assert names([(0, 1), (1, 2)], 3, ALL_ACTIONS) == [
        "match_retain_video",
        "match_retain_text",
        "match_retain_video",
        "match",
    ]
    assert names([(0,)], 1, (Action.MATCH,)) == ["match"]
    assert names([], 2) == ["pop_text", "pop_text"]
    assert names([(), ()], 0) == ["pop_video", "pop_video"]


def test_yms_ids() -> None:
    assert [a.value for a in YMS_ACTIONS] == ["pop_video", "pop_text", "match_retain_text"]


@pytest.mark.parametrize(
    ("alignment", "snippets", "actions", "message"),
    [
        ([(1,), (0,)], 2, ALL_ACTIONS, r"clip 1 is matched with snippets \(0,\) after snippet 2: not monotone"),
        ([(1, 0)], 2, ALL_ACTIONS, "not monotone"),
        ([(0, 0)], 2, ALL_ACTIONS, "not monotone"),
        ([(2,)], 2, ALL_ACTIONS, "not monotone"),
        ([(-1,)], 2, ALL_ACTIONS, "not monotone"),
        ([(0, 1), (0,)], 2, ALL_ACTIONS, "not monotone"),
        ([(0, 1)], 2, YMS_ACTIONS, "needs the action 'match_retain_video', which is not in the set"),
        ([()], 0, (Action.MATCH,), "needs the action 'pop_video'"),
        ([(0,)], 2, (Action.MATCH, Action.POP_VIDEO), "needs the action 'pop_text'"),
        ([(0,), (0,)], 1, (Action.MATCH,), "needs the action 'match_retain_text'"),
    ],
)
def test_what_cannot_be_made(alignment: Alignment, snippets: int, actions: tuple[Action, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gold_actions(alignment, snippets, actions)


@pytest.mark.parametrize(
    ("names", "clips", "snippets", "fault"),
    [
        (["pop_video"], 0, 1, r"action 0 \(pop_video\) finds an empty stack"),
        (["pop_text"], 1, 0, r"action 0 \(pop_text\)"),
        (["match", "match_retain_text"], 1, 2, r"action 1 \(match_retain_text\)"),
        (["match", "match_retain_video"], 2, 1, r"action 1 \(match_retain_video\)"),
        (["match"], 1, 0, r"action 0 \(match\)"),
    ],
)
def test_play_refuses_an_empty_stack(names: list[str], clips: int, snippets: int, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        play([ALL_ACTIONS.index(Action(name)) for name in names], clips, snippets, ALL_ACTIONS)


@settings(deadline=None)
@given(SETS, SIZES, SIZES, st.integers(0, 10**6), st.integers(1, 9))
def test_pieces(actions: tuple[Action, ...], clips: int, snippets: int, seed: int, longest: int) -> None:
    ids = legal_actions(clips, snippets, actions, random.Random(seed))
    pieces = cut(ids, longest, actions)
    assert tuple(i for piece in pieces for i in piece.actions) == ids
    sizes = [len(piece.actions) for piece in pieces]
    assert len(pieces) == -(-len(ids) // longest)  # the fewest
    if pieces:
        assert max(sizes) <= longest
        assert max(sizes) - min(sizes) <= 1
    whole: list[list[int]] = [[] for _ in range(clips)]
    for piece in pieces:
        (first_clip, end_clip), (first_text, end_text) = piece.clips, piece.snippets
        made = play(piece.actions, end_clip - first_clip, end_text - first_text, actions)
        for offset, texts in enumerate(made):
            whole[first_clip + offset] += [first_text + j for j in texts]
        used = drops(piece.actions, actions)
        # Nothing but a retained top is handed over unused.
        assert 0 <= end_clip - first_clip - used[0] <= 1
        assert 0 <= end_text - first_text - used[1] <= 1
    assert [tuple(texts) for texts in whole] == play(ids, clips, snippets, actions)
