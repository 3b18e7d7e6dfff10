"""A dual encoder in training and scoring: pixels and tokens in, named losses, similarities and answers out.

Shape legend: n samples of this worker, N of all, T frames, O texts a sample, X tokens a text, C classes, d the width
of the space that videos and texts share.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.backbones.hf.blocks import blocks_of
from models.backbones.hf.losses import contrastive, sigmoid
from models.backbones.hf.passes import Triple, dtype_of, standardised
from models.backbones.hf.towers import Towers, Video
from models.backbones.video_language import Setting, VideoLanguageBatch, VideoLanguageNetwork, answer_loss

PAIRS = {"contrastive": contrastive, "sigmoid": sigmoid}
_VIDEO = ("vision_model", "visual_projection", "mit", "prompts_visual_layernorm", "prompts_visual_projection")


class DualEncoder(VideoLanguageNetwork):
    """Two towers, and a head for answers or classes."""

    def __init__(self, towers: Towers, setting: Setting, statistics: tuple[Triple, Triple]) -> None:
        super().__init__()
        self.towers, self.kind, self.shift, self.statistics = towers, setting.kind, setting.shift, statistics
        width = towers.width
        if setting.kind == "open_ended":  # a linear map alone of both would not see how they go together
            self.head: nn.Module = nn.Sequential(
                nn.Linear(2 * width, width), nn.GELU(), nn.Linear(width, len(setting.classes))
            )
        elif setting.kind == "recognition":
            self.head = nn.Linear(width, len(setting.classes))
        else:
            self.head = nn.Identity()
        self.register_buffer("names", _table(setting) if setting.kind == "recognition" else None, persistent=False)

    def forward(self, batch: VideoLanguageBatch, names: Sequence[str]) -> dict[str, Tensor]:
        video, texts = self._encoded(batch)
        known = torch.ones_like(batch.answers, dtype=torch.bool)
        if self.kind == "multiple_choice":
            known = batch.answers >= 0
            own = texts[torch.arange(len(texts), device=texts.device), batch.answers.clamp(min=0)]
        else:
            own = texts
        found = {}
        for name in names:
            pairs = name.removeprefix("frame_")
            if pairs in PAIRS:
                everyone, _ = self.collectives.gather(own)
                logits = (
                    self.towers.scores(video, everyone)[:, None]
                    if pairs == name
                    else self.towers.frame_scores(video.frames, everyone)
                )
                found[name] = PAIRS[pairs](logits, known, self.collectives)
            elif name in ("mc", "names"):
                found[name] = answer_loss(self.towers.scores(video, texts), batch.answers)
            else:
                found[name] = answer_loss(self._headed(video, texts), batch.answers)
        return {name: loss + self._untouched(video, texts) for name, loss in found.items()}

    def _untouched(self, video: Video, texts: Tensor) -> Tensor:
        """Zero, by way of all weights: whichever losses are asked for, every weight then has a gradient."""
        one = Video(*(tensor[:1] for tensor in video))
        first = texts[:1].flatten(0, -2)[:1] if self.kind == "multiple_choice" else texts[:1]
        headed = self._headed(one, first).sum() if self.kind in ("open_ended", "recognition") else 0
        return 0 * (self.towers.scores(one, first).sum() + headed)

    def _encoded(self, batch: VideoLanguageBatch) -> tuple[Video, Tensor]:
        """The videos; and the texts: (n, d) of each sample, (n, O, d) of its options, or (C, d) of all classes."""

        def encode(rows: slice) -> tuple[Tensor, ...]:
            ids = batch.ids[rows]
            if self.kind == "recognition":
                return self._video(batch.frames[rows])
            if self.kind != "multiple_choice":
                return *self._video(batch.frames[rows]), self._texts(ids[:, 0])
            return *self._video(batch.frames[rows]), self._texts(ids.flatten(0, 1)).unflatten(0, ids.shape[:2])

        parts = [torch.cat(part) for part in zip(*self.in_parts(encode, batch.frames), strict=True)]
        texts = self._texts(cast(Tensor, self.names)) if self.kind == "recognition" else parts[3]
        return Video(*parts[:3]), texts

    def _video(self, frames: Tensor) -> Video:
        return self.towers.video(standardised(frames, self.statistics, dtype_of(self.towers)))

    def _texts(self, ids: Tensor) -> Tensor:
        mask = (ids != 0).long()
        # Columns of padding alone cost time, and towers that want them add them.
        longest = max(2, int(mask.sum(1).max())) if len(ids) else 2
        ids, mask = ids[:, :longest], mask[:, :longest]
        own = (ids - self.shift).masked_fill(mask == 0, self.towers.padding)
        return self.towers.texts(own, mask)

    def _headed(self, video: Video, texts: Tensor) -> Tensor:
        seen = F.normalize(video.vector, dim=-1)
        if self.kind == "open_ended":
            seen = torch.cat([seen, F.normalize(texts, dim=-1)], 1)
        logits: Tensor = self.head(seen)
        return logits

    def encode_videos(self, frames: Tensor, seeds: Tensor) -> tuple[Tensor, ...]:
        return tuple(self._video(frames))

    def encode_texts(self, ids: Tensor) -> tuple[Tensor, ...]:
        return (self._texts(ids),)

    def similarity(self, texts: tuple[Tensor, ...], videos: tuple[Tensor, ...]) -> Tensor:
        return self.towers.scores(Video(*videos), texts[0]).T

    def answer(self, batch: VideoLanguageBatch) -> Tensor:
        video, texts = self._encoded(batch)
        return self.towers.scores(video, texts) if self.kind == "multiple_choice" else self._headed(video, texts)

    def blocks(self) -> list[nn.Module]:
        return blocks_of(self)

    @staticmethod
    def component_of(parameter: str) -> str:
        parts = parameter.split(".")
        if parts[0] == "head" or parts[1] == "scale":
            return "heads"
        return "video" if parts[2] in _VIDEO else "text"


def _table(setting: Setting) -> Tensor:
    """(C, X): the names of all classes as texts."""
    first, last, _ = setting.special
    table = torch.zeros(len(setting.class_ids), setting.words, dtype=torch.long)
    for row, ids in zip(table, setting.class_ids, strict=True):
        text = (first, *ids[: setting.words - 2], last)
        row[: len(text)] = torch.tensor(text)
    return table
