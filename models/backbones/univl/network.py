"""UniVL: a batch in, its named losses out; and the encodings that scoring and captioning need.

Shape legend: n samples of this worker, N of all workers, W words, F frames, D width of a frame's feature, H hidden.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from models.backbones.bert import initialise
from models.backbones.univl.config import UniVLConfig
from models.backbones.univl.encoders import CrossEncoder, Decoder, Heads, TextEncoder, VisualEncoder
from models.backbones.univl.layers import EPS, DecoderLayer, EncoderLayer, WideLayerNorm
from models.backbones.univl.losses import (
    align_loss,
    contrastive_loss,
    frame_loss,
    joint_loss,
    mean_text,
    mean_video,
    wide,
)
from models.collectives import Alone, Collectives
from models.recompute import in_parts

LOSSES = ("joint", "align", "cmlm", "cmfm", "m_joint", "m_align", "decoder", "m_decoder")
"""In the order of the official code; m_ marks those of the masked text and video."""
PADDING = 0
NO_LABEL = -1


@dataclass(frozen=True)
class UniVLBatch:
    """n samples, n possibly 0. Token tensors are int64, masks 1 for what exists and 0 for padding."""

    ids: Tensor
    """(n, W) of the text encoder."""
    types: Tensor
    mask: Tensor
    video: Tensor
    """(n, F, D) float32."""
    video_mask: Tensor
    masked_ids: Tensor
    token_labels: Tensor
    """(n, W): the words under the mask, -1 elsewhere."""
    masked_video: Tensor
    frame_labels: Tensor
    """(n, F): not -1 for masked frames."""
    caption_ids: Tensor
    """(n, W'), the decoder's input."""
    caption_labels: Tensor
    """(n, W'), what it has to say next; 0 (padding) or -1 beyond the caption."""
    caption_mask: Tensor
    memory_ids: Tensor | None = None
    """(n, W''), the text that the decoder sees through the cross encoder, all of it real; None: that of the text
    encoder, which in retrieval is the very caption that it has to say."""
    sentiment: Tensor | None = None
    """(n,) float32."""

    def rows(self, chosen: slice) -> "UniVLBatch":
        """Some of the samples."""
        tensors = {field.name: getattr(self, field.name) for field in fields(self)}
        parts: dict[str, Any] = {name: None if t is None else t[chosen] for name, t in tensors.items()}
        return UniVLBatch(**parts)


class _Encoded(NamedTuple):
    """One view of the samples, clean or masked."""

    text: Tensor
    video: Tensor


class UniVL(nn.Module):
    """Four transformers under the official names; tied tables exist once, where they first appear."""

    def __init__(self, config: UniVLConfig) -> None:
        super().__init__()
        self.config = config
        self.bert, self.visual = TextEncoder(config), VisualEncoder(config)
        self.cross, self.decoder = CrossEncoder(config), Decoder(config)
        self.cls, self.cls_visual = Heads(config, config.vocabulary), Heads(config, config.video_dim)
        self.similarity_dense = nn.Linear(config.hidden, 1)
        self.normalize_video = nn.Module()
        self.normalize_video.visual_norm2d = WideLayerNorm(config.video_dim, EPS)
        if config.sentiment:
            self.sentiment = nn.Linear(config.hidden, 1)
        self.collectives: Collectives = Alone()
        self.micro_batches = 1
        """In how many parts a batch goes through the transformers. With several, what comes out is all that is kept,
        and the rest is computed again going backward: the losses see the whole batch, and memory holds a part."""
        self.apply(initialise)

    def forward(self, batch: UniVLBatch, names: Sequence[str]) -> dict[str, Tensor]:
        """The losses `names`, each summed over this batch (`loss_weights` says over how much)."""
        wanted, found = set(names), {}
        clean = masked = None
        if wanted & {"joint", "align", "decoder", "sentiment"}:
            clean = self._encode(batch.ids, batch.types, batch.mask, batch.video, batch.video_mask)
        if wanted & {"cmlm", "cmfm", "m_joint", "m_align", "m_decoder"}:
            masked = self._encode(batch.masked_ids, batch.types, batch.mask, batch.masked_video, batch.video_mask)
        for prefix, encoded in (("", clean), ("m_", masked)):
            if encoded is None:
                continue
            if f"{prefix}joint" in wanted:
                found[f"{prefix}joint"] = self._joint(encoded, batch)
            if f"{prefix}align" in wanted:
                found[f"{prefix}align"] = self._align(encoded, batch)
            each = ("cmlm", "cmfm", "m_decoder") if prefix else ("sentiment", "decoder")
            crossing = [name for name in each if name in wanted]
            if crossing:
                parts = in_parts(partial(self._crossed, crossing, encoded, batch), batch.ids, self.micro_batches)
                for name in crossing:
                    of_parts = [part[name] for part in parts]
                    whole = name == "cmfm"  # its negatives are the frames of all samples
                    found[name] = self._frames(torch.cat(of_parts), batch) if whole else torch.stack(of_parts).sum(0)
        return {name: found[name] for name in names}

    def _crossed(self, names: Sequence[str], encoded: _Encoded, whole: UniVLBatch, chosen: slice) -> dict[str, Tensor]:
        """The losses of some samples that need nothing of the others, summed; of `cmfm` the guesses."""
        batch, text, video = whole.rows(chosen), encoded.text[chosen], encoded.video[chosen]
        found = {}
        for name in [name for name in names if name.endswith("decoder") and batch.memory_ids is not None]:
            ids = cast(Tensor, batch.memory_ids)
            seen = self.memory(ids, torch.ones_like(ids), video, batch.video_mask, batch.ids.shape[1])
            found[name] = self._caption(*seen, batch)
        others = [name for name in names if name not in found]
        if not others:
            return found
        mask = torch.cat([batch.mask, batch.video_mask], 1)
        crossed = self.cross(text, video, mask)
        for name in others:
            if name == "cmlm":
                found[name] = self._words(crossed, batch)
            elif name == "cmfm":
                found[name] = self._guesses(crossed, batch)
            elif name == "sentiment":
                found[name] = self._sentiment(crossed, batch)
            else:
                found[name] = self._caption(crossed, mask, batch)
        return found

    def _encode(self, ids: Tensor, types: Tensor, mask: Tensor, video: Tensor, video_mask: Tensor) -> _Encoded:
        parts = in_parts(
            lambda rows: (
                self.encode_text(ids[rows], types[rows], mask[rows]),
                self.encode_video(video[rows], video_mask[rows]),
            ),
            ids,
            self.micro_batches,
        )
        return _Encoded(torch.cat([text for text, _ in parts]), torch.cat([video for _, video in parts]))

    def normalised(self, video: Tensor) -> Tensor:
        """(n, F, D) features of any scale -> layer-normalised ones, padding too."""
        found: Tensor = cast(WideLayerNorm, self.normalize_video.visual_norm2d)(video)
        return found

    def encode_text(self, ids: Tensor, types: Tensor, mask: Tensor) -> Tensor:
        """(n, W) each -> (n, W, H)."""
        encoded: Tensor = self.bert(ids, types, mask)
        return encoded

    def encode_video(self, video: Tensor, mask: Tensor) -> Tensor:
        """(n, F, D), (n, F) -> (n, F, H)."""
        features = F.dropout(self.normalised(video), self.config.feature_dropout, self.training)
        encoded: Tensor = self.visual(features, mask)
        return encoded

    def joint_vectors(self, text: Tensor, mask: Tensor, video: Tensor, video_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Encodings -> (n, H) of the texts and of the videos; their products are the joint scores."""
        vectors = mean_text(text, mask), mean_video(video, video_mask)
        if self.config.normalise_joint:
            return F.normalize(vectors[0], dim=1), F.normalize(vectors[1], dim=1)
        return vectors

    def similarity(self, text: Tensor, mask: Tensor, video: Tensor, video_mask: Tensor, most: int = 0) -> Tensor:
        """Encodings of k texts and m videos -> (k, m) scores of the cross encoder.

        `most`: of how many texts any worker has at this call. All of them then take as many turns, some perhaps empty:
        where weights are cut up among workers (ZeRO-3), each turn is a collective call.
        """
        texts = (*self.cross.projected(text, 0, 0), mask)
        videos = (*self.cross.projected(video, text.shape[1], 1), video_mask)
        rows = max(1, self.config.align_chunk // max(1, len(video)))
        most = max(most, len(text))
        again = torch.is_grad_enabled() and most > rows
        scores = []
        for start in range(0, max(1, most), rows):
            part = [tensor[start : start + rows] for tensor in texts]
            scores.append(
                checkpoint(self._scores, *part, *videos, use_reentrant=False) if again else self._scores(*part, *videos)
            )
        return torch.cat(scores).view(len(text), len(video))

    def _scores(self, *parts: Tensor) -> Tensor:
        """Texts and videos as `CrossEncoder.projected` gives them, each followed by its mask -> (k*m,)."""
        *text, text_mask, e, q, k, v, video_mask = parts
        pooled = self.cross.pooled_pairs(tuple(text), (e, q, k, v), text_mask, video_mask)
        scores: Tensor = self.similarity_dense(pooled)[:, 0]
        return scores

    def opinion(self, crossed: Tensor) -> Tensor:
        """Cross encodings (n, W+F, H) -> sentiment (n,), float32 at least."""
        return wide(self.sentiment(self.cross.pool(crossed))[:, 0])

    def _joint(self, encoded: _Encoded, batch: UniVLBatch) -> Tensor:
        vectors = self.joint_vectors(encoded.text, batch.mask, encoded.video, batch.video_mask)
        if self.config.joint_loss == "contrastive":
            return contrastive_loss(*vectors, self.config.temperature, self.collectives)
        return joint_loss(*vectors, self.config.margin, self.collectives)

    def _align(self, encoded: _Encoded, batch: UniVLBatch) -> Tensor:
        videos, start = self.collectives.gather(encoded.video)
        masks, _ = self.collectives.gather(batch.video_mask)
        counts, _ = self.collectives.gather(torch.tensor([len(batch.ids)], device=batch.ids.device))
        return align_loss(self.similarity(encoded.text, batch.mask, videos, masks, int(counts.max())), start)

    def _words(self, crossed: Tensor, batch: UniVLBatch) -> Tensor:
        at = batch.token_labels != NO_LABEL
        logits = self.cls.predictions(crossed[:, : at.shape[1]][at], self.bert.embeddings.word_embeddings.weight)
        return F.cross_entropy(wide(logits), batch.token_labels[at], reduction="sum")

    def _sentiment(self, crossed: Tensor, batch: UniVLBatch) -> Tensor:
        if batch.sentiment is None:
            raise ValueError("the loss 'sentiment' needs a batch with sentiments")
        return (self.opinion(crossed) - batch.sentiment).abs().sum()

    def _guesses(self, crossed: Tensor, batch: UniVLBatch) -> Tensor:
        """(k, D): what the masked frames are taken for."""
        at = batch.frame_labels != NO_LABEL
        states = crossed[:, crossed.shape[1] - at.shape[1] :][at]
        guesses: Tensor = self.cls_visual.predictions(states, self.visual.embeddings.word_embeddings.weight.T)
        return guesses

    def _frames(self, guesses: Tensor, batch: UniVLBatch) -> Tensor:
        where = (batch.frame_labels != NO_LABEL).flatten().nonzero()[:, 0]
        return frame_loss(guesses, where, self.normalised(batch.video), batch.video_mask, self.collectives)

    def caption_states(self, ids: Tensor, mask: Tensor, crossed: Tensor, memory_mask: Tensor) -> Tensor:
        """Decoder tokens (n, W') and the memory (n, W+F, H) -> (n, W', H)."""
        states: Tensor = self.decoder(ids, mask, self.bert.embeddings, crossed, memory_mask)
        return states

    def caption_logits(self, states: Tensor) -> Tensor:
        """(k, H) -> (k, V), float32 at least."""
        head = self.decoder.classifier.cls.predictions
        return wide(head(states, self.bert.embeddings.word_embeddings.weight))

    def memory(
        self, ids: Tensor, ids_mask: Tensor, video: Tensor, video_mask: Tensor, places: int
    ) -> tuple[Tensor, Tensor]:
        """Texts (n, W'') with their mask, and encoded videos -> what the decoder sees, and its mask.

        `places`: W, after which the frames' places begin, whatever W'' is.
        """
        mask = torch.cat([ids_mask, video_mask], 1)
        text = self.encode_text(ids, torch.zeros_like(ids), ids_mask)
        return self.cross(text, video, mask, places), mask

    def _caption(self, crossed: Tensor, memory_mask: Tensor, batch: UniVLBatch) -> Tensor:
        at = counted_words(batch, self.config.train_padding)
        states = self.caption_states(batch.caption_ids, batch.caption_mask, crossed, memory_mask)
        return F.cross_entropy(self.caption_logits(states[at]), batch.caption_labels[at], reduction="sum")

    def blocks(self) -> list[nn.Module]:
        """The modules that activation checkpointing may wrap."""
        return [module for module in self.modules() if isinstance(module, EncoderLayer | DecoderLayer)]

    COMPONENTS = ("text", "visual", "cross", "decoder", "heads")

    @staticmethod
    def component_of(parameter: str) -> str:
        """The part that a parameter's name belongs to."""
        part = parameter.split(".", maxsplit=1)[0]
        return {"bert": "text", "visual": "visual", "cross": "cross", "decoder": "decoder"}.get(part, "heads")


def counted_words(batch: UniVLBatch, train_padding: bool) -> Tensor:
    """(n, W') bool: which words the decoder's losses count."""
    at = batch.caption_labels != NO_LABEL
    return at if train_padding else at & (batch.caption_labels != PADDING)


def loss_weights(batch: UniVLBatch, config: UniVLConfig) -> dict[str, float]:
    """Over how much of this batch each loss is summed."""
    samples, words = float(len(batch.ids)), float(counted_words(batch, config.train_padding).sum())
    weights = dict.fromkeys(("joint", "align", "m_joint", "m_align", "sentiment"), samples)
    weights |= {"decoder": words, "m_decoder": words}
    weights["cmlm"] = float((batch.token_labels != NO_LABEL).sum())
    weights["cmfm"] = float((batch.frame_labels != NO_LABEL).sum())
    return weights
