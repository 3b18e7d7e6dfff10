"""Where the cursors of both stacks stand at every step of a known action sequence, and the features read there.

Teacher forcing knows all actions in advance, so every quantity of every step is a running count or a gather; nothing
here loops over actions. Shape legend: B samples, A longest action sequence, R real steps of all samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.neumatch.actions import Action


@dataclass(frozen=True)
class ActionEffects:
    """Lookup tables from action id to effect, each (number of actions,)."""

    drops_clip: Tensor
    drops_snippet: Tensor
    matches: Tensor

    @property
    def retains_snippet(self) -> Tensor:
        """A match after which the snippet is still on top."""
        return self.matches & ~self.drops_snippet

    @classmethod
    def of(cls, actions: Sequence[Action], device: torch.device | None = None) -> "ActionEffects":
        def table(values: list[bool]) -> Tensor:
            return torch.tensor(values, device=device)

        return cls(
            table([a.drops_clip for a in actions]),
            table([a.drops_snippet for a in actions]),
            table([a.matches for a in actions]),
        )


def cursors(drops: Tensor, real: Tensor) -> Tensor:
    """How many elements were dropped before each step. `drops`, `real`: (B, A) bool -> (B, A) int64."""
    dropped = (drops & real).long()
    return dropped.cumsum(1) - dropped


def positional_features(clips_left: Tensor, snippets_left: Tensor, clips: Tensor, snippets: Tensor) -> Tensor:
    """The ten positional features of NeuMATCH -> (..., 10).

    `clips_left`, `snippets_left` count the current tops too (at least 1); `clips`, `snippets` are the totals. A stack
    that never held anything counts as one that has run out.
    """
    v, s = clips_left.float(), snippets_left.float()
    total_v, total_s = clips.clamp(min=1).float() + 1, snippets.clamp(min=1).float() + 1
    return torch.stack(
        [
            v,
            s,
            v / total_v,
            s / total_s,
            total_v / v,
            total_s / s,
            v / s,
            s / v,
            (total_v - v) / (total_s - s),
            (total_s - s) / (total_v - v),
        ],
        dim=-1,
    )


def positional_shares(clips_left: Tensor, snippets_left: Tensor, clips: Tensor, snippets: Tensor) -> Tensor:
    """Ten positional features that are of one size however long the sequences are -> (..., 10).

    With v, s the clips and snippets left and V, S their totals: v/V, s/S, their difference and the logarithm of their
    ratio; the logarithms of v/s and V/S; 1/v, 1/s, min(v, 10)/10 and min(s, 10)/10, which tell a near end.
    """
    v, s = clips_left.float(), snippets_left.float()
    total_v, total_s = clips.clamp(min=1).float(), snippets.clamp(min=1).float()
    share_v, share_s = v / total_v, s / total_s
    return torch.stack(
        [
            share_v,
            share_s,
            share_v - share_s,
            (share_v / share_s).log(),
            (v / s).log(),
            (total_v / total_s).log().expand_as(v),
            1 / v,
            1 / s,
            v.clamp(max=10) / 10,
            s.clamp(max=10) / 10,
        ],
        dim=-1,
    )


def matched_weights(matches: Tensor, snippet: Tensor, dtype: torch.dtype) -> Tensor:
    """Averages of "all clips matched so far to this snippet" as weights over steps.

    `matches` (B, A) bool, `snippet` (B, A) the snippet on top at each step -> (B, A, A): row a holds 1/count at each
    match step up to and including a whose snippet is the one of step a, else 0.
    """
    steps = matches.shape[1]
    so_far = torch.ones(steps, steps, dtype=torch.bool, device=matches.device).tril()
    same = (snippet[:, :, None] == snippet[:, None, :]) & matches[:, None, :] & so_far
    return same.to(dtype) / same.sum(2, keepdim=True).clamp(min=1)
