"""ALPRO: a batch in, its named losses out; and the encodings that ranking and answering need.

Shape legend: n samples of this worker, N of all workers, O texts a sample, X tokens a text, Y tokens of a video ([CLS]
and a mean over time for each of g x g places), H hidden, D joint width, C answers or classes, M entities.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.backbones.alpro.bert import TextEncoder
from models.backbones.alpro.config import TEXT_LAYERS, ALPROConfig
from models.backbones.alpro.losses import clamped, crops, entity_loss, hard_negatives, match_loss, uniform
from models.backbones.alpro.prompter import Prompter
from models.backbones.alpro.timesformer import Block, VideoEncoder
from models.backbones.univl.layers import EncoderLayer
from models.backbones.univl.losses import contrastive_loss, wide
from models.backbones.video_language import NO_LABEL, Setting, VideoLanguageBatch, VideoLanguageNetwork, answer_loss

CROSSED = ("vtm", "pem", "mlm", "mc", "oe")
"""Losses for which text and video go through the cross encoder."""
SEEN = ("vtc", *CROSSED, "recognition")
"""Losses of the frames as they are."""
READ = ("vtc", "vtm", "pem", "mc", "oe")
"""Losses of the texts as they are."""


class Candidates(NamedTuple):
    """The texts and videos of all workers, and which of them are put in the place of a sample's own."""

    texts: Tensor
    """(N, X, H)."""
    masks: Tensor
    """(N, X)."""
    videos: Tensor
    """(N, Y, H)."""
    other_text: Tensor
    """(n,)."""
    other_video: Tensor
    """(n,)."""


class ALPRO(VideoLanguageNetwork):
    """The parts that a kind of task trains, under the official names; the word table exists once."""

    def __init__(self, config: ALPROConfig, setting: Setting, entities: int = 0) -> None:
        """`entities`: M, how many the prompter knows; 0: there is none."""
        super().__init__()
        self.config, self.setting = config, setting
        hidden, kind = config.hidden, setting.kind
        self.visual_encoder = VideoEncoder(config)
        if kind == "recognition":
            self.recognition_head = nn.Linear(hidden, len(setting.classes))
        else:
            self.text_encoder = TextEncoder(config, setting.vocabulary)
        if kind == "retrieval":
            self.vision_proj, self.text_proj = (nn.Linear(hidden, config.joint) for _ in range(2))
            self.temp = nn.Parameter(torch.full((1,), config.temperature))
            self.itm_head = nn.Linear(hidden, 2)
            if entities:
                self.prompter = Prompter(config, setting.vocabulary, entities)
                self.mpm_head = _mlp(hidden, entities)
        elif kind != "recognition":
            self.classifier = _mlp(hidden, len(setting.classes) if kind == "open_ended" else 1)
        if setting.codes:
            self.mvm_head = nn.Linear(hidden, setting.codes)

    def forward(self, batch: VideoLanguageBatch, names: Sequence[str]) -> dict[str, Tensor]:
        wanted = set(names)
        found: dict[str, Tensor] = {}
        video = text = batch.frames.new_zeros(0)
        if wanted & set(SEEN):
            video = torch.cat(self.in_parts(lambda rows: self.visual_encoder(batch.frames[rows]), batch.frames))
        if wanted & set(READ):
            text = torch.cat(self.in_parts(lambda rows: self._read(batch.ids[rows], batch.mask[rows]), batch.frames))
        if "vtc" in wanted:
            vectors = self._vectors(text[:, 0], video)
            scaled = vectors[1] / clamped(self.temp)
            found["vtc"] = contrastive_loss(vectors[0], scaled, 1.0, self.collectives)
        if "recognition" in wanted:
            found["recognition"] = answer_loss(self.recognition_head(video[:, 0]), batch.answers)
        crossing = [name for name in names if name in CROSSED]
        if crossing:
            others = self._candidates(batch, text[:, 0], video) if "vtm" in wanted else None
            crop = crops(batch.seeds, batch.hidden.shape[-1]) if "pem" in wanted else None
            labels = self._entities(batch.frames, crop) if crop is not None else None
            compute = partial(self._crossed, crossing, batch, text, video, others, crop, labels)
            parts = self.in_parts(compute, batch.frames)
            found |= {name: torch.stack([part[name] for part in parts]).sum(0) for name in crossing}
        if "mvm" in wanted:
            found["mvm"] = torch.stack(self.in_parts(lambda rows: self._cells(batch.rows(rows)), batch.frames)).sum(0)
        return {name: found[name] for name in names}

    def _crossed(
        self,
        names: Sequence[str],
        whole: VideoLanguageBatch,
        text: Tensor,
        video: Tensor,
        others: Candidates | None,
        crop: Tensor | None,
        labels: Tensor | None,
        rows: slice,
    ) -> dict[str, Tensor]:
        """The losses of some samples that need nothing of the others but `others`, summed."""
        batch, text, video = whole.rows(rows), text[rows], video[rows]
        found, bert = {}, self.text_encoder.bert
        if others is not None or crop is not None:
            mask = batch.mask[:, 0]
            own = bert.fuse(text[:, 0], mask, video, first_only=crop is None)
            if others is not None:
                chosen = others._replace(other_text=others.other_text[rows], other_video=others.other_video[rows])
                found["vtm"] = self.match(own[:, 0], text[:, 0], mask, video, chosen)
            if crop is not None and labels is not None:
                inside = crop[rows].flatten(1).to(own.dtype)
                places = own[:, text.shape[2] + 1 :]
                mean = (places * inside[..., None]).sum(1) / inside.sum(1, keepdim=True)
                found["pem"] = entity_loss(self.mpm_head(mean), labels[rows], self.config.entity_threshold)
        for name in names:
            if name == "mlm":
                found[name] = self._words(batch, video)
            elif name in {"mc", "oe"}:
                found[name] = answer_loss(self._judge(text, batch.mask, video), batch.answers)
        return found

    def match(self, own: Tensor, text: Tensor, mask: Tensor, video: Tensor, others: Candidates) -> Tensor:
        """Video-text matching (section 3.2): states at [CLS] (n, H) of the samples' pairs; their texts (n, X, H) with
        masks (n, X) and videos (n, Y, H), which are paired with the others that `others` names."""
        swapped = [
            (text, mask, others.videos[others.other_video]),
            (others.texts[others.other_text], others.masks[others.other_text], video),
        ]
        fuse = self.text_encoder.bert.fuse
        logits = [self.itm_head(fuse(*pair, first_only=True)[:, 0]) for pair in swapped]
        return match_loss(self.itm_head(own), logits if len(others.texts) > 1 else [])

    def _candidates(self, batch: VideoLanguageBatch, text: Tensor, video: Tensor) -> Candidates:
        """Hard negatives, by how likely a sample is taken for another: the official code draws them from the worker's
        own samples, here they come from all workers'."""
        gather = self.collectives.gather
        texts, start = gather(text)
        (masks, _), (videos, _), (seeds, _) = gather(batch.mask[:, 0]), gather(video), gather(batch.seeds)
        # Detached rather than without gradient: draws take no part in forward-mode derivatives either.
        of_text, of_video = (vectors.detach() for vectors in self._vectors(text, video))
        all_texts, all_videos = gather(of_text)[0], gather(of_video)[0]
        own = start + torch.arange(len(text), device=text.device)
        draws, temperature = uniform(batch.seeds, 2), clamped(self.temp).detach()
        other_video = hard_negatives(of_text @ all_videos.T / temperature, own, seeds, draws[:, 0])
        other_text = hard_negatives(of_video @ all_texts.T / temperature, own, seeds, draws[:, 1])
        return Candidates(texts, masks, videos, other_text, other_video)

    def _entities(self, frames: Tensor, crop: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat(self.in_parts(lambda rows: self.prompter(frames[rows], crop[rows]), frames))

    def _words(self, batch: VideoLanguageBatch, video: Tensor) -> Tensor:
        text, labels = self._read(batch.masked_ids, batch.mask).flatten(0, 1), batch.token_labels.flatten(0, 1)
        mask, video = batch.mask.flatten(0, 1), video.repeat_interleave(batch.ids.shape[1], 0)
        at = labels != NO_LABEL
        states = self.text_encoder.bert.fuse(text, mask, video)[:, : at.shape[1]][at]
        return F.cross_entropy(wide(self.text_encoder.words(states)), labels[at], reduction="sum")

    def _cells(self, batch: VideoLanguageBatch) -> Tensor:
        """Guesses the hidden cells' visual tokens from what the video encoder makes of the others."""
        labels = batch.cell_labels.flatten(2)
        at = labels != NO_LABEL
        states = self.visual_encoder.model(batch.masked_frames)[1].transpose(1, 2)[at]
        return F.cross_entropy(wide(self.mvm_head(states)), labels[at], reduction="sum")

    def _read(self, ids: Tensor, mask: Tensor) -> Tensor:
        """(n, O, X) each -> (n, O, X, H)."""
        states = self.text_encoder.bert(ids.flatten(0, 1), mask.flatten(0, 1))
        read: Tensor = states.unflatten(0, ids.shape[:2])
        return read

    def _vectors(self, text: Tensor, video: Tensor) -> tuple[Tensor, Tensor]:
        """(n, X, H) and (n, Y, H) -> unit vectors (n, D) each."""
        return self._vector(self.text_proj, text), self._vector(self.vision_proj, video)

    @staticmethod
    def _vector(project: nn.Module, states: Tensor) -> Tensor:
        return F.normalize(wide(project(states[:, 0])), dim=-1)

    def _judge(self, text: Tensor, mask: Tensor, video: Tensor) -> Tensor:
        """(n, O, X, H) with masks (n, O, X), and (n, Y, H) -> scores of the options (n, O), or answers (n, C)."""
        options = text.shape[1]
        states = self.text_encoder.bert.fuse(
            text.flatten(0, 1), mask.flatten(0, 1), video.repeat_interleave(options, 0), first_only=True
        )
        scores: Tensor = self.classifier(states[:, 0])
        return scores if self.setting.kind == "open_ended" else scores.view(len(text), options)

    def encode_videos(self, frames: Tensor, seeds: Tensor) -> tuple[Tensor, ...]:
        """-> unit vectors (m, D) and tokens (m, Y, H)."""
        video = self.visual_encoder(frames)
        return self._vector(self.vision_proj, video), video

    def encode_texts(self, ids: Tensor) -> tuple[Tensor, ...]:
        """-> unit vectors (k, D), states (k, X, H) and masks (k, X)."""
        mask = (ids != 0).long()
        text = self.text_encoder.bert(ids, mask)
        return self._vector(self.text_proj, text), text, mask

    def similarity(self, texts: tuple[Tensor, ...], videos: tuple[Tensor, ...]) -> Tensor:
        """-> (k, m): by `ranking` cosines over the temperature, log-odds of a match, or their sum.

        The official code ranks by the probability of a match, which orders as its log-odds do.
        """
        (of_text, text, mask), (of_video, video) = texts, videos
        cosines = of_text @ of_video.T / clamped(self.temp)
        if self.config.ranking == "vtc":
            return cosines
        pairs = torch.cartesian_prod(*(torch.arange(len(part), device=part.device) for part in (text, video)))
        odds = []
        for row, column in (part.unbind(1) for part in pairs.split(self.config.pairs_at_once)):
            states = self.text_encoder.bert.fuse(text[row], mask[row], video[column], first_only=True)
            logits = wide(self.itm_head(states[:, 0]))
            odds.append(logits[:, 1] - logits[:, 0])
        matching = torch.cat(odds).view(len(text), len(video))
        return matching if self.config.ranking == "vtm" else matching + cosines

    def answer(self, batch: VideoLanguageBatch) -> Tensor:
        if self.setting.kind == "retrieval":
            return super().answer(batch)
        video = self.visual_encoder(batch.frames)
        if self.setting.kind == "recognition":
            scores: Tensor = self.recognition_head(video[:, 0])
            return scores
        return self._judge(self._read(batch.ids, batch.mask), batch.mask, video)

    def blocks(self) -> list[nn.Module]:
        trained = [part for name, part in self.named_modules() if not name.startswith("prompter.")]
        return [part for part in trained if isinstance(part, Block | EncoderLayer)]

    @staticmethod
    def component_of(parameter: str) -> str:
        if parameter.startswith("visual_encoder."):
            return "video"
        if not parameter.startswith("text_encoder.bert."):
            return "heads"
        place = parameter.split(".")
        return "cross" if place[2] == "encoder" and int(place[4]) >= TEXT_LAYERS else "text"


def _mlp(hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(hidden, 2 * hidden), nn.ReLU(), nn.Linear(2 * hidden, outputs))
