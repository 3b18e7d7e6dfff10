"""What every video-language backbone takes and gives: pixels and tokens in; named losses, similarities, answers out.

Shape legend: n samples, T frames of h x w pixels, O texts a sample (its options; else 1), X tokens a text, C classes;
each frame is a grid of g x g cells, the squares of pixels that masking hides and visual tokens stand for.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from models.backbones.checkpoints import fitted, read_checkpoint
from models.backbones.univl.losses import wide
from models.collectives import Alone, Collectives
from models.config import StrictConfig
from models.errors import UserError
from models.freezing import freeze
from models.lora import LoRAConfig
from models.recompute import in_parts

Kind = Literal["retrieval", "multiple_choice", "open_ended", "recognition"]
"""What is asked of a video: which text is its own; which of O texts answers; which of C answers is the answer to a
question; which of C classes it is of, without any text."""
NO_LABEL = -1
WORD_LOSSES, CELL_LOSSES, ANSWER_LOSSES = ("mtm", "mlm"), ("mvm",), ("mc", "oe", "recognition")
"""Losses that are means over masked words, over hidden cells, and over samples with a known answer; all others are
means over all samples."""


@dataclass(frozen=True)
class VideoLanguageBatch:
    """n samples, n possibly 0."""

    frames: Tensor
    """(n, T, 3, h, w) float32, RGB from 0 to 1; networks standardise them themselves."""
    hidden: Tensor
    """(n, T, g, g) bool: the cells that are black in the masked view of the frames."""
    cell_tokens: Tensor
    """(n, T, g, g) int64: the visual token of every cell, -1 where there is no tokenizer."""
    ids: Tensor
    """(n, O, X) int64: [CLS] text [SEP], then zeros. Empty texts ([CLS] [SEP]) where the data has none."""
    masked_ids: Tensor
    token_labels: Tensor
    """(n, O, X): the words under the mask, -1 elsewhere."""
    answers: Tensor
    """(n,) int64: the right option, answer or class; -1 where it is none of those known."""
    seeds: Tensor
    """(n,) int64, from 0 to below 2**62: whatever else a network draws for a sample must depend on its seed alone, so
    that no batch mate and no number of workers changes it."""

    @property
    def mask(self) -> Tensor:
        """(n, O, X) int64: 1 for tokens, 0 for padding."""
        return (self.ids != 0).long()

    @property
    def masked_frames(self) -> Tensor:
        """The frames with hidden cells black: (n, T, 3, h, w)."""
        cell = self.frames.shape[-1] // max(1, self.hidden.shape[-1])
        pixels = self.hidden.repeat_interleave(cell, -2).repeat_interleave(cell, -1)
        return self.frames.masked_fill(pixels[:, :, None], 0.0)

    @property
    def cell_labels(self) -> Tensor:
        """(n, T, g, g): the visual tokens of hidden cells, -1 elsewhere."""
        return self.cell_tokens.masked_fill(~self.hidden, NO_LABEL)

    def rows(self, chosen: slice) -> "VideoLanguageBatch":
        """Some of the samples."""
        return VideoLanguageBatch(**{field.name: getattr(self, field.name)[chosen] for field in fields(self)})


@dataclass(frozen=True)
class Setting:
    """What a network must fit beside its own sizes."""

    kind: Kind
    vocabulary: int
    """Ids of the tokenizer."""
    words: int
    """X, tokens of a text at most."""
    special: tuple[int, int, int]
    """Ids of [CLS], [SEP] and [MASK]; padding is 0."""
    classes: tuple[str, ...] = ()
    """C answers or classes by name; none for retrieval and multiple choice."""
    class_ids: tuple[tuple[int, ...], ...] = ()
    """Their tokens, without special ones: for networks that say an answer instead of choosing it."""
    codes: int = 0
    """How many visual tokens there are; 0: no tokenizer, and no loss that needs one."""
    shift: int = 0
    """How much more the batch's ids are than the tokenizer's own: 1 where its 0 is a word, as of CLIP."""
    padding: int = 0
    """The tokenizer's own id of padding."""


class VideoLanguageConfig(StrictConfig):
    """What the configurations of all video-language backbones have in common."""

    name: str
    """As recipes call it: one of the catalogue's, or MODULE:CLASS of a configuration like this one elsewhere."""
    frames: int = Field(default=4, ge=1)
    """Frames of a video that the network sees."""
    image_size: int = Field(default=224, ge=16)
    """Pixels of a side of the square frames."""
    checkpoint: str | None = None
    """Weights in the official layout to start from."""
    allow_missing_weights: bool = False
    """Start from a checkpoint that lacks some tensors or has others; those that it lacks keep their initial values."""
    frozen: tuple[str, ...] = Field(default=(), strict=False)
    """Parts (of COMPONENTS) whose weights stay as they are."""
    lora: LoRAConfig | None = None
    """Train low-rank matrices beside the attention's projections, and the heads, instead of all weights."""

    @model_validator(mode="after")
    def _trainable(self) -> Self:
        if unknown := [part for part in self.frozen if part not in self.COMPONENTS]:
            raise ValueError(f"frozen={unknown[0]!r} is no part; there are {', '.join(self.COMPONENTS)}")
        if set(self.frozen) == set(self.COMPONENTS):
            raise ValueError("frozen names every part; leave one to train")
        if self.frozen and self.lora is not None:
            raise ValueError("lora freezes every part by itself; leave frozen empty")
        if self.checkpoint is not None and getattr(self, "text_from", None) is not None:
            raise ValueError("checkpoint and text_from both say where the weights of texts come from; keep one")
        return self

    COMPONENTS: ClassVar[tuple[str, ...]]
    """The parts of the network, as `component_of` names them."""

    @property
    def cell(self) -> int:
        """Pixels of a side of a cell; divides `image_size`. A whole frame, unless the network has a grid."""
        return self.image_size

    @abstractmethod
    def losses(self, kind: Kind, codes: int) -> tuple[str, ...]:
        """The named losses of a kind of task, the primary one first; `codes` as in `Setting`.

        Raises:
            UserError: the network cannot do this kind of task.
        """

    @abstractmethod
    def build(self, setting: Setting) -> "VideoLanguageNetwork":
        """A network with initial weights; what of BUILT the class names is done too.

        Raises:
            UserError: the sizes do not fit the setting, or weights cannot be read or do not fit.
        """

    BUILT: ClassVar[tuple[str, ...]] = ()
    """Which of `checkpoint` and `lora` are the affair of `build`."""

    def network(self, setting: Setting) -> "VideoLanguageNetwork":
        """A network to train, from the weights that the configuration names.

        Raises:
            UserError: as `build` does; or a checkpoint is not of this network's own names.
        """
        network = self.build(setting)
        if self.checkpoint is not None and "checkpoint" not in self.BUILT:
            state = read_checkpoint(Path(self.checkpoint))
            allow = self.allow_missing_weights
            network.load_state_dict(fitted(network.state_dict(), state, self.checkpoint, (), allow))
        if self.lora is not None and "lora" not in self.BUILT:
            raise UserError(f"model.lora: {self.name} has no low-rank matrices; leave it out")
        if self.frozen:
            freeze(network, lambda name: network.component_of(name) in self.frozen)
        return network

    def weights(self, batch: VideoLanguageBatch, names: Sequence[str]) -> dict[str, float]:
        """Over how much of this batch each loss is summed: masked words, hidden cells, answers, or samples."""
        labels = dict.fromkeys(WORD_LOSSES, batch.token_labels) | dict.fromkeys(CELL_LOSSES, batch.cell_labels)
        labels |= dict.fromkeys(ANSWER_LOSSES, batch.answers)
        return {
            name: float((labels[name] != NO_LABEL).sum()) if name in labels else float(len(batch.frames))
            for name in names
        }

    def without_start(self) -> Self:
        """The same network without the weights that it starts from, for those who bring their own."""
        starts = {"checkpoint", "text_from"} & type(self).model_fields.keys()
        return self.model_copy(update=dict.fromkeys(starts))


def answer_loss(scores: Tensor, answers: Tensor) -> Tensor:
    """(n, C) and (n,) -> the summed cross entropy; samples without a known answer teach nothing."""
    return F.cross_entropy(wide(scores), answers, ignore_index=NO_LABEL, reduction="sum")


class VideoLanguageNetwork(nn.Module):
    """A backbone with the heads of one setting.

    Every loss is the sum over this worker's samples; what it compares them with are the samples of all workers
    (`collectives.gather`), so that the numbers do not depend on how a batch is cut up. All workers make the same calls
    of modules, also for no samples at all, and every trained parameter takes part in every call for all losses.
    """

    def __init__(self) -> None:
        super().__init__()
        self.collectives: Collectives = Alone()
        self.micro_batches = 1
        """In how many parts a batch goes through the network; see `in_parts`."""

    @abstractmethod
    def forward(self, batch: VideoLanguageBatch, names: Sequence[str]) -> dict[str, Tensor]:
        """The losses `names`, each summed over this batch (`VideoLanguageConfig.weights` says over how much)."""

    def encode_videos(self, frames: Tensor, seeds: Tensor) -> tuple[Tensor, ...]:
        """(m, T, 3, h, w), (m,) -> what `similarity` needs of each video: m first in each tensor."""
        raise NotImplementedError(f"{type(self).__name__} does not do retrieval")

    def encode_texts(self, ids: Tensor) -> tuple[Tensor, ...]:
        """(k, X) -> what `similarity` needs of each text: k first in each tensor."""
        raise NotImplementedError(f"{type(self).__name__} does not do retrieval")

    def similarity(self, texts: tuple[Tensor, ...], videos: tuple[Tensor, ...]) -> Tensor:
        """-> (k, m), higher for what belongs together."""
        raise NotImplementedError(f"{type(self).__name__} does not do retrieval")

    def answer(self, batch: VideoLanguageBatch) -> Tensor:
        """Scores of the options (n, O), or of the answers or classes (n, C)."""
        raise NotImplementedError(f"{type(self).__name__} does not answer questions")

    def blocks(self) -> list[nn.Module]:
        """The modules that activation checkpointing may wrap."""
        return []

    @staticmethod
    @abstractmethod
    def component_of(parameter: str) -> str:
        """The part, of the configuration's COMPONENTS, that a parameter's name belongs to."""

    def in_parts(self, compute: Callable[[slice], Any], samples: Tensor) -> list[Any]:
        """What `compute` gives for each micro-batch of the rows of `samples`, as `models.recompute.in_parts` does."""
        return in_parts(compute, samples, self.micro_batches)
