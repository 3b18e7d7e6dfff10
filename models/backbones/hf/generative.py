"""A generative video-language model in training and scoring.

Its input is [before] video [between] question [after] answer, with the prompt's tokens in brackets.

Shape legend: n samples of this worker, T frames, O texts a sample, X tokens a text, V visual tokens, P tokens from the
beginning to the question, L after that, C answers, D width of the language model.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.backbones.hf.answers import AnswerTree, tree_of
from models.backbones.hf.blocks import blocks_of
from models.backbones.hf.config import GenerativeConfig
from models.backbones.hf.losses import contrastive
from models.backbones.hf.passes import Triple, at_least_one, dtype_of, standardised
from models.backbones.hf.prompts import ended, packed, words
from models.backbones.hf.seeing import Seeing, TiedWords
from models.backbones.univl.losses import wide
from models.backbones.video_language import Setting, VideoLanguageBatch, VideoLanguageNetwork, answer_loss

Text = tuple[Tensor, Tensor]
"""(n, X) of the model's own tokens, and bool of those that exist."""


class Generative(VideoLanguageNetwork):
    """A language model, what it sees with, and what scores its next token."""

    def __init__(
        self,
        model: Any,
        seeing: nn.Module,
        config: GenerativeConfig,
        setting: Setting,
        prompt: Sequence[Sequence[int]],
        statistics: tuple[Triple, Triple],
    ) -> None:
        """`model`: one with a language model and a head; `seeing`: what has been made of its visual half."""
        super().__init__()
        self.kind, self.setting, self.statistics, self.temperature = (
            setting.kind,
            setting,
            statistics,
            config.temperature,
        )
        self.rows_at_once = config.rows_at_once
        self.seeing, self.language = seeing, model.model.language_model
        table = self.language.get_input_embeddings()
        if model.lm_head.weight is table.weight:
            tied = TiedWords(table.num_embeddings, table.embedding_dim, device="meta")
            tied.weight = nn.Parameter(table.weight.detach())
            self.language.set_input_embeddings(tied)
            self.head = None
        else:
            self.head = model.lm_head
        before, between, after = (torch.tensor(part, dtype=torch.long) for part in prompt)
        for name, tensor in {"before": before, "between": between, "after": after, "known": self._known()}.items():
            self.register_buffer(name, tensor, persistent=False)
        visual, later = cast(Seeing, seeing).positions(len(before), config.frames, config.image_size)
        between_at = later + torch.arange(len(between))
        self.later = later + len(between)
        self.register_buffer("positions", torch.cat([visual, between_at.expand(len(visual), -1)], 1), persistent=False)
        self.end = setting.special[1] - setting.shift

    def _known(self) -> Tensor:
        """(C + 1, X): the known answers as batches have texts; the last is none at all."""
        first, last, _ = self.setting.special
        texts = [(first, *ids, last) for ids in self.setting.class_ids]
        table = torch.zeros(len(texts) + 1, max((len(text) for text in texts), default=2), dtype=torch.long)
        for row, text in zip(table, texts, strict=False):
            row[: len(text)] = torch.tensor(text)
        return table

    def forward(self, batch: VideoLanguageBatch, names: Sequence[str]) -> dict[str, Tensor]:
        def compute(rows: slice) -> tuple[Tensor, ...]:
            part = batch.rows(rows)
            return at_least_one(
                lambda frames, ids, answers: self._computed(names, frames, ids, answers),
                part.frames,
                part.ids,
                part.answers,
            )

        parts = [torch.cat(part) for part in zip(*self.in_parts(compute, batch.frames), strict=True)]
        answering, captioning, video, text, rest = parts
        known = (
            batch.answers >= 0 if self.kind == "multiple_choice" else torch.ones_like(batch.answers, dtype=torch.bool)
        )
        found = {}
        for name in names:
            if name == "contrastive":
                everyone, _ = self.collectives.gather(text)
                logits = self.similarity((everyone,), (video,)).T
                found[name] = contrastive(logits[:, None], known, self.collectives)
            elif name == "captioning":
                found[name] = captioning[known].sum()
            elif self.kind == "multiple_choice":
                found[name] = answer_loss(-answering, batch.answers)
            else:
                found[name] = answering.sum()
        return {name: loss + rest.sum() for name, loss in found.items()}

    def _computed(self, names: Sequence[str], frames: Tensor, ids: Tensor, answers: Tensor) -> tuple[Tensor, ...]:
        """What the losses need of n samples: mean losses of tokens, of answers (n,) or options (n, O) and of texts
        (n,); states of videos and texts (n, D); and zero (n,), by way of all weights."""
        prefix = self._prefix(frames)
        own = ids[:, 0]
        if self.kind == "multiple_choice":
            own = ids[torch.arange(len(ids), device=ids.device), answers.clamp(min=0)]
        states = answering = captioning = None
        if "answering" in names and self.kind == "multiple_choice":
            options = prefix.repeat_interleave(ids.shape[1], 0)
            answering = self._said(options, self._nothing(ids.flatten(0, 1)), ended(ids.flatten(0, 1)))[0]
            answering = answering.view(ids.shape[:2])
        elif "answering" in names:
            answering, states = self._said(prefix, words(own), ended(cast(Tensor, self.known)[answers]))
        if "captioning" in names:
            captioning, states = self._said(prefix, self._nothing(own), ended(own))
        if states is None:
            states = self._states(prefix, self._alone(cast(Tensor, self.positions), len(prefix)), None)
        nothing = states.new_zeros(len(states), dtype=wide(states).dtype)
        text = self._text(own) if "contrastive" in names else nothing[:, None]
        rest = 0 * wide(self._logits(states[:, :1])).sum((1, 2))
        return (
            nothing if answering is None else answering,
            nothing if captioning is None else captioning,
            self._seen(states),
            text,
            rest,
        )

    @staticmethod
    def _alone(positions: Tensor, count: int) -> Tensor:
        """(axes, P) -> (axes, n, P)."""
        return positions[:, None].expand(-1, count, -1)

    @staticmethod
    def _nothing(ids: Tensor) -> Text:
        return ids[:, :0], ids[:, :0] != 0

    def _prefix(self, frames: Tensor) -> Tensor:
        """(n, T, 3, h, w) -> (n, P, D): the prompt's beginning, the video, and what comes between it and a question."""
        dtype = dtype_of(self.language)
        visual = self.seeing(standardised(frames, self.statistics, dtype))
        around = (self._embedded(cast(Tensor, ids)).expand(len(frames), -1, -1) for ids in (self.before, self.between))
        before, between = around
        return torch.cat([before, visual.to(dtype), between], 1)

    def _embedded(self, ids: Tensor) -> Tensor:
        found: Tensor = self.language.get_input_embeddings()(ids)
        return found

    def _own(self, text: Text) -> Text:
        """From the batch's ids to the model's own."""
        ids, there = text
        return (ids - self.setting.shift).masked_fill(~there, self.setting.padding), there

    def _said(self, prefix: Tensor, question: Text, answer: Text) -> tuple[Tensor, Tensor]:
        """(n, P, D), a question and what is said then, both in the batch's ids -> (n,) the mean loss of its tokens (0
        where there are none), and the states (n, P + L, D)."""
        after = cast(Tensor, self.after).expand(len(prefix), -1)
        parts = [self._own(question), (after, torch.ones_like(after, dtype=torch.bool)), self._own(answer)]
        ids, there, of = packed(parts)
        places = cast(Tensor, self.positions)
        later = self._later(ids.shape[1]).expand(len(places), len(ids), -1)
        positions = torch.cat([self._alone(places, len(ids)), later], 2)
        seen = torch.cat([there.new_ones(prefix.shape[:2]), there], 1)
        states = self._states(torch.cat([prefix, self._embedded(ids)], 1), positions, seen.long())
        at = there & (of == 2)
        logits = self._logits(states[:, prefix.shape[1] - 1 : -1][at])
        losses = F.cross_entropy(wide(logits), ids[at], reduction="none")
        sums = losses.new_zeros(len(ids)).index_add(0, at.nonzero()[:, 0], losses)
        return sums / at.sum(1).clamp(min=1), states

    def _later(self, count: int) -> Tensor:
        """The positions of `count` tokens after the prefix."""
        return self.later + torch.arange(count, device=cast(Tensor, self.positions).device)

    def _states(self, embedded: Tensor, positions: Tensor, mask: Tensor | None) -> Tensor:
        """(n, P + L, D), (axes, n, P + L) -> (n, P + L, D)."""
        found: Tensor = self.language(
            inputs_embeds=embedded,
            attention_mask=mask,
            position_ids=positions[0] if len(positions) == 1 else positions,
            use_cache=False,
        ).last_hidden_state
        return found

    def _logits(self, states: Tensor) -> Tensor:
        found: Tensor = (self.language.get_input_embeddings() if self.head is None else self.head)(states)
        return found

    def _seen(self, states: Tensor) -> Tensor:
        """States that begin with the prefix's -> (n, D): the mean of the visual tokens'."""
        first, last = (len(cast(Tensor, ids)) for ids in (self.before, self.between))
        stop = cast(Tensor, self.positions).shape[1] - last
        return wide(states[:, first:stop]).mean(1)

    def _text(self, ids: Tensor) -> Tensor:
        """(k, X) as batches have them -> (k, D): the mean of the states of words and end, without any video."""
        own, there = self._own(ended(ids))
        axes = len(cast(Tensor, self.positions))
        positions = torch.arange(own.shape[1], device=ids.device).expand(axes, len(ids), -1)
        states = wide(self._states(self._embedded(own), positions, there.long()))
        return (states * there[..., None]).sum(1) / there.sum(1, keepdim=True).clamp(min=1)

    def encode_videos(self, frames: Tensor, seeds: Tensor) -> tuple[Tensor, ...]:
        def encode(frames: Tensor) -> Tensor:
            prefix = self._prefix(frames)
            return self._seen(self._states(prefix, self._alone(cast(Tensor, self.positions), len(frames)), None))

        return (at_least_one(encode, frames),)

    def encode_texts(self, ids: Tensor) -> tuple[Tensor, ...]:
        return (at_least_one(self._text, ids),)

    def similarity(self, texts: tuple[Tensor, ...], videos: tuple[Tensor, ...]) -> Tensor:
        return F.normalize(texts[0], dim=-1) @ F.normalize(videos[0], dim=-1).T / self.temperature

    def answer(self, batch: VideoLanguageBatch) -> Tensor:
        """Of options: their tokens' mean log-probability. Of answers and classes: their exact log-probability, the end
        included, each sample on its own with all answers as one tree (see `AnswerTree`)."""
        if self.kind == "multiple_choice":
            names = ("answering",)
            computed = at_least_one(lambda *rows: self._computed(names, *rows), batch.frames, batch.ids, batch.answers)
            return -computed[0]
        tree = AnswerTree(*(tensor.to(batch.ids.device) for tensor in self._tree()))
        found = [self._scored(tree, batch.frames[i : i + 1], batch.ids[i, :1]) for i in range(len(batch.frames))]
        return torch.stack(found) if found else batch.frames.new_zeros(0, len(tree.ends))

    def _tree(self) -> AnswerTree:
        return tree_of([[id - self.setting.shift for id in ids] for ids in self.setting.class_ids])

    def _scored(self, tree: AnswerTree, frames: Tensor, ids: Tensor) -> Tensor:
        """(1, T, 3, h, w), (1, X) -> (C,)."""
        question, there = self._own(words(ids))
        read = torch.cat([question[there], cast(Tensor, self.after)])[None]
        prefix, places = self._prefix(frames), cast(Tensor, self.positions)
        begun = torch.cat([prefix, self._embedded(read)], 1)
        embedded = torch.cat([begun, self._embedded(tree.tokens[None])], 1)
        later = torch.cat([self._later(read.shape[1]), self._later(1) + read.shape[1] + tree.depths])
        positions = torch.cat([places, later.expand(len(places), -1)], 1)
        mask = tree.mask(begun.shape[1], embedded.dtype)[None, None]
        states = self._states(embedded, self._alone(positions, 1), mask)[0, begun.shape[1] - 1 :]
        steps, stops = states.new_zeros(len(tree.tokens), dtype=wide(states).dtype), []
        for first in range(0, len(states), self.rows_at_once):
            chances = wide(self._logits(states[first : first + self.rows_at_once])).log_softmax(-1)
            stops.append(chances[:, self.end])
            here = (tree.parents >= first) & (tree.parents < first + self.rows_at_once)
            steps[here] = chances[tree.parents[here] - first, tree.tokens[here]]
        return tree.scores(steps, torch.cat(stops))

    def blocks(self) -> list[nn.Module]:
        return blocks_of(self)

    @staticmethod
    def component_of(parameter: str) -> str:
        return "video" if parameter.startswith("seeing.") else "language"
