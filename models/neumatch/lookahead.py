"""What may still follow: the log-probability of each next action under all ways to align the rest of two sequences.

Goes beyond the papers. A monotone alignment is scored by the sum of its steps: a matched clip by the cosine of clip and
snippet in a joint space, every step by a bias of its kind and by how much its clip looks like the one before (clips of
one shot or scene belong to one snippet). One pass backward over the clips sums the scores of all completions from every
cell (clip, snippet), as the backward pass of a linear-chain CRF does (Lafferty et al., ICML 2001). The probability of
an action in a cell then is the share of the completions that begin with it, so the product of the probabilities along a
history is the history's globally normalised probability: what is trained on gold histories alone still does not have to
live with its own mistakes. NeuMATCH's classifier adds what its histories know.

Shape legend: B samples, V clips, T snippets (each the batch's longest), D joint dimensions. Everything here is in the
order of time, not in stack order.
"""

import math
from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from models.config import StrictConfig
from models.neumatch.actions import YMS_ACTIONS, Action

KINDS = {"start": 0.0, "go_on": 0.5, "end": 1.0, "skip": -4.0, "leave": 2.0, "leave_open": -2.0}
"""Kinds of steps and their biases at first: the first clip of a snippet, another one, popping a snippet that has clips,
popping one that has none, leaving a clip unmatched before the snippet on top has clips, and after."""
LIKENESS = {"start": -4.0, "go_on": 4.0, "end": -4.0, "skip": 0.0, "leave": -2.0, "leave_open": -2.0}
"""What the cosine of a clip and the one before is multiplied with, at first."""
GAIN = 30.0
"""These few numbers are kept divided by it: they have farther to go than any weight of the towers, at the same rate."""


class LookaheadConfig(StrictConfig):
    """The joint space."""

    hidden: int = Field(default=512, ge=1)
    joint: int = Field(default=256, ge=1)
    temperature: float = Field(default=0.1, gt=0)
    """Cosines are divided by it at first; it is learned."""
    likeness: bool = True
    """Whether it sees how much each clip looks like the one before."""


class Lookahead(nn.Module):
    """Two towers into a joint space, and the weights of an alignment's steps."""

    def __init__(self, config: LookaheadConfig, video_width: int, text_width: int) -> None:
        super().__init__()
        self.config = config
        self.video = nn.Sequential(
            nn.Linear(video_width, config.hidden), nn.GELU(), nn.Linear(config.hidden, config.joint)
        )
        self.text = nn.Linear(text_width, config.joint)
        # (1,), for DeepSpeed broadcasts no tensor without dimensions.
        self.log_scale = nn.Parameter(torch.tensor([-math.log(config.temperature)]))
        self.bias = nn.Parameter(torch.tensor(list(KINDS.values())) / GAIN)
        self.likeness = nn.Parameter(torch.tensor(list(LIKENESS.values())) / GAIN)

    def cosines(self, video: Tensor, text: Tensor) -> Tensor:
        """(..., V, d_video), (..., T, d_text) -> (..., V, T)."""
        clips, snippets = F.normalize(self.video(video), dim=-1), F.normalize(self.text(text), dim=-1)
        return clips @ snippets.transpose(-1, -2)

    def forward(self, video: Tensor, text: Tensor, video_lengths: Tensor, text_lengths: Tensor) -> Tensor:
        """Log-probabilities of the next action in every cell -> (B, 2, V, T, 3), actions in the order of YMS_ACTIONS.

        The second index says whether the snippet on top has been matched with the clip before (1) or not (0). Cells
        beyond a sample's lengths mean nothing.

        Args:
            video: (B, V, d_video), padded, in the order of time.
            text: (B, T, d_text), likewise.
            video_lengths, text_lengths: (B,) int64 on the features' device.
        """
        dtype = self.bias.dtype
        video, text = video.to(dtype), text.to(dtype)
        scores = self.cosines(video, text) * self.log_scale.exp()
        likeness = torch.zeros(video.shape[:2], dtype=dtype, device=video.device)
        if self.config.likeness:
            likeness[:, 1:] = F.cosine_similarity(video[:, 1:], video[:, :-1], dim=2)
        steps = GAIN * (self.bias + likeness[..., None] * self.likeness)
        exact = torch.promote_types(dtype, torch.float32)
        weights = scores.to(exact), steps.to(exact), GAIN * self.bias.to(exact)
        return completions(*weights, video_lengths, text_lengths)


def completions(scores: Tensor, steps: Tensor, last: Tensor, video_lengths: Tensor, text_lengths: Tensor) -> Tensor:
    """The backward pass: see `Lookahead.forward` for what it returns.

    Args:
        scores: (B, V, T) what matching clip and snippet earns.
        steps: (B, V, 6) what a step of each kind earns while a clip is on top.
        last: (6,) the same after the last clip, when only snippets are left to pop.
    """
    batch, clips, texts = scores.shape
    device = scores.device
    if not batch or not clips or not texts:  # no cells, but workers reduce gradients together: all weights take part
        return scores.new_zeros(batch, 2, clips, texts, len(YMS_ACTIONS)) + 0 * (
            scores.sum() + steps.sum() + last.sum()
        )
    at = torch.arange(texts + 1, device=device)
    real_text = at < text_lengths[:, None]  # (B, T+1); in the column after the last snippet clips can only be left
    reachable = at <= text_lengths[:, None]
    snippets_left = (text_lengths[:, None] - at).clamp(min=0).to(scores.dtype)
    _, _, end, skip, _, _ = last.unbind()
    nothing = scores.new_full((), -1e9)  # finite, so that no gradient is NaN
    # The log-sum of all completions from clip i on with snippet j on top, without and with a clip of its own.
    fresh = skip * snippets_left
    open_ = torch.where(real_text, end + skip * (snippets_left - 1), 0.0)
    padded = F.pad(scores, (0, 1))
    cells = []
    for clip in range(clips - 1, -1, -1):
        start, go_on, end, skip, leave, leave_open = steps[:, clip, :, None].unbind(1)
        left, left_open = leave + fresh, leave_open + fresh
        matched = torch.where(real_text, padded[:, clip] + open_, nothing)
        begun, gone_on = start + matched, go_on + matched
        # Popping snippets without clips is a run to the right: log-sum-exp over k >= j of the stay at k, skip (k - j).
        stay = torch.where(reachable, torch.logaddexp(left, begun) + skip * at, nothing)
        now = torch.logcumsumexp(stay.flip(1), 1).flip(1) - skip * at
        after = F.pad(now[:, 1:], (0, 1))
        here = torch.stack([left, skip + after, begun], -1)
        here_open = torch.stack([left_open, end + after, gone_on], -1)
        cells.append(torch.stack([here, here_open], 1)[:, :, :texts])
        now_open = torch.where(real_text, here_open.logsumexp(-1), 0.0)
        real = (clip < video_lengths)[:, None]
        fresh, open_ = torch.where(real, now, fresh), torch.where(real, now_open, open_)
    return F.log_softmax(torch.stack(cells[::-1], 2), dim=-1)


def columns(actions: Sequence[Action]) -> list[int]:
    """Which of YMS_ACTIONS each action of a network's set is.

    Raises:
        ValueError: the set is another one.
    """
    if set(actions) != set(YMS_ACTIONS):
        raise ValueError(f"needs the actions {', '.join(YMS_ACTIONS)}, in any order; got {', '.join(actions)}")
    return [YMS_ACTIONS.index(action) for action in actions]
