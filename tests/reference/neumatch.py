"""NeuMATCH as the papers tell it: one sample, one element, one action at a time, sharing only the network's weights.

Slow and obvious on purpose: this is what the parallel network, the packed LSTMs and the decoder are tested against.
Sequences are in stack order (the last row is the top at the start), as in models/neumatch/network.py.
"""

import copy
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from models.neumatch.actions import Action
from models.neumatch.network import Batch, NeuMATCH
from models.neumatch.normalisation import SequenceBatchNorm
from models.neumatch.recurrent import LayerNormLSTMLayer, LSTMLayer, RecurrentStack, State
from tests.reference.lookahead import Ahead


def dense(layer: nn.Module, x: Tensor) -> Tensor:
    """Linear, for one vector."""
    assert isinstance(layer, nn.Linear)
    y = layer.weight @ x
    return y if layer.bias is None else y + layer.bias


def encoder(layers: nn.Module, x: Tensor) -> Tensor:
    """The encoder of one modality, for one feature vector."""
    assert isinstance(layers, nn.Sequential)
    for layer in layers:
        x = dense(layer, x) if isinstance(layer, nn.Linear) else x.clamp(min=0)
    return x


def layer_norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    centred = x - x.mean()
    return centred / (centred.square().mean() + norm.eps).sqrt() * norm.weight + norm.bias


def cell(layer: nn.Module, x: Tensor, state: State) -> State:
    """One step of one LSTM layer, for one vector."""
    h, c = state
    if isinstance(layer, LSTMLayer):
        gates = layer.weight_ih @ x + layer.bias_ih + layer.weight_hh @ h + layer.bias_hh
    else:
        assert isinstance(layer, LayerNormLSTMLayer)
        gates = layer_norm(layer.norm_input, layer.weight_ih @ x) + layer_norm(layer.norm_hidden, layer.weight_hh @ h)
    i, f, g, o = gates.chunk(4)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    if isinstance(layer, LayerNormLSTMLayer):
        c = layer_norm(layer.norm_cell, c)
    return torch.sigmoid(o) * torch.tanh(c), c


class Stack:
    """The state of a two-layer LSTM that reads one vector after another."""

    def __init__(self, stack: RecurrentStack, like: Tensor) -> None:
        self.stack = stack
        zero = like.new_zeros(stack.hidden)
        self.first: State = (zero, zero)
        self.second: State = (zero, zero)

    def push(self, x: Tensor) -> None:
        self.first = cell(self.stack.layer1, x, self.first)
        self.second = cell(self.stack.layer2, self.first[0], self.second)

    @property
    def feature(self) -> Tensor:
        """h(layer 1) + h(layer 2); zeros as long as nothing was pushed."""
        return self.first[0] + self.second[0]


def stack_outputs(encoders: nn.Module, stack: RecurrentStack, sequence: Tensor) -> list[Tensor]:
    """The second layer's hidden state at each element of one sequence."""
    state, outputs = Stack(stack, sequence), []
    for features in sequence:
        state.push(encoder(encoders, features))
        outputs.append(state.second[0])
    return outputs


def normalised(norm: nn.Module, samples: list[list[Tensor]]) -> list[list[Tensor]]:
    """SBN over all elements of all samples; anything else leaves them as they are."""
    elements = [element for sample in samples for element in sample]
    if not isinstance(norm, SequenceBatchNorm) or not elements:
        return samples
    mean, variance = norm.running_mean, norm.running_var
    if norm.training:
        mean = torch.stack(elements).mean(0)
        squares = torch.stack([(element - mean) ** 2 for element in elements]).sum(0)
        variance = squares / max(1, len(elements) - 1 if norm.unbiased else len(elements))
    return [[(x - mean) / (variance + norm.eps).sqrt() * norm.weight + norm.bias for x in sample] for sample in samples]


class Walker:
    """One sample on its way through the transition system."""

    def __init__(self, network: NeuMATCH, video: list[Tensor], text: list[Tensor]) -> None:
        """`video`, `text`: the normalised stack outputs of one sample, in stack order."""
        self.network = network
        self.video, self.text = list(video), list(text)
        self.clips, self.snippets = len(video), len(text)
        like = network.fc1.weight
        # A stack that has run out keeps its last element as the top; one that never held anything shows zeros.
        zero = like.new_zeros(network.config.width)
        self.last_clip, self.last_text = (video or [zero])[0], (text or [zero])[0]
        self.actions = Stack(network.action_stack, like)
        self.matched = Stack(network.matched_stack, like)
        self.before_element = self.matched
        self.element: int | None = None  # how many snippets were left when the current element was first matched
        self.element_clips: list[Tensor] = []
        self.ahead: Ahead | None = None
        self.open = False  # the last action was a match that kept the snippet

    @property
    def finished(self) -> bool:
        return not self.video or not self.text

    def tops(self) -> tuple[Tensor, Tensor]:
        return (self.video or [self.last_clip])[-1], (self.text or [self.last_text])[-1]

    def positions(self) -> Tensor:
        """The ten positional features, in the float32 in which the network computes them."""
        v, s = max(1, len(self.video)), max(1, len(self.text))
        if self.network.config.positions == "shares":
            V, S = max(1, self.clips), max(1, self.snippets)
            a, b = v / V, s / S
            logs = [math.log(a / b), math.log(v / s), math.log(V / S)]
            ten = [a, b, a - b, *logs, 1 / v, 1 / s, min(v, 10) / 10, min(s, 10) / 10]
            return torch.tensor(ten, dtype=torch.float32).to(self.network.fc1.weight)
        V, S = max(1, self.clips) + 1, max(1, self.snippets) + 1
        ten = [v, s, v / V, s / S, V / v, S / s, v / s, s / v, (V - v) / (S - s), (S - s) / (V - v)]
        return torch.tensor(ten, dtype=torch.float32).to(self.network.fc1.weight)

    def logits(self) -> Tensor:
        """(C,) scores of the next action."""
        state = torch.cat([*self.tops(), self.actions.feature, self.matched.feature, self.positions()])
        logits = dense(self.network.fc2, dense(self.network.fc1, state).clamp(min=0))
        if self.ahead is not None and not self.finished:
            logits = logits + self.ahead(self.clips - len(self.video), self.snippets - len(self.text), self.open)
        return logits

    def after(self, number: int) -> "Walker":
        """The walker after the action with id `number`; this one stays as it is."""
        new = copy.copy(self)
        new.video, new.text = list(self.video), list(self.text)
        action: Action = self.network.config.actions[number]
        new.actions = copy.copy(self.actions)
        one_hot = torch.zeros(len(self.network.config.actions)).to(self.network.fc1.weight)
        one_hot[number] = 1
        new.actions.push(one_hot)
        new.open = action.matches and not action.drops_snippet
        if action.matches:
            new._match()
        if action.drops_clip and new.video:
            new.video.pop()
        if action.drops_snippet and new.text:
            new.text.pop()
        return new

    def _match(self) -> None:
        clip, text = self.tops()
        if self.element == len(self.text):  # the same snippet again: as if its element had not been pushed yet
            self.element_clips = [*self.element_clips, clip]
        else:
            self.before_element = self.matched
            self.element_clips = [clip]
            self.element = len(self.text)
        self.matched = copy.copy(self.before_element)
        self.matched.push(torch.cat([torch.stack(self.element_clips).mean(0), text]))


def walkers(network: NeuMATCH, batch: Batch) -> list[Walker]:
    """A walker at the start of each sample."""
    dtype = network.fc1.weight.dtype
    video, text = [], []
    for b in range(len(batch.video)):
        clips, snippets = batch.video[b, : int(batch.video_lengths[b])], batch.text[b, : int(batch.text_lengths[b])]
        video.append(stack_outputs(network.encoders.video, network.video_stack, clips.to(dtype)))
        text.append(stack_outputs(network.encoders.text, network.text_stack, snippets.to(dtype)))
    video, text = normalised(network.video_norm, video), normalised(network.text_norm, text)
    found = [Walker(network, *sample) for sample in zip(video, text, strict=True)]
    if network.config.lookahead is not None:
        for b, walker in enumerate(found):
            clips, snippets = batch.video[b, : int(batch.video_lengths[b])], batch.text[b, : int(batch.text_lengths[b])]
            walker.ahead = Ahead(network, clips.flip(0).to(dtype), snippets.flip(0).to(dtype))
    return found


def teacher_forced(network: NeuMATCH, batch: Batch) -> Tensor:
    """(R, C) logits before each gold action, sample by sample."""
    rows = []
    for b, walker in enumerate(walkers(network, batch)):
        for number in batch.actions[b, : int(batch.action_lengths[b])].tolist():
            rows.append(walker.logits())
            walker = walker.after(number)  # noqa: PLW2901 (it walks)
    return torch.stack(rows) if rows else torch.zeros(0, len(network.config.actions)).to(network.fc1.weight)


def greedy(walker: Walker) -> tuple[list[int], list[Tensor]]:
    """Arg-max actions until a stack is empty, and the logits of each step."""
    actions, rows = [], []
    while not walker.finished:
        rows.append(walker.logits())
        actions.append(int(rows[-1].argmax()))
        walker = walker.after(actions[-1])
    return actions, rows


def every_sequence(walker: Walker, done: tuple[int, ...] = ()) -> Iterator[tuple[tuple[int, ...], float]]:
    """All action sequences that end with an empty stack, with their log-probabilities."""
    if walker.finished:
        yield done, 0.0
        return
    for number, score in enumerate(walker.logits().log_softmax(0).tolist()):
        for sequence, rest in every_sequence(walker.after(number), (*done, number)):
            yield sequence, score + rest


def lstm(layer: LSTMLayer | LayerNormLSTMLayer, sequence: Tensor) -> State:
    """One LSTM layer over one sequence (L, D) -> hidden and cell states (L, H) of every element."""
    zero = sequence.new_zeros(layer.hidden)
    state, hiddens, cells = (zero, zero), [], []
    for x in sequence:
        state = cell(layer, x, state)
        hiddens.append(state[0])
        cells.append(state[1])
    return torch.stack(hiddens), torch.stack(cells)
