"""The NeuMATCH network: encoders, four stacks, classifier (CVPR 2018 and WACV 2021).

Shape legend: B samples, V clips, T snippets, A actions (each the batch's longest), S packed rows of one modality,
R real action steps of all samples, C actions in the set. Sequences are stored in stack order: row 0 is the bottom of
the stack (the last element in time), row length-1 the top at the start (the first in time).
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Literal, Self

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from models.config import StrictConfig
from models.neumatch.actions import YMS_ACTIONS, Action
from models.neumatch.lookahead import Lookahead, LookaheadConfig, columns
from models.neumatch.normalisation import SequenceBatchNorm
from models.neumatch.packing import Packing
from models.neumatch.products import Linear
from models.neumatch.recurrent import RecurrentStack, State
from models.neumatch.stacks import (
    ActionEffects,
    cursors,
    matched_weights,
    positional_features,
    positional_shares,
)

POSITIONS = 10


class NeuMATCHConfig(StrictConfig):
    """Which NeuMATCH to build. Defaults are the published best model (RP + SBN, 3.41M parameters)."""

    name: Literal["neumatch"] = "neumatch"
    projection: Literal["rp", "full"] = "rp"
    normalisation: Literal["none", "sbn", "2xln", "4xln"] = "sbn"
    actions: tuple[Action, ...] = Field(default=YMS_ACTIONS, strict=False)
    width: int = Field(default=300, ge=1)
    action_hidden: int = Field(default=8, ge=1)
    matched_hidden: int = Field(default=20, ge=1)
    sbn_unbiased: bool = True
    positions: Literal["counts", "shares"] = "counts"
    """The ten positional features: the papers', which grow with the length of a movie, or ten that do not."""
    lookahead: LookaheadConfig | None = None
    """Adds the log-probability of each action under all alignments of what is left. Goes beyond the papers."""

    @field_validator("actions")
    @classmethod
    def _useful(cls, actions: tuple[Action, ...]) -> tuple[Action, ...]:
        if len(set(actions)) != len(actions):
            raise ValueError("names an action twice")
        if not any(a.matches for a in actions):
            raise ValueError("has no action that matches; add one of match, match_retain_text, match_retain_video")
        if not any(a.drops_clip for a in actions) or not any(a.drops_snippet for a in actions):
            raise ValueError("must be able to drop clips and to drop snippets, or decoding would never end")
        return actions

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.lookahead is not None:
            try:
                columns(self.actions)
            except ValueError as error:
                raise ValueError(f"model.lookahead {error}") from None
        return self


@dataclass(frozen=True)
class Batch:
    """B samples with their gold actions. Lengths are int64 on the CPU; any of them, and B itself, may be 0."""

    video: Tensor
    """(B, V, d_video) float, stack order, zeros beyond a length."""
    text: Tensor
    """(B, T, d_text) float, likewise."""
    video_lengths: Tensor
    text_lengths: Tensor
    actions: Tensor
    """(B, A) int64, in time order."""
    action_lengths: Tensor

    def to(self, device: torch.device) -> "Batch":
        """The same batch on `device`; lengths stay on the CPU."""
        names = [field.name for field in fields(self) if not field.name.endswith("lengths")]
        return replace(self, **{name: getattr(self, name).to(device, non_blocking=True) for name in names})


@dataclass(frozen=True)
class Encoded:
    """Both sequences after encoders, stacks and normalisation, as packed rows."""

    video: Tensor
    text: Tensor
    video_packing: Packing
    text_packing: Packing
    ahead: Tensor | None = None
    """(B, 2, V, T, C) log-probabilities of the next action in every cell, in the order of time (see lookahead.py)."""


@dataclass(frozen=True)
class Histories:
    """B action sequences to learn from, and what would have been right at each of their steps."""

    actions: Tensor
    """(B, A) int64, in time order."""
    lengths: Tensor
    """(B,) int64 on the CPU."""
    targets: Tensor
    """(B, A) int64."""


FollowedBy = Callable[["NeuMATCH", Batch, Encoded], Histories]
"""Chooses the histories of a batch when its sequences have been encoded."""


class Encoders(nn.Module):
    """Feature vectors -> inputs of the Video and Text Stacks."""

    def __init__(self, config: NeuMATCHConfig, video_width: int, text_width: int) -> None:
        super().__init__()
        w, full = config.width, config.projection == "full"
        self.text = _mlp(text_width, w, 1, full)
        self.video = _mlp(video_width, w, 2, full)


def _mlp(width: int, target: int, layers: int, full: bool) -> nn.Sequential:
    """[Full: Linear without bias + ReLU], then `layers` times Linear + ReLU."""
    linears = [Linear(width, target, bias=False)] if full else []
    linears += [Linear(target, target) for _ in range(layers)]
    return nn.Sequential(*(module for linear in linears for module in (_initialised(linear), nn.ReLU())))


def _initialised(linear: Linear) -> Linear:
    nn.init.kaiming_normal_(linear.weight)
    if linear.bias is not None:
        nn.init.normal_(linear.bias, 0.0, 0.1)
    return linear


class NeuMATCH(nn.Module):
    """Reads both stacks, the actions so far and the matches so far; scores the next action."""

    def __init__(self, config: NeuMATCHConfig, video_width: int, text_width: int) -> None:
        """`video_width`, `text_width`: of the inputs; 300 for RP (after projection), the raw widths for Full.

        Raises:
            ValueError: RP with inputs that are not `config.width` wide.
        """
        super().__init__()
        if config.projection == "rp" and (video_width, text_width) != (config.width, config.width):
            raise ValueError(f"projection 'rp' needs inputs of width {config.width}, not {video_width}, {text_width}")
        self.config = config
        w, cell_norms = config.width, config.normalisation
        self.encoders = Encoders(config, video_width, text_width)
        self.video_stack = RecurrentStack(w, w, cell_norms in ("2xln", "4xln"))
        self.text_stack = RecurrentStack(w, w, cell_norms in ("2xln", "4xln"))
        if config.normalisation == "sbn":
            self.video_norm: nn.Module = SequenceBatchNorm(w, config.sbn_unbiased)
            self.text_norm: nn.Module = SequenceBatchNorm(w, config.sbn_unbiased)
        else:
            self.video_norm, self.text_norm = nn.Identity(), nn.Identity()
        self.action_stack = RecurrentStack(len(config.actions), config.action_hidden, cell_norms == "4xln")
        self.matched_stack = RecurrentStack(2 * w, config.matched_hidden, cell_norms == "4xln")
        state_width = 2 * w + config.action_hidden + config.matched_hidden + POSITIONS
        self.fc1 = _initialised(Linear(state_width, w))
        self.fc2 = _initialised(Linear(w, len(config.actions)))
        if config.lookahead is not None:
            self.lookahead = Lookahead(config.lookahead, video_width, text_width)
            self.columns = columns(config.actions)
            with torch.no_grad():  # begin as the lookahead alone
                self.fc2.weight.mul_(0.01)
                self.fc2.bias.zero_()

    COMPONENTS = ("video_stack", "text_stack", "action_matched_stacks", "fc", "lookahead")

    @staticmethod
    def component_of(parameter: str) -> str:
        """The component of Table 3 that a parameter's name belongs to."""
        head, _, rest = parameter.partition(".")
        if head in ("video_stack", "video_norm") or (head == "encoders" and rest.startswith("video")):
            return "video_stack"
        if head in ("text_stack", "text_norm") or head == "encoders":
            return "text_stack"
        if head == "lookahead":
            return head
        return "action_matched_stacks" if head in ("action_stack", "matched_stack") else "fc"

    def encode(self, video: Tensor, text: Tensor, video_lengths: Tensor, text_lengths: Tensor) -> Encoded:
        """Padded features in stack order -> the stacks' normalised outputs as packed rows."""
        dtype, device = self.fc1.weight.dtype, video.device
        video_packing, text_packing = Packing.of(video_lengths, device), Packing.of(text_lengths, device)
        video_rows = self.encoders.video(video_packing.pack(video).to(dtype))
        text_rows = self.encoders.text(text_packing.pack(text).to(dtype))
        video_out = self.video_stack(video_rows, video_packing.batch_sizes)[1][0]
        text_out = self.text_stack(text_rows, text_packing.batch_sizes)[1][0]
        ahead = self._ahead(video, text, video_lengths, text_lengths) if self.config.lookahead else None
        return Encoded(self.video_norm(video_out), self.text_norm(text_out), video_packing, text_packing, ahead)

    def _ahead(self, video: Tensor, text: Tensor, video_lengths: Tensor, text_lengths: Tensor) -> Tensor:
        def in_time(rows: Tensor, lengths: Tensor) -> Tensor:
            longest = int(lengths.max()) if len(lengths) else 0
            # What lies beyond a length becomes any real row, and is not used.
            order = (lengths[:, None] - 1 - torch.arange(longest)).clamp(min=0).to(rows.device)
            return rows.gather(1, order[..., None].expand(-1, -1, rows.shape[2]))

        clips, snippets = in_time(video, video_lengths), in_time(text, text_lengths)
        found: Tensor = self.lookahead(clips, snippets, video_lengths.to(clips.device), text_lengths.to(clips.device))
        return found[..., self.columns]

    def classify(self, parts: list[Tensor], ahead: Tensor | None = None) -> Tensor:
        """[video top, text top, action, matched, position] rows, and the lookahead's (R, C) -> (R, C) logits."""
        hidden = F.relu(self.fc1(torch.cat([part.to(self.fc1.weight.dtype) for part in parts], dim=1)))
        logits: Tensor = self.fc2(hidden)
        return logits if ahead is None else logits + ahead

    def positions(self, clips_left: Tensor, snippets_left: Tensor, clips: Tensor, snippets: Tensor) -> Tensor:
        """The ten positional features that this network reads -> (..., 10)."""
        features = positional_features if self.config.positions == "counts" else positional_shares
        return features(clips_left, snippets_left, clips, snippets)

    def forward(self, batch: Batch, followed_by: FollowedBy | None = None) -> tuple[Tensor, Tensor, Encoded]:
        """Teacher forcing: all steps at once, along the gold actions or along what `followed_by` chooses.

        Returns logits (R, C) of the real steps (sample by sample, in time order), the right ids (R,), and the stacks'
        outputs.
        """
        encoded = self.encode(batch.video, batch.text, batch.video_lengths, batch.text_lengths)
        device = batch.video.device
        histories = Histories(batch.actions, batch.action_lengths, batch.actions)
        if followed_by is not None:
            histories = followed_by(self, batch, encoded)
        effects = ActionEffects.of(self.config.actions, device)
        steps = int(histories.lengths.max()) if len(histories.lengths) else 0
        actions = histories.actions[:, :steps]
        real = (torch.arange(steps)[None, :] < histories.lengths[:, None]).to(device)
        clips, snippets = batch.video_lengths.to(device)[:, None], batch.text_lengths.to(device)[:, None]
        clip, snippet = cursors(effects.drops_clip[actions], real), cursors(effects.drops_snippet[actions], real)
        # A stack that has run out keeps its last element as the top and 1 as its count.
        clips_left, snippets_left = (clips - clip).clamp(min=1), (snippets - snippet).clamp(min=1)
        positions = self.positions(clips_left, snippets_left, clips, snippets)[real]
        video_tops = _tops(encoded.video, encoded.video_packing, clips_left, real)
        text_tops = _tops(encoded.text, encoded.text_packing, snippets_left, real)
        action_feature = self._actions_so_far(actions, histories.lengths)[real]
        matches = effects.matches[actions] & real
        matched_feature = self._matches_so_far(matches, snippet, real, video_tops, text_tops)
        ahead = None
        if encoded.ahead is not None:
            retained = effects.retains_snippet[actions]
            open_ = F.pad(retained[:, : max(steps - 1, 0)], (min(steps, 1), 0))
            sample = torch.arange(len(actions), device=device)[:, None].expand_as(actions)
            cells = sample[real], open_[real], clip[real], snippet[real]
            ahead = ahead_at(encoded.ahead, *cells, clips, snippets)
        logits = self.classify([video_tops, text_tops, action_feature, matched_feature, positions], ahead)
        return logits, histories.targets[:, :steps][real], encoded

    def _actions_so_far(self, actions: Tensor, lengths: Tensor) -> Tensor:
        """(B, A, 8): the Action Stack's feature before each step; zeros before the first."""
        packing = Packing.of(lengths.clamp(max=actions.shape[1]) - (lengths > 0).long(), actions.device)
        one_hot = F.one_hot(actions, len(self.config.actions)).to(self.fc1.weight.dtype)
        (first, _), (second, _) = self.action_stack(packing.pack(one_hot), packing.batch_sizes)
        before = actions.new_zeros(len(actions), actions.shape[1], self.config.action_hidden, dtype=first.dtype)
        pushed = (first + second).index_select(0, packing.rows.flatten())
        before[:, 1:] = pushed.view(*packing.rows.shape, first.shape[1])
        return before

    def _matches_so_far(
        self, matches: Tensor, snippet: Tensor, real: Tensor, video_tops: Tensor, text_tops: Tensor
    ) -> Tensor:
        """(R, 20): the Matched Stack's feature at each real step.

        The LSTM runs once over each sample's matched snippets with their final averages; each push is then one cell
        step from the state before its snippet's first match, with the average so far (spec section 5).
        """
        batch, steps = matches.shape
        padded = video_tops.new_zeros(batch, steps, video_tops.shape[1])
        padded[real] = video_tops
        averages = (matched_weights(matches, snippet, padded.dtype) @ padded)[matches]
        pushes = torch.cat([averages, text_tops[matches[real]]], dim=1)  # (K, 600), sample by sample
        # Number the pushes and the elements (matched snippets) of each sample.
        push_number = matches.long().cumsum(1) - 1
        sample = torch.arange(batch, device=matches.device)[:, None].expand(batch, steps)[matches]
        new_element = torch.ones_like(sample, dtype=torch.bool)
        push_snippet = snippet[matches]
        new_element[1:] = (push_snippet[1:] != push_snippet[:-1]) | (sample[1:] != sample[:-1])
        element = new_element.long().cumsum(0) - 1  # over the whole batch
        final = torch.ones_like(new_element)
        final[:-1] = new_element[1:]
        elements_per_sample = torch.zeros(batch, dtype=torch.int64, device=matches.device)
        elements_per_sample.index_add_(0, sample[new_element], torch.ones_like(sample[new_element]))
        first_of_sample = elements_per_sample.cumsum(0) - elements_per_sample
        rank = element - first_of_sample[sample]  # the element's place within its sample
        packing = Packing.of(elements_per_sample.cpu(), matches.device)
        finals = pushes[final].new_empty(packing.total, pushes.shape[1])
        finals = finals.index_copy(0, packing.rows[sample[final], rank[final]], pushes[final])
        states = self.matched_stack(finals, packing.batch_sizes)
        previous = packing.rows[sample, (rank - 1).clamp(min=0)]
        has_previous = (rank > 0)[:, None].to(pushes.dtype)

        def before(state: State) -> State:
            h, c = (tensor.index_select(0, previous) * has_previous for tensor in state)
            return h, c

        (first, _), (second, _) = self.matched_stack.step(pushes, (before(states[0]), before(states[1])))
        features = torch.cat([first.new_zeros(1, first.shape[1]), first + second])  # row 0: nothing matched yet
        # The last push strictly before each step, counted over the whole batch.
        pushes_before_sample = matches.sum(1).cumsum(0) - matches.sum(1)
        done = push_number + 1 - matches.long()
        last = torch.where(done > 0, pushes_before_sample[:, None] + done, 0)
        return features.index_select(0, last[real])


def ahead_at(
    ahead: Tensor, sample: Tensor, open_: Tensor, clip: Tensor, snippet: Tensor, clips: Tensor, snippets: Tensor
) -> Tensor:
    """(R, C) of `Encoded.ahead` in R cells; zeros where a stack is empty, for then only one action is left.

    `sample`, `clip`, `snippet` (R,) int64, `open_` (R,) bool; `clips`, `snippets` (B, 1): the samples' lengths.
    """
    inside = (clip < clips[sample, 0]) & (snippet < snippets[sample, 0])
    if not ahead.numel():
        return ahead.new_zeros(len(sample), ahead.shape[-1]) + ahead.sum()
    cell = (sample, open_.long(), clip.clamp(max=ahead.shape[2] - 1), snippet.clamp(max=ahead.shape[3] - 1))
    return torch.where(inside[:, None], ahead[cell], 0.0)


def _tops(outputs: Tensor, packing: Packing, left: Tensor, real: Tensor) -> Tensor:
    """(R, width): a stack's output at its top in each real step; zeros for a stack that never held anything."""
    outputs = torch.cat([outputs, outputs.new_zeros(1, outputs.shape[1])])
    held = (packing.lengths > 0).to(left.device)[:, None]
    rows = F.pad(packing.rows, (0, 1)).gather(1, left - 1)
    return outputs.index_select(0, torch.where(held, rows, packing.total)[real])


def smoothed_cross_entropy(logits: Tensor, gold: Tensor, smoothing: float, weights: Tensor | None = None) -> Tensor:
    """Sum over rows of the cross-entropy to the target 1-e+e/C on gold, e/C elsewhere (spec section 5).

    `logits` (R, C), `gold` (R,), `weights` (R,) of the rows, 1 by default -> scalar, computed in float32 at least.
    """
    scores = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if weights is None:
        return F.cross_entropy(scores, gold, label_smoothing=smoothing, reduction="sum")
    return F.cross_entropy(scores, gold, label_smoothing=smoothing, reduction="none") @ weights.to(scores)
