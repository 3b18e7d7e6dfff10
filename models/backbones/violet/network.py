"""Violet: frames and texts in, named losses, similarities and answers out (Fu et al. 2021; MELTR, CVPR 2023).

Shape legend: n samples of this worker, N of all, T frames of h x w pixels, g x g cells, L = T * (1 + g*g) places of a
video, O texts a sample, X tokens a text, H hidden; k texts and m videos of which all pairs are taken.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from models.backbones.bert import initialise
from models.backbones.univl.config import UniVLConfig
from models.backbones.univl.encoders import TextEmbeddings
from models.backbones.univl.layers import Encoder, EncoderLayer, Transform, mask_bias
from models.backbones.univl.losses import align_loss, wide
from models.backbones.video_language import NO_LABEL, Setting, VideoLanguageBatch, VideoLanguageNetwork, answer_loss
from models.backbones.violet.config import PRIMARY, VioletConfig
from models.backbones.violet.swin import SwinBlock, VideoSwin

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the pixels, by channel; those of ImageNet."""
HEADS = {
    "vtm": "fc_vtm",
    "mc": "fc_mc",
    "oe": "fc_oe",
    "recognition": "fc_recognition",
    "mtm": "fc_mtm",
    "mvm": "fc_mvm",
}
"""The head of each loss; that of `vtm` is `fc` in pre-training and retrieval."""
MATCHING = "fc"


class VideoEncoder(nn.Module):
    """Frames to tokens: for each frame a learned one, then its cells row by row."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: VioletConfig) -> None:
        super().__init__()
        self.swin = VideoSwin(config)
        self.emb_cls, self.emb_pos, self.emb_len = (
            nn.Parameter(0.02 * torch.randn(shape))
            for shape in (
                (1, 1, 1, config.hidden),
                (1, 1, 1 + config.cell_positions, config.hidden),
                (1, config.frame_positions, 1, config.hidden),
            )
        )
        self.norm = nn.LayerNorm(config.hidden)
        for name, values in (("mean", MEAN), ("std", STD)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        """(n, T, 3, h, w) from 0 to 1 -> (n, L, H)."""
        pixels = ((frames - self.mean) / self.std).to(self.emb_cls.dtype)
        cells = self.swin(pixels.transpose(1, 2)).flatten(2, 3)
        tokens = torch.cat([self.emb_cls.expand(*cells.shape[:2], 1, -1), cells], 2)
        tokens = tokens + self.emb_pos[:, :, : tokens.shape[2]] + self.emb_len[:, : tokens.shape[1]]
        normed: Tensor = self.norm(tokens).flatten(1, 2)
        return normed


class TextEncoder(nn.Module):
    """BERT's embeddings alone: words meet in the cross encoder."""

    def __init__(self, bert: UniVLConfig) -> None:
        super().__init__()
        self.emb_txt = TextEmbeddings(bert)

    def forward(self, ids: Tensor) -> Tensor:
        """(k, X) -> (k, X, H)."""
        embedded: Tensor = self.emb_txt(ids, torch.zeros_like(ids))
        return embedded


class _Predictions(nn.Module):
    """BERT's scores of words, with a table and a bias of its own."""

    def __init__(self, bert: UniVLConfig) -> None:
        super().__init__()
        self.transform = Transform(bert)
        self.decoder = nn.Linear(bert.hidden, bert.vocabulary, bias=False)
        self.bias = nn.Parameter(torch.zeros(bert.vocabulary))

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.decoder(self.transform(x)) + self.bias
        return scores


class _Words(nn.Module):
    def __init__(self, bert: UniVLConfig) -> None:
        super().__init__()
        self.predictions = _Predictions(bert)

    def forward(self, x: Tensor) -> Tensor:
        """(k, H) -> (k, vocabulary)."""
        scores: Tensor = self.predictions(x)
        return scores


def _scorer(width: int, outputs: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Dropout(dropout), nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, outputs))


class Violet(VideoLanguageNetwork):
    """A Video Swin, and a BERT over its tokens and those of a text, under the official names."""

    def __init__(self, config: VioletConfig, setting: Setting) -> None:
        super().__init__()
        self.config, self.kind = config, setting.kind
        bert = UniVLConfig(  # whose layers are BERT's
            hidden=config.hidden,
            heads=config.heads,
            intermediate=config.intermediate,
            vocabulary=config.vocabulary,
            text_positions=config.text_positions,
            dropout=config.dropout,
        )
        self.enc_img, self.enc_txt = VideoEncoder(config), TextEncoder(bert)
        self.trsfr = Encoder(bert, config.layers)
        self.heads = {name: HEADS[name] for name in config.losses(setting.kind, setting.codes)}
        if setting.kind == "retrieval":
            self.heads["vtm"] = MATCHING
        outputs = {"mvm": config.codes, "oe": len(setting.classes), "recognition": len(setting.classes)}
        for loss, head in self.heads.items():
            dropout = config.answer_dropout if loss in ("oe", "recognition") else config.dropout
            one = _Words(bert) if loss == "mtm" else _scorer(config.hidden, outputs.get(loss, 1), dropout)
            self.add_module(head, one)
        self.apply(initialise)

    def forward(self, batch: VideoLanguageBatch, names: Sequence[str]) -> dict[str, Tensor]:
        wanted = set(names)
        parts = self.in_parts(partial(self._part, wanted, batch), batch.frames)
        found = {name: torch.stack([losses[name] for _, losses in parts]).sum(0) for name in wanted - {"vtm"}}
        if "vtm" in wanted:
            found["vtm"] = self.matching(torch.cat([videos for videos, _ in parts]), self._own_texts(batch))
        nothing = self.enc_img.emb_cls.new_zeros(0, self.config.hidden)
        for loss in [loss for loss in self.heads if loss not in wanted]:  # every head takes part, if only with no rows
            found[names[0]] = found[names[0]] + self._head(loss, nothing).sum()
        return {name: found[name] for name in names}

    def _part(self, wanted: set[str], whole: VideoLanguageBatch, rows: slice) -> tuple[Tensor, dict[str, Tensor]]:
        """Some samples -> their clean videos (n, L, H) for `vtm`, and their other losses, summed."""
        batch, primary = whole.rows(rows), PRIMARY[self.kind]
        found: dict[str, Tensor] = {}
        masked = clean = batch.frames.new_zeros(0)
        hides = self.config.released_masking
        if hides or wanted & {"mtm", "mvm"}:
            masked = self.enc_img(batch.masked_frames)
        if wanted & {"vtm", primary}:
            clean = masked if hides else self.enc_img(batch.frames)
        if primary in wanted - {"vtm"}:
            found[primary] = answer_loss(self._scores(clean, batch), batch.answers)
        if wanted & {"mtm", "mvm"}:
            crossed = self._crossed(masked, batch.masked_ids, batch.mask)
            if "mtm" in wanted:
                found["mtm"] = self._words(crossed, batch)
            if "mvm" in wanted:
                found["mvm"] = self._cells(crossed, batch)
        return clean, found

    def _head(self, loss: str, states: Tensor) -> Tensor:
        scores: Tensor = self.get_submodule(self.heads[loss])(states)
        return scores

    def encode_videos(self, frames: Tensor, seeds: Tensor) -> tuple[Tensor, ...]:
        return (self.enc_img(frames),)

    def encode_texts(self, ids: Tensor) -> tuple[Tensor, ...]:
        return self.enc_txt(ids), (ids != 0).long()

    def similarity(self, texts: tuple[Tensor, ...], videos: tuple[Tensor, ...], most: int = 0) -> Tensor:
        """-> (k, m).

        `most`: of how many videos any worker has at this call. All of them then take as many turns, some perhaps empty:
        where weights are cut up among workers (ZeRO-3), each turn is a collective call.
        """
        (words, mask), (video,) = texts, videos
        columns = max(1, min(self.config.pair_chunk, len(words)))
        rows = max(1, self.config.pair_chunk // columns)
        most = max(1, most, len(video))
        again = torch.is_grad_enabled() and (most > rows or len(words) > columns)
        strips = []
        for top in range(0, most, rows):
            strip = []
            for left in range(0, max(1, len(words)), columns):
                tile = (words[left : left + columns], mask[left : left + columns], video[top : top + rows])
                strip.append(checkpoint(self._pairs, *tile, use_reentrant=False) if again else self._pairs(*tile))
            strips.append(torch.cat(strip))
        return torch.cat(strips, 1)

    def _pairs(self, words: Tensor, mask: Tensor, video: Tensor) -> Tensor:
        """(k, X, H), (k, X), (m, L, H) -> (k, m)."""
        k, m = len(words), len(video)
        videos = video[None].expand(k, -1, -1, -1).flatten(0, 1)
        texts = words[:, None].expand(-1, m, -1, -1).flatten(0, 1)
        first = self._encode(videos, texts, mask.repeat_interleave(m, 0), first_only=True)
        return self._head("vtm", first[:, 0]).view(k, m)

    def matching(self, videos: Tensor, ids: Tensor) -> Tensor:
        """Videos (n, L, H) and their texts (n, X) -> the loss `vtm`: each video finds its text among all N."""
        texts, start = self.collectives.gather(ids)
        counts, _ = self.collectives.gather(torch.tensor([len(ids)], device=ids.device))
        scores = self.similarity(self.encode_texts(texts), (videos,), int(counts.max()))
        return align_loss(wide(scores).T / self.config.temperature, start)

    def answer(self, batch: VideoLanguageBatch) -> Tensor:
        if self.kind == "retrieval":
            return super().answer(batch)
        return self._scores(self.enc_img(batch.frames), batch)

    def _scores(self, videos: Tensor, batch: VideoLanguageBatch) -> Tensor:
        """(n, O) of the options, or (n, C) of the answers or classes, read off the text's [CLS]."""
        first = self._crossed(videos, batch.ids, batch.mask, first_only=True)
        scores = self._head(PRIMARY[self.kind], first[:, 0])
        return scores.view(batch.ids.shape[:2]) if self.kind == "multiple_choice" else scores

    def _crossed(self, videos: Tensor, ids: Tensor, mask: Tensor, first_only: bool = False) -> Tensor:
        """(n, L, H), (n, O, X) twice -> (n*O, X + L, H), the options of a sample one after the other."""
        words = self.enc_txt(ids.flatten(0, 1))
        return self._encode(videos.repeat_interleave(ids.shape[1], 0), words, mask.flatten(0, 1), first_only)

    def _encode(self, videos: Tensor, words: Tensor, mask: Tensor, first_only: bool = False) -> Tensor:
        """(p, L, H), (p, X, H), (p, X) -> (p, X + L, H), or with `first_only` the text's [CLS] alone, (p, 1, H).

        The official code has the video first. The order makes no difference, for no position is added here, and a
        layer can compute its first place alone.
        """
        x = torch.cat([words, videos], 1)
        bias = mask_bias(torch.cat([mask, mask.new_ones(videos.shape[:2])], 1), x.dtype)
        for number, layer in enumerate(self.trsfr.layer, start=1):
            x = layer(x, bias, first_only and number == self.config.layers)
        return x

    def _right(self, batch: VideoLanguageBatch) -> Tensor:
        """(n,): which of a sample's texts is its own; the first where no option is right."""
        right = batch.answers.clamp(min=0)
        return right if self.kind == "multiple_choice" else torch.zeros_like(right)

    def _own_texts(self, batch: VideoLanguageBatch) -> Tensor:
        """(n, X)."""
        return batch.ids[torch.arange(len(batch.ids), device=batch.ids.device), self._right(batch)]

    def _words(self, crossed: Tensor, batch: VideoLanguageBatch) -> Tensor:
        labels = batch.token_labels.flatten(0, 1)
        at = labels != NO_LABEL
        scores = self._head("mtm", crossed[:, : labels.shape[1]][at])
        return F.cross_entropy(wide(scores), labels[at], reduction="sum")

    def _cells(self, crossed: Tensor, batch: VideoLanguageBatch) -> Tensor:
        labels = F.pad(batch.cell_labels.flatten(2), (1, 0), value=NO_LABEL).flatten(1)
        at = labels != NO_LABEL
        options = batch.ids.shape[1]
        rows = torch.arange(len(labels), device=labels.device) * options + self._right(batch)
        scores = self._head("mvm", crossed[rows][:, crossed.shape[1] - labels.shape[1] :][at])
        return F.cross_entropy(wide(scores), labels[at], reduction="sum")

    def blocks(self) -> list[nn.Module]:
        return [module for module in self.modules() if isinstance(module, SwinBlock | EncoderLayer)]

    @staticmethod
    def component_of(parameter: str) -> str:
        part = parameter.split(".", maxsplit=1)[0]
        return {"enc_img": "video", "enc_txt": "text", "trsfr": "cross"}.get(part, "heads")
