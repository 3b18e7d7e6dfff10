"""All-in-one: a batch in, its named losses out; and the vectors and answers that scoring needs.

Shape legend: n samples, T frames, O texts a sample, X words, l = 1 + P tokens of a frame's image, H hidden, C classes.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.backbones.allinone.config import AllInOneConfig, Component
from models.backbones.allinone.draws import Draw, matched, others_texts, patch_orders
from models.backbones.allinone.layers import (
    PairScore,
    Pooler,
    Predictions,
    TextEmbeddings,
    VisionTransformer,
    classifier,
    in_order,
    rolled,
)
from models.backbones.allinone.losses import pair_loss, ranking_loss, retrieval_loss, transport_loss, unit
from models.backbones.bert import initialise
from models.backbones.univl.losses import wide
from models.backbones.video_language import NO_LABEL, Setting, VideoLanguageBatch, VideoLanguageNetwork, answer_loss

JOINT = frozenset({"mlm", "vtm", "wpa", "irtr", "mc", "oe"})
"""Losses for which text and frames go through the transformer together."""
POOLED = frozenset({"vtm", "irtr", "mc", "oe", "recognition"})
CHOICE_WIDTH = 256
TEXT, IMAGE = 0, 1
"""Types of tokens."""


class Joined(NamedTuple):
    """What the transformer gives for text and frames together, the mean over frames."""

    words: Tensor
    """(n, X, H)."""
    image: Tensor
    """(n, l, H)."""


class Pairs(NamedTuple):
    """A text for each video, its own or another's."""

    ids: Tensor
    """(n, X)."""
    match: Tensor
    """(n,) bool."""


class Candidates(NamedTuple):
    """Texts of other samples."""

    ids: Tensor
    """(n, k, X)."""
    exist: Tensor
    """(n, k) bool."""


class AllInOne(VideoLanguageNetwork):
    """One transformer under the official names, and the heads that the losses need."""

    def __init__(self, config: AllInOneConfig, setting: Setting, losses: Sequence[str]) -> None:
        super().__init__()
        self.config, wanted = config, set(losses)
        if wanted - {"recognition", "mvm"}:
            self.text_embeddings = TextEmbeddings(config)
        self.token_type_embeddings = nn.Embedding(2, config.hidden)
        self.transformer = VisionTransformer(config)
        if wanted & POOLED:
            self.pooler = Pooler(config)
        if "itc" in wanted:
            self.txt_proj, self.vid_proj = (nn.Linear(config.hidden, config.shared) for _ in range(2))
        if "mlm" in wanted:
            self.mlm_score = Predictions(config, config.vocabulary)
        if "vtm" in wanted:
            self.itm_score = PairScore(config)
        if "irtr" in wanted:
            self.rank_output = nn.Linear(config.hidden, 1)
        if "mc" in wanted:
            self.mc_vqa_classifier = classifier(config, CHOICE_WIDTH, 1, config.dropout)
        half, classes = max(1, config.hidden // 2), len(setting.classes)
        if "oe" in wanted:
            self.vqa_classifier = classifier(config, half, classes, config.answer_dropout)
        if "recognition" in wanted:
            self.recognition_classifier = classifier(config, half, classes, config.answer_dropout)
        if "mvm" in wanted:
            self.mvm_score = Predictions(config, setting.codes)
        self.answers = next((name for name in ("mc", "oe", "recognition") if name in wanted), None)
        self.apply(initialise)
        for table in (self.transformer.pos_embed, self.transformer.cls_token):
            nn.init.trunc_normal_(table, std=0.02)

    def forward(self, batch: VideoLanguageBatch, names: Sequence[str]) -> dict[str, Tensor]:
        """The losses `names`, each summed over this batch."""
        pairs = self._pairs(batch) if {"vtm", "wpa"} & set(names) else None
        others = self._candidates(batch) if "irtr" in names else None
        parts = self.in_parts(partial(self._part, names, batch, pairs, others), batch.frames)
        found = {name: torch.stack([part[name] for part in parts]).sum(0) for name in names if name != "itc"}
        if "itc" in names:
            texts, videos = (torch.cat([part[key] for part in parts]) for key in ("texts", "videos"))
            found["itc"] = retrieval_loss(texts, videos, self.config.temperature, self.collectives)
        return {name: found[name] for name in names}

    def _pairs(self, batch: VideoLanguageBatch) -> Pairs:
        """A video keeps its own text or takes that of another sample of all workers; alone, it keeps its own."""
        own = batch.ids[:, 0]
        others, exist = others_texts(own, batch.seeds, Draw.PARTNER, 1, self.collectives)
        match = matched(batch.seeds) | ~exist[:, 0]
        return Pairs(torch.where(match[:, None], own, others[:, 0]), match)

    def _candidates(self, batch: VideoLanguageBatch) -> Candidates:
        most = self.config.false_texts
        return Candidates(*others_texts(batch.ids[:, 0], batch.seeds, Draw.FALSE_TEXTS, most, self.collectives))

    def _part(
        self,
        names: Sequence[str],
        whole: VideoLanguageBatch,
        pairs: Pairs | None,
        others: Candidates | None,
        chosen: slice,
    ) -> dict[str, Tensor]:
        """The losses of some samples, summed; of `itc` the vectors that are compared."""
        batch, found = whole.rows(chosen), dict[str, Tensor]()
        if set(names) - {"mvm"}:
            tokens = self.image_tokens(batch.frames)
        if {"itc", "recognition"} & set(names):
            first = self.alone(tokens)[:, :, 0].mean(1)
            if "recognition" in names:
                found["recognition"] = answer_loss(self.recognition_classifier(self.pooler(first)), batch.answers)
            if "itc" in names:
                found |= {"texts": self.encode_texts(batch.ids[:, 0])[0], "videos": self.vid_proj(first)}
        if "mvm" in names:
            found["mvm"] = self.patch_loss(batch)
        if JOINT & set(names):
            tokens = in_order(tokens, self.orders(batch.seeds, tokens))
        if "mlm" in names:
            found["mlm"] = self.word_loss(batch.masked_ids, batch.mask, batch.token_labels, tokens)
        if pairs is not None:
            found |= self.pair_losses(names, Pairs(*(tensor[chosen] for tensor in pairs)), tokens)
        if others is not None:
            ids = torch.cat([batch.ids[:, :1], others.ids[chosen]], 1)
            found["irtr"] = ranking_loss(self.candidate_scores(self.rank_output, ids, tokens), others.exist[chosen])
        if "mc" in names:
            scores = self.candidate_scores(self.mc_vqa_classifier, batch.ids, tokens)
            found["mc"] = answer_loss(scores, batch.answers)
        if "oe" in names:
            found["oe"] = answer_loss(self.answer_scores(batch.ids[:, 0], tokens), batch.answers)
        return found

    def image_tokens(self, frames: Tensor) -> Tensor:
        """(n, T, 3, h, w) -> (n, T, l, H), patches row by row."""
        tokens: Tensor = self.transformer(frames) + self._type(IMAGE, frames.device)
        return tokens

    def text_tokens(self, ids: Tensor) -> Tensor:
        """(m, X) -> (m, X, H)."""
        tokens: Tensor = self.text_embeddings(ids) + self._type(TEXT, ids.device)
        return tokens

    def _type(self, kind: int, device: torch.device) -> Tensor:
        row: Tensor = self.token_type_embeddings(torch.tensor([kind], device=device))
        return row

    def orders(self, seeds: Tensor, tokens: Tensor) -> Tensor:
        """(n,), (n, T, l, H) -> (n, T, P): which patch stands where."""
        frames, patches = tokens.shape[1], tokens.shape[2] - 1
        if self.config.patch_order == "raster":
            return torch.arange(patches, device=seeds.device).expand(len(seeds), frames, -1)
        return patch_orders(seeds, frames, patches)

    def alone(self, tokens: Tensor) -> Tensor:
        """Frames without a text, (n, T, l, H) -> the same shape; no frame sees another."""
        x = tokens.flatten(0, 1)
        for block in self.transformer.blocks:
            x = block(x, None)
        normed: Tensor = self.transformer.norm(x).view_as(tokens)
        return normed

    def joint(self, ids: Tensor, mask: Tensor, tokens: Tensor) -> Joined:
        """Texts (m, X) with their mask and as many videos' tokens, patches in order (m, T, l, H)."""
        frames, words = tokens.shape[1], ids.shape[1]
        text = self.text_tokens(ids)[:, None].expand(-1, frames, -1, -1)
        x = torch.cat([text, tokens], 2)
        seen = torch.cat([mask.bool(), torch.ones_like(tokens[:, 0, :, 0], dtype=torch.bool)], 1)
        seen = seen.repeat_interleave(frames, 0)
        for block in self.transformer.blocks:
            x = block(rolled(x, words).flatten(0, 1), seen).view_as(x)
        x = self.transformer.norm(x).mean(1)
        return Joined(x[:, :words], x[:, words:])

    def word_loss(self, ids: Tensor, mask: Tensor, labels: Tensor, tokens: Tensor) -> Tensor:
        """Masked texts (n, O, X) with the masks and labels of their words; videos' tokens (n, T, l, H)."""
        each = tokens.repeat_interleave(ids.shape[1], 0)
        words = self.joint(ids.flatten(0, 1), mask.flatten(0, 1), each).words
        at = labels.flatten(0, 1) != NO_LABEL
        return F.cross_entropy(wide(self.mlm_score(words[at])), labels.flatten(0, 1)[at], reduction="sum")

    def pair_losses(self, names: Sequence[str], pairs: Pairs, tokens: Tensor) -> dict[str, Tensor]:
        """Those of `vtm` and `wpa` that are among `names`."""
        seen = pairs.ids != 0
        joined, found = self.joint(pairs.ids, seen, tokens), dict[str, Tensor]()
        if "vtm" in names:
            found["vtm"] = pair_loss(self.itm_score(self.pooler(joined.words[:, 0])), pairs.match)
        if "wpa" in names:
            found["wpa"] = transport_loss(joined.words, seen, joined.image, pairs.match)
        return found

    def candidate_scores(self, head: Callable[[Tensor], Tensor], ids: Tensor, tokens: Tensor) -> Tensor:
        """Texts (n, O, X) for each of n videos (n, T, l, H), or with tokens of their own (n*O, T, l, H) -> (n, O)."""
        flat = ids.flatten(0, 1)
        each = tokens if len(tokens) == len(flat) else tokens.repeat_interleave(ids.shape[1], 0)
        return head(self.pooler(self.joint(flat, flat != 0, each).words[:, 0])).view(ids.shape[:2])

    def answer_scores(self, ids: Tensor, tokens: Tensor) -> Tensor:
        """Questions (n, X), videos (n, T, l, H) -> (n, C)."""
        scores: Tensor = self.vqa_classifier(self.pooler(self.joint(ids, ids != 0, tokens).words[:, 0]))
        return scores

    def patch_loss(self, batch: VideoLanguageBatch) -> Tensor:
        """Visual tokens of hidden patches from what else a frame shows."""
        labels = batch.cell_labels.flatten(2)
        patches = self.alone(self.image_tokens(batch.masked_frames))[:, :, 1:]
        at = labels != NO_LABEL
        return F.cross_entropy(wide(self.mvm_score(patches[at])), labels[at], reduction="sum")

    def encode_videos(self, frames: Tensor, seeds: Tensor) -> tuple[Tensor, ...]:
        """-> (m, S) vectors. The order of patches has no part in them: no frame sees another."""
        return (self.vid_proj(self.alone(self.image_tokens(frames))[:, :, 0].mean(1)),)

    def encode_texts(self, ids: Tensor) -> tuple[Tensor, ...]:
        """-> (k, S) vectors."""
        x, seen = self.text_tokens(ids), ids != 0
        for block in self.transformer.blocks:
            x = block(x, seen)
        return (self.txt_proj(self.transformer.norm(x)[:, 0]),)

    def similarity(self, texts: tuple[Tensor, ...], videos: tuple[Tensor, ...]) -> Tensor:
        """The cosine."""
        return unit(wide(texts[0])) @ unit(wide(videos[0])).T

    def answer(self, batch: VideoLanguageBatch) -> Tensor:
        if self.answers is None:
            return super().answer(batch)
        tokens = self.image_tokens(batch.frames)
        if self.answers == "recognition":
            scores: Tensor = self.recognition_classifier(self.pooler(self.alone(tokens)[:, :, 0].mean(1)))
            return scores
        tokens = in_order(tokens, self.orders(batch.seeds, tokens))
        if self.answers == "mc":
            return self.candidate_scores(self.mc_vqa_classifier, batch.ids, tokens)
        return self.answer_scores(batch.ids[:, 0], tokens)

    def blocks(self) -> list[nn.Module]:
        return list(self.transformer.blocks)

    @staticmethod
    def component_of(parameter: str) -> Component:
        part, _, rest = parameter.partition(".")
        if part == "transformer":
            return "transformer" if rest.startswith(("blocks.", "norm.")) else "embeddings"
        return "embeddings" if part in ("text_embeddings", "token_type_embeddings") else "heads"
