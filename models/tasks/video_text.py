"""Retrieval, captioning and sentiment with UniVL: videos and texts -> named losses -> each task's own scores.

Shape legend: n samples, W words, F frames, D width of a frame's feature.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from models.backbones.univl.beam_search import BeamSearchConfig, beam_search
from models.backbones.univl.build import build
from models.backbones.univl.config import UniVLConfig
from models.backbones.univl.losses import wide
from models.backbones.univl.network import LOSSES, UniVL, UniVLBatch, loss_weights
from models.config import StrictConfig
from models.data.masking import masked_frames, masked_words
from models.data.tokens import Tokenizer, TokenTable
from models.data.videos import VideoTextSplit
from models.errors import UserError
from models.metrics.captioning import caption_scores
from models.metrics.retrieval import ranks, retrieval_scores
from models.metrics.sentiment import sentiment_scores

AT_ONCE = 32
Kind = Literal["retrieval", "captioning", "sentiment"]


class InputConfig(StrictConfig):
    """How videos and captions become the network's inputs."""

    tokenizer: str = "minilm"
    """WordPiece of a BERT-like model: `minilm`, a folder or a hub name."""
    max_words: int = Field(default=48, ge=3)
    """Tokens of a caption at most, [CLS] and [SEP] included."""
    sample: Literal["caption", "video"] = "caption"
    """What an epoch goes over: every caption with its video, or every video with one of its captions at random."""
    word_masking: float = Field(default=0.15, gt=0, lt=1)
    frame_masking: float = Field(default=0.15, gt=0, lt=1)
    transcripts: bool = False
    """Captioning: the encoders read what is said in the video, as published for YouCook2, and the decoder sees that
    and the video; the data must have it. Else they read the caption, and the decoder sees the video alone."""
    caption_leak: bool = False
    """Let the decoder see, through the encoders, the very caption that it has to say, as the released retrieval code
    does; else it sees the video and an empty text."""


class VideoTextTask:
    """Text-to-video retrieval, captioning, or the sentiment of an utterance.

    Sentiment has a loss of its own, the absolute error, and no decoder: there is nothing to say.
    """

    whole_batch = True

    def __init__(
        self,
        kind: Kind,
        model: UniVLConfig,
        inputs: InputConfig,
        search: BeamSearchConfig,
        splits: Mapping[str, VideoTextSplit],
        ranking: Literal["align", "joint"] = "align",
    ) -> None:
        """`ranking`: the loss whose scores rank the videos, the primary one of retrieval.

        Raises UserError for sizes of the model that do not fit the data."""
        self.kind, self.model, self.inputs, self.search, self.splits = kind, model, inputs, search, splits
        self.primary = {"retrieval": ranking, "captioning": "decoder", "sentiment": "sentiment"}[kind]
        without = ("decoder", "m_decoder") if kind == "sentiment" else ()
        own = ("sentiment",) if kind == "sentiment" else ()
        self.names = (*own, *(name for name in LOSSES if name not in without))
        self.tokenizer = Tokenizer(inputs.tokenizer)
        self.train = splits["train"]
        self.frames = max(split.frames.features.shape[1] for split in splits.values())
        self._check()
        self.captions = self.tokenizer.table([c.text for c in self.train.captions], inputs.max_words)
        self.transcripts = {name: self._spoken(split) for name, split in splits.items()} if inputs.transcripts else {}
        self.video_of = torch.tensor([caption.video for caption in self.train.captions])
        counts = torch.bincount(self.video_of, minlength=len(self.train))
        self.first_of = counts.cumsum(0) - counts  # captions are in the order of the videos
        self.captions_of = counts

    def _check(self) -> None:
        if not len(self.train):
            raise UserError("the training split is empty: there is nothing to train on")
        wanted = {
            "video_dim": self.train.frames.features.shape[2],
            "vocabulary": self.tokenizer.vocabulary,
        }
        for key, value in wanted.items():
            if (found := getattr(self.model, key)) != value:
                raise UserError(f"model.{key}={found}: the data has {value}; set model.{key}={value}")
        if self.inputs.transcripts and self.kind != "captioning":
            raise UserError(f"inputs.transcripts=true is for captioning; set it false for {self.kind}")
        if self.inputs.transcripts and self.train.transcripts is None:
            raise UserError("inputs.transcripts=true: the data has no transcripts; set it false, or use UniVL's files")
        if self.kind == "sentiment" and not self.model.sentiment:
            raise UserError("task=sentiment needs a network with a head for it: set model.sentiment=true")
        generated = self.search.max_words if self.kind == "captioning" else 0
        least = {
            "text_positions": max(self.inputs.max_words, generated),
            "visual_positions": self.frames,
            "cross_positions": self.inputs.max_words + self.frames,
        }
        for key, value in least.items():
            if getattr(self.model, key) < value:
                raise UserError(f"model.{key}={getattr(self.model, key)}: inputs take up to {value}; raise it")

    def _spoken(self, split: VideoTextSplit) -> TokenTable:
        return self.tokenizer.table(split.transcripts or [""] * len(split), self.inputs.max_words)

    def __len__(self) -> int:
        return len(self.train.captions) if self.inputs.sample == "caption" else len(self.train)

    def network(self) -> UniVL:
        """A freshly initialised network, from the weights that the configuration names."""
        return build(self.model)

    def drop_start(self) -> None:
        """From now on networks begin from random weights: theirs come from a checkpoint."""
        self.model = self.model.without_start()

    def pretrain(self, network: UniVL, seed: int, say: Callable[[str], None] | None = None) -> None:
        """Nothing: training is all there is."""

    def batch(self, indices: Sequence[int], device: torch.device, draw: int) -> UniVLBatch:
        """The training samples at `indices` (possibly none) on `device`, masked as `draw` has it."""
        rows = torch.tensor(indices, dtype=torch.long)
        if self.inputs.sample == "video":
            picks = torch.tensor([_pick(draw, number) for number in indices], dtype=torch.float64)
            rows = self.first_of[rows] + (picks * self.captions_of[rows]).long()
        videos = self.video_of[rows]
        said, said_lengths = self.captions.ids[rows].long(), self.captions.lengths[rows]
        words, lengths = said, said_lengths
        if self.transcripts:
            table = self.transcripts["train"]
            words, lengths = table.ids[videos].long(), table.lengths[videos]
        features, frame_mask = self._videos(self.train, videos)
        masked_ids, labels = masked_words(
            indices, draw, words, lengths, self.inputs.word_masking, self.tokenizer.mask, self.tokenizer.vocabulary
        )
        frame_labels = masked_frames(
            indices, draw, self.train.frames.counts[videos], self.frames, self.inputs.frame_masking
        )
        place = torch.arange(self.inputs.max_words)
        spoken = (place < said_lengths[:, None] - 1).long()  # [CLS] and the words
        following = said.roll(-1, 1) * spoken
        batch = {
            "ids": words,
            "types": torch.zeros_like(words),
            "mask": (place < lengths[:, None]).long(),
            "video": features,
            "video_mask": frame_mask,
            "masked_ids": masked_ids,
            "token_labels": labels,
            "masked_video": features.masked_fill((frame_labels != -1)[..., None], 0.0),
            "frame_labels": frame_labels,
            "caption_ids": said * spoken,
            "caption_labels": following,
            "caption_mask": spoken,
        }
        if not (self.inputs.caption_leak or self.transcripts):
            batch["memory_ids"] = self._nothing(len(rows))
        if self.train.labels is not None:
            batch["sentiment"] = self.train.labels[videos]
        return UniVLBatch(**{name: tensor.to(device) for name, tensor in batch.items()})

    def _nothing(self, count: int) -> Tensor:
        """(count, 2): empty texts."""
        return torch.tensor([[self.tokenizer.cls, self.tokenizer.sep]]).expand(count, -1)

    def _videos(self, split: VideoTextSplit, videos: Tensor) -> tuple[Tensor, Tensor]:
        """(n, F, D) float32 and (n, F), F being the most of any split."""
        features = split.frames.features[videos].float()
        padded = features.new_zeros(len(videos), self.frames, features.shape[2])
        padded[:, : features.shape[1]] = features
        return padded, (torch.arange(self.frames) < split.frames.counts[videos][:, None]).long()

    def weights(self, batch: UniVLBatch) -> dict[str, float]:
        """How much each loss of this batch counts."""
        return loss_weights(batch, self.model)

    def losses(
        self, network: Callable[..., Any], batch: UniVLBatch, names: Sequence[str]
    ) -> tuple[dict[str, Tensor], None]:
        """The losses `names`, each summed over this batch; nothing is kept for figures."""
        return network(batch, tuple(names)), None

    def figures(self, seen: None) -> dict[str, float | list[float]]:
        """None beside the losses."""
        return {}

    def component(self, parameter: str) -> str:
        """The part of the network that a parameter belongs to."""
        return UniVL.component_of(parameter)

    @torch.no_grad()
    def score_sums(self, network: UniVL, split: str, rank: int, workers: int) -> Tensor:
        """This worker's share of the ranks (texts, 2), of the generated token ids (videos, words) or of the predicted
        sentiments (videos,), zeros elsewhere.

        The network is put into evaluation mode for it.
        """
        training = network.training
        network.eval()
        try:
            score = {"retrieval": self._ranks, "captioning": self._generated, "sentiment": self._opinions}[self.kind]
            return score(network, split, rank, workers)
        finally:
            network.train(training)

    def _ranks(self, network: UniVL, name: str, rank: int, workers: int) -> Tensor:
        """Every worker encodes all videos and scores its share of the texts with each of them."""
        device, split = network.similarity_dense.weight.device, self.splits[name]
        found = torch.zeros(len(split.queries), 2, dtype=torch.float64)
        mine = torch.arange(len(split.queries))[rank::workers]
        if not len(mine):
            return found
        parts = [self._encoded(network, split, part, device) for part in torch.arange(len(split)).split(AT_ONCE)]
        video, video_mask = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        for part in mine.split(AT_ONCE):
            text, mask = self._texts(network, split, part, device)
            if self.primary == "joint":
                vectors = network.joint_vectors(text, mask, video, video_mask)
                scores = wide(vectors[0]) @ wide(vectors[1]).T
            else:
                scores = network.similarity(text, mask, video, video_mask)
            gold = torch.tensor([split.queries[number].video for number in part.tolist()])
            found[part] = ranks(scores.float().cpu(), gold).double()
        return found

    def _texts(
        self, network: UniVL, split: VideoTextSplit, queries: Tensor, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        table = self.tokenizer.table([split.queries[number].text for number in queries.tolist()], self.inputs.max_words)
        words = table.ids.long().to(device)
        mask = (torch.arange(self.inputs.max_words) < table.lengths[:, None]).long().to(device)
        return network.encode_text(words, torch.zeros_like(words), mask), mask

    def _opinions(self, network: UniVL, name: str, rank: int, workers: int) -> Tensor:
        device, split = network.similarity_dense.weight.device, self.splits[name]
        found = torch.zeros(len(split), dtype=torch.float64)
        for part in torch.arange(len(split))[rank::workers].split(AT_ONCE):
            text, mask = self._texts(network, split, part, device)
            video, video_mask = self._encoded(network, split, part, device)
            crossed = network.cross(text, video, torch.cat([mask, video_mask], 1))
            found[part] = network.opinion(crossed).double().cpu()
        return found

    def _encoded(
        self, network: UniVL, split: VideoTextSplit, videos: Tensor, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        features, mask = (tensor.to(device) for tensor in self._videos(split, videos))
        return network.encode_video(features, mask), mask

    def _generated(self, network: UniVL, name: str, rank: int, workers: int) -> Tensor:
        device, split = network.similarity_dense.weight.device, self.splits[name]
        found = torch.zeros(len(split), self.search.max_words, dtype=torch.float64)
        for part in torch.arange(len(split))[rank::workers].split(AT_ONCE):
            video, mask = self._encoded(network, split, part, device)
            words = self._nothing(len(part))
            words_mask = torch.ones_like(words)
            if self.transcripts:
                table = self.transcripts[name]
                words = table.ids[part].long()
                words_mask = (torch.arange(words.shape[1]) < table.lengths[part, None]).long()
            texts = words.to(device), words_mask.to(device)
            crossed, memory_mask = network.memory(*texts, video, mask, self.inputs.max_words)
            captions = beam_search(network, crossed, memory_mask, self.tokenizer.cls, self.tokenizer.sep, self.search)
            for number, hypotheses in zip(part.tolist(), captions, strict=True):
                ids = hypotheses[0].ids
                found[number, : len(ids)] = torch.tensor(ids, dtype=torch.float64)
        return found

    def scores(self, sums: Tensor, split: str) -> dict[str, float]:
        """R@1, R@5, R@10 (percent), MedR and MeanR; BLEU-1 to BLEU-4, METEOR, ROUGE-L, CIDEr (times 100); or what
        `sentiment_scores` gives."""
        if self.kind == "retrieval":
            return retrieval_scores(sums.round().long())
        if self.kind == "sentiment":
            labels = self.splits[split].labels
            return {} if labels is None or not len(labels) else sentiment_scores(sums, labels.double())
        texts = [self.tokenizer.text([id for id in row if id]) for row in sums.round().long().tolist()]
        found = self.splits[split]
        references = dict(zip(found.videos, found.references(), strict=True))
        # METEOR starts a Java process for seconds: not for every look at the validation split.
        return caption_scores(dict(zip(found.videos, texts, strict=True)), references, with_meteor=split == "test")

    def selected(self, scores: Mapping[str, float]) -> float:
        """The mean of R@1, R@5 and R@10; CIDEr; or minus the mean absolute error."""
        if self.kind == "sentiment":
            return -scores["MAE"]
        chosen = ("R@1", "R@5", "R@10") if self.kind == "retrieval" else ("CIDEr",)
        return sum(scores[name] for name in chosen) / len(chosen)


def _pick(draw: int, number: int) -> float:
    """From 0 to 1: which of its captions a video is given."""
    source = torch.Generator().manual_seed((draw * 1_000_003 + number) % 2**63)
    return float(torch.rand((), generator=source, dtype=torch.float64))
