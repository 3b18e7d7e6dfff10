"""Decoding: from two sequences to an alignment, by greedy choice or beam search over actions (spec section 6).

All samples and hypotheses advance together, one action a step; each stops for itself as soon as one of its stacks is
empty, so its result does not depend on its batch mates. Shape legend: H hypotheses (greedy: one a sample).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from models.config import StrictConfig
from models.data.examples import Example
from models.data.movie import Alignment
from models.neumatch.actions import play
from models.neumatch.network import Encoded, NeuMATCH, ahead_at
from models.neumatch.packing import Packing
from models.neumatch.recurrent import State
from models.neumatch.stacks import ActionEffects

States = tuple[State, State]


class DecodingConfig(StrictConfig):
    """How to choose actions. `width` and `length_penalty` apply to beam search only."""

    method: Literal["greedy", "beam"] = "greedy"
    width: int = Field(default=8, ge=1)
    length_penalty: float = Field(default=0.0, ge=0, le=1)
    """Hypotheses are compared by log-probability / actions ** length_penalty."""


@dataclass
class _Hypotheses:
    """H partial action sequences and everything the network remembers of them."""

    sample: Tensor
    """(H,) the sample that each belongs to."""
    clip: Tensor
    snippet: Tensor
    """(H,) elements dropped so far."""
    action_states: States
    matched_states: States
    element_states: States
    """The Matched Stack before the current element's first match."""
    action_feature: Tensor
    matched_feature: Tensor
    matched_sum: Tensor
    matched_count: Tensor
    """Sum (H, 300) and number (H,) of the clips matched to the current element."""
    element_snippet: Tensor
    """(H,) the snippet of the current element, -1 before the first match."""
    open: Tensor
    """(H,) bool: the last action was a match that kept the snippet."""
    score: Tensor
    """(H,) log-probability."""

    def select(self, index: Tensor) -> "_Hypotheses":
        """The hypotheses at `index` (repeats allowed)."""

        def pick(value: Any) -> Any:
            return tuple(pick(part) for part in value) if isinstance(value, tuple) else value.index_select(0, index)

        return _Hypotheses(**{name: pick(value) for name, value in vars(self).items()})


class Stepper:
    """The network's step function over hypotheses."""

    def __init__(self, network: NeuMATCH, encoded: Encoded) -> None:
        self.network, self.encoded = network, encoded
        device = encoded.video.device
        self.effects = ActionEffects.of(network.config.actions, device)
        self.clips = encoded.video_packing.lengths.to(device)
        self.snippets = encoded.text_packing.lengths.to(device)

    def start(self) -> _Hypotheses:
        """One empty hypothesis a sample."""
        count, like = len(self.clips), self.encoded.video
        zero = torch.zeros(count, dtype=torch.int64, device=like.device)
        network = self.network
        return _Hypotheses(
            sample=torch.arange(count, device=like.device),
            clip=zero,
            snippet=zero,
            action_states=network.action_stack.start(count, like),
            matched_states=network.matched_stack.start(count, like),
            element_states=network.matched_stack.start(count, like),
            action_feature=like.new_zeros(count, network.config.action_hidden),
            matched_feature=like.new_zeros(count, network.config.matched_hidden),
            matched_sum=like.new_zeros(count, like.shape[1]),
            matched_count=like.new_zeros(count),
            element_snippet=zero - 1,
            open=zero.bool(),
            score=torch.zeros(count, device=like.device),
        )

    def unfinished(self, h: _Hypotheses) -> Tensor:
        """(H,) bool: both stacks still hold something."""
        return (h.clip < self.clips[h.sample]) & (h.snippet < self.snippets[h.sample])

    def tops(self, h: _Hypotheses) -> tuple[Tensor, Tensor]:
        """The stack tops (H, 300) of video and text."""

        def top(rows: Tensor, packing: Packing, left: Tensor) -> Tensor:
            return rows.index_select(0, packing.rows[h.sample, left - 1])

        video = top(self.encoded.video, self.encoded.video_packing, self.clips[h.sample] - h.clip)
        return video, top(self.encoded.text, self.encoded.text_packing, self.snippets[h.sample] - h.snippet)

    def logits(self, h: _Hypotheses, video: Tensor, text: Tensor) -> Tensor:
        """(H, C) scores of the next action."""
        clips, snippets = self.clips[h.sample], self.snippets[h.sample]
        positions = self.network.positions(clips - h.clip, snippets - h.snippet, clips, snippets)
        ahead = None
        if self.encoded.ahead is not None:
            totals = self.clips[:, None], self.snippets[:, None]
            ahead = ahead_at(self.encoded.ahead, h.sample, h.open, h.clip, h.snippet, *totals)
        return self.network.classify([video, text, h.action_feature, h.matched_feature, positions], ahead)

    def advance(self, h: _Hypotheses, action: Tensor, video: Tensor, text: Tensor) -> _Hypotheses:
        """The hypotheses after one more action each ((H,) ids)."""
        network = self.network
        one_hot = F.one_hot(action, len(network.config.actions)).to(video.dtype)
        action_states = network.action_stack.step(one_hot, h.action_states)
        matches, goes_on = self.effects.matches[action], h.snippet == h.element_snippet
        keep = goes_on[:, None].to(video.dtype)
        total = h.matched_sum * keep + video
        count = h.matched_count * keep[:, 0] + 1
        # A new element starts from the present state, a repeated match from the state before the element.
        before = _where(goes_on, h.element_states, h.matched_states)
        pushed = network.matched_stack.step(torch.cat([total / count[:, None], text], dim=1), before)
        return _Hypotheses(
            sample=h.sample,
            clip=h.clip + self.effects.drops_clip[action],
            snippet=h.snippet + self.effects.drops_snippet[action],
            action_states=action_states,
            matched_states=_where(matches, pushed, h.matched_states),
            element_states=_where(matches, before, h.element_states),
            action_feature=action_states[0][0] + action_states[1][0],
            matched_feature=torch.where(matches[:, None], pushed[0][0] + pushed[1][0], h.matched_feature),
            matched_sum=torch.where(matches[:, None], total, h.matched_sum),
            matched_count=torch.where(matches, count, h.matched_count),
            element_snippet=torch.where(matches, h.snippet, h.element_snippet),
            open=self.effects.retains_snippet[action],
            score=h.score,
        )


def _where(condition: Tensor, yes: States, no: States) -> States:
    def pick(a: State, b: State) -> State:
        return torch.where(condition[:, None], a[0], b[0]), torch.where(condition[:, None], a[1], b[1])

    return pick(yes[0], no[0]), pick(yes[1], no[1])


def greedy(network: NeuMATCH, encoded: Encoded) -> tuple[list[list[int]], list[Tensor]]:
    """Arg-max actions of each sample until one of its stacks is empty.

    Returns the action ids and the logits (steps, C) of each sample.
    """
    decoder = Stepper(network, encoded)
    h = decoder.start()
    samples = len(decoder.clips)
    chosen: list[tuple[Tensor, Tensor, Tensor]] = []
    h = h.select(decoder.unfinished(h).nonzero()[:, 0])
    while len(h.sample):
        video, text = decoder.tops(h)
        logits = decoder.logits(h, video, text)
        action = logits.argmax(1)
        chosen.append((h.sample, action, logits))
        h = decoder.advance(h, action, video, text)
        going = decoder.unfinished(h)
        if not bool(going.all()):
            h = h.select(going.nonzero()[:, 0])
    actions: list[list[int]] = [[] for _ in range(samples)]
    scores: list[list[Tensor]] = [[] for _ in range(samples)]
    for sample, action, logits in chosen:
        for s, a, row in zip(sample.tolist(), action.tolist(), logits.unbind(), strict=True):
            actions[s].append(a)
            scores[s].append(row)
    empty = encoded.video.new_zeros(0, len(network.config.actions))
    return actions, [torch.stack(rows) if rows else empty for rows in scores]


def beam_search(network: NeuMATCH, encoded: Encoded, width: int, length_penalty: float = 0.0) -> list[list[int]]:
    """The most probable of the action sequences that a beam of `width` hypotheses a sample finds."""
    decoder = Stepper(network, encoded)
    h = decoder.start()
    samples = len(decoder.clips)
    best: list[tuple[float, tuple[int, int]]] = [(-float("inf"), (-1, -1))] * samples
    trail: list[tuple[list[int], list[int]]] = []  # per step: parent hypothesis and action of each hypothesis

    def finish(done: Tensor, steps: int) -> None:
        for index in done.tolist():
            sample = int(h.sample[index])
            value = float(h.score[index]) / max(steps, 1) ** length_penalty
            if value > best[sample][0]:
                best[sample] = (value, (steps, index))

    alive = decoder.unfinished(h).nonzero()[:, 0]
    while len(alive):
        live = h.select(alive)
        video, text = decoder.tops(live)
        scores = live.score[:, None] + F.log_softmax(decoder.logits(live, video, text).float(), dim=1)
        kept = _best_of_each(scores, live.sample, width)
        parent, action = kept // scores.shape[1], kept % scores.shape[1]
        chosen = live.select(parent)
        h = decoder.advance(chosen, action, video.index_select(0, parent), text.index_select(0, parent))
        h.score = scores.flatten()[kept]
        trail.append((alive[parent].tolist(), action.tolist()))
        going = decoder.unfinished(h)
        finish((~going).nonzero()[:, 0], len(trail))
        if length_penalty == 0:  # log-probabilities only fall: a hypothesis below a finished one is lost
            bound = torch.tensor([value for value, _ in best], device=h.score.device)
            going &= h.score > bound[h.sample]
        alive = going.nonzero()[:, 0]
    return [_trace(trail, end) for _, end in best]


def _best_of_each(scores: Tensor, sample: Tensor, width: int) -> Tensor:
    """Flat indices of the `width` best entries of `scores` (H, C) among the rows of each sample."""
    flat, owner = scores.flatten(), sample[:, None].expand_as(scores).flatten()
    order = torch.argsort(flat, descending=True, stable=True)
    order = order[torch.argsort(owner[order], stable=True)]
    owners = owner[order]
    place = torch.arange(len(order), device=order.device)
    first = torch.full((int(owner.max()) + 1,), len(order), device=order.device)
    first.scatter_reduce_(0, owners, place, "amin")
    return order[place - first[owners] < width]


def _trace(trail: Sequence[tuple[list[int], list[int]]], end: tuple[int, int]) -> list[int]:
    """Walks back from hypothesis `end` = (steps, index) to its actions."""
    steps, index = end
    actions: list[int] = []
    for parents, chosen in reversed(trail[: max(steps, 0)]):
        actions.append(chosen[index])
        index = parents[index]
    return actions[::-1]


@torch.no_grad()
def align(network: NeuMATCH, examples: Sequence[Example], config: DecodingConfig) -> list[Alignment]:
    """Aligns preprocessed movies; what is left over when a stack is empty stays unmatched."""
    if not examples:
        return []
    was_training = network.training
    network.eval()
    device = network.fc1.weight.device
    try:
        sequences = [([e.video.flip(0) for e in examples]), ([e.text.flip(0) for e in examples])]
        video, text = (torch.nn.utils.rnn.pad_sequence(s, batch_first=True).to(device) for s in sequences)
        lengths = [torch.tensor([len(row) for row in s], dtype=torch.int64) for s in sequences]
        encoded = network.encode(video, text, lengths[0], lengths[1])
        if config.method == "greedy":
            actions, _ = greedy(network, encoded)
        else:
            actions = beam_search(network, encoded, config.width, config.length_penalty)
    finally:
        network.train(was_training)
    return [
        play(ids, len(e.movie.clips), len(e.movie.snippets), network.config.actions)
        for ids, e in zip(actions, examples, strict=True)
    ]
