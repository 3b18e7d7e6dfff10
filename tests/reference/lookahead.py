"""The lookahead as its definition tells it: every completion is listed, and those that begin with an action counted.

Exponentially slow on purpose: this is what the backward pass over all cells is tested against.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from models.neumatch.actions import Action
from models.neumatch.lookahead import GAIN, KINDS, Lookahead

KIND = {name: number for number, name in enumerate(KINDS)}


class Ahead:
    """Log-probabilities of the next action of one sample."""

    def __init__(self, network: torch.nn.Module, clips: Tensor, snippets: Tensor) -> None:
        """`clips` (V, d_video), `snippets` (T, d_text): the features, in the order of time."""
        lookahead = network.lookahead
        assert isinstance(lookahead, Lookahead)
        self.actions: tuple[Action, ...] = network.config.actions  # type: ignore[union-attr,assignment]
        self.clips, self.snippets, self.alike = clips, snippets, lookahead.config.likeness
        self.bias, self.likeness = lookahead.bias * GAIN, lookahead.likeness * GAIN
        video, text = lookahead.video(clips), lookahead.text(snippets)
        lengths = video.norm(dim=1)[:, None] * text.norm(dim=1)[None, :]
        self.scores = video @ text.T / lengths * lookahead.log_scale.exp()

    def weight(self, kind: str, clip: int) -> Tensor:
        """What a step of this kind earns with this clip on top; without one left, its bias."""
        like = self.bias.new_zeros(())
        if self.alike and 0 < clip < len(self.clips):
            one, other = self.clips[clip], self.clips[clip - 1]
            like = (one @ other) / (one.norm() * other.norm())
        return self.bias[KIND[kind]] + like * self.likeness[KIND[kind]]

    def completions(self, clip: int, snippet: int, begun: bool) -> Iterator[tuple[Action, Tensor]]:
        """The first action and the total of every way to go on until both sequences are used up."""
        left, texts = clip < len(self.clips), snippet < len(self.snippets)
        moves: list[tuple[Action, Tensor, tuple[int, int, bool]]] = []
        if left:
            earned = self.weight("leave_open" if begun else "leave", clip)
            moves.append((Action.POP_VIDEO, earned, (clip + 1, snippet, False)))
        if texts:
            earned = self.weight("end" if begun else "skip", clip)
            moves.append((Action.POP_TEXT, earned, (clip, snippet + 1, False)))
        if left and texts:
            earned = self.weight("go_on" if begun else "start", clip) + self.scores[clip, snippet]
            moves.append((Action.MATCH_RETAIN_TEXT, earned, (clip + 1, snippet, True)))
        for action, earned, (next_clip, next_snippet, next_begun) in moves:
            if next_clip == len(self.clips) and next_snippet == len(self.snippets):
                yield action, earned
                continue
            for _, rest in self.completions(next_clip, next_snippet, next_begun):
                yield action, earned + rest

    def __call__(self, clip: int, snippet: int, begun: bool) -> Tensor:
        """(C,) in the order of the network's actions; a clip and a snippet must be left."""
        found = list(self.completions(clip, snippet, begun))
        totals = [torch.stack([total for first, total in found if first is action]) for action in self.actions]
        return torch.stack([total.logsumexp(0) for total in totals]).log_softmax(0)
