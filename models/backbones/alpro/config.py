"""Sizes and loss settings of ALPRO; the defaults are the published model's."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from models.backbones.univl.config import UniVLConfig
from models.backbones.video_language import Kind, Setting, VideoLanguageConfig, VideoLanguageNetwork
from models.errors import UserError

TEXT_LAYERS = 6
"""The first layers of BERT, which see text alone (`fusion_layer` of the official code); the others see both."""
PROMPTS = tuple(
    f"A {what} of {article} {{}}."
    for what in ("footage", "video", "portrait", "video footage")
    for article in ("a", "the", "one")
)


class ALPROConfig(VideoLanguageConfig):
    """ALPRO; as published it has 231.17M parameters when it is fine-tuned for retrieval."""

    name: Literal["alpro"] = "alpro"
    frames: int = Field(default=8, ge=1)
    patch: int = Field(default=16, ge=1)
    """Pixels of a side of a patch, which is also a cell."""
    hidden: int = Field(default=768, ge=1)
    heads: int = Field(default=12, ge=1)
    intermediate: int = Field(default=3072, ge=1)
    video_layers: int = Field(default=12, ge=1)
    cross_layers: int = Field(default=6, ge=1)
    """Of BERT, after the six that see text alone."""
    positions: int = Field(default=512, ge=2)
    """Tokens of a text at most, [CLS] and [SEP] included."""
    joint: int = Field(default=256, ge=1)
    """Width of the vectors that texts and videos are compared by."""
    temperature: float = Field(default=0.07, ge=0.001, le=0.5)
    """What the learned temperature starts from; it never counts as less than 0.001 or more than 0.5."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """In BERT."""
    drop_path: float = Field(default=0.1, ge=0, lt=1)
    """Stochastic depth of the TimeSformer's last layer; it grows linearly from 0 in the first."""
    ranking: Literal["vtc", "vtm", "both"] = "vtm"
    """What ranks videos for a text: the contrastive similarity, which is cheap; the cross encoder's verdict on each
    pair, which is official; or the sum of the two as logits."""
    pairs_at_once: int = Field(default=128, ge=1)
    """Pairs that the cross encoder takes at a time when it ranks."""
    entities: str | None = None
    """A text file of entity names, one a line, numbers of occurrences after them left away: adds the loss `pem` to
    retrieval."""
    prompter: str | None = None
    """Weights of a prompter alone, in the official layout; else those inside `checkpoint` are taken."""
    prompts: tuple[str, ...] = Field(default=PROMPTS, min_length=1, strict=False)
    """Sentences for an entity, {} in its place; the prompter's vectors of them are averaged."""
    tokenizer: str = "minilm"
    """Of the prompts; its vocabulary must be that of the data's tokenizer."""
    entity_threshold: float = Field(default=0.2, ge=0, le=1)
    """Crops whose most likely entity is less likely than this teach nothing (section 3.3)."""

    COMPONENTS: ClassVar[tuple[str, ...]] = ("video", "text", "cross", "heads")
    BUILT: ClassVar[tuple[str, ...]] = ("checkpoint", "lora")

    @property
    def cell(self) -> int:
        return self.patch

    def losses(self, kind: Kind, codes: int) -> tuple[str, ...]:
        if self.entities is not None and kind != "retrieval":
            raise UserError(f"model.entities: pem is a loss of retrieval, not of {kind}; leave it out")
        names = {
            "retrieval": ("vtc", "vtm", "mlm"),
            "multiple_choice": ("mc", "mlm"),
            "open_ended": ("oe", "mlm"),
            "recognition": ("recognition",),
        }[kind]
        return names + ("pem",) * (self.entities is not None) + ("mvm",) * (codes > 0)

    def build(self, setting: Setting) -> VideoLanguageNetwork:
        from models.backbones.alpro.build import build

        return build(self, setting)

    def without_start(self) -> Self:
        return self.model_copy(update={"checkpoint": None, "prompter": None})

    def bert(self, vocabulary: int) -> UniVLConfig:
        """The sizes of BERT, for layers that it shares with UniVL."""
        return UniVLConfig(
            hidden=self.hidden,
            heads=self.heads,
            intermediate=self.intermediate,
            vocabulary=vocabulary,
            text_positions=self.positions,
            dropout=self.dropout,
        )

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.hidden % self.heads:
            raise ValueError(f"hidden={self.hidden} must be a multiple of heads={self.heads}")
        if self.image_size % self.patch:
            raise ValueError(f"image_size={self.image_size} must be a multiple of patch={self.patch}")
        if self.prompter is not None and self.entities is None:
            raise ValueError("prompter is of no use without entities; name their file")
        if self.entities is not None and self.prompter is None and self.checkpoint is None:
            raise ValueError("entities needs a trained prompter; name its weights by prompter, or by checkpoint")
        if wrong := [prompt for prompt in self.prompts if prompt.count("{}") != 1]:
            raise ValueError(f"prompts: {wrong[0]!r} must hold {{}} once, where the entity goes")
        return self
