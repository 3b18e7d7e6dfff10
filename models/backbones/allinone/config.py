"""Sizes and losses of All-in-one; the defaults are the published model's (ViT-B/16, 3 frames)."""

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator

from models.backbones.video_language import Kind, Setting, VideoLanguageConfig
from models.errors import UserError

if TYPE_CHECKING:
    from models.backbones.allinone.network import AllInOne

Component = Literal["embeddings", "transformer", "heads"]
Auxiliary = Literal["mlm", "vtm", "wpa", "irtr", "mvm"]
PRIMARY: dict[Kind, str] = {
    "retrieval": "itc",
    "multiple_choice": "mc",
    "open_ended": "oe",
    "recognition": "recognition",
}
POSSIBLE: dict[Kind, tuple[Auxiliary, ...]] = {
    "retrieval": ("mlm", "vtm", "wpa", "irtr", "mvm"),
    "multiple_choice": ("mlm", "mvm"),
    "open_ended": ("mlm", "vtm", "wpa", "mvm"),
    "recognition": ("mvm",),
}
"""Auxiliary losses that a kind of task can have; `mvm` only with visual tokens."""


class AllInOneConfig(VideoLanguageConfig):
    """All-in-one; as published it has 110M parameters and its heads."""

    COMPONENTS: ClassVar[tuple[Component, ...]] = ("embeddings", "transformer", "heads")
    BUILT: ClassVar[tuple[str, ...]] = ("checkpoint", "lora")

    name: Literal["allinone"] = "allinone"
    frames: int = Field(default=3, ge=1)
    hidden: int = Field(default=768, ge=1)
    layers: int = Field(default=12, ge=1)
    heads: int = Field(default=12, ge=1)
    intermediate: int = Field(default=3072, ge=1)
    patch: int = Field(default=16, ge=1)
    """Pixels of a side of the square patches; they are also the cells that masking hides."""
    text_positions: int = Field(default=40, ge=2)
    vocabulary: int = Field(default=30522, ge=1)
    text_from: str | None = None
    """A BERT-like `transformers` model (`minilm`, a folder or a hub name) that the embeddings of words start from; its
    width must be `hidden`."""
    shared: int = Field(default=512, ge=1)
    """Width of the vectors that retrieval compares."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    answer_dropout: float = Field(default=0.5, ge=0, lt=1)
    """Of what goes into the heads for answers and classes."""
    stochastic_depth: float = Field(default=0.1, ge=0, lt=1)
    """How often the last block's branches are left out in training; earlier ones less, the first one's never."""
    temperature: float = Field(default=0.05, gt=0)
    """Of the contrastive loss."""
    patch_order: Literal["random", "raster"] = "random"
    """In which order a frame's patches stand where frames exchange some of them. Random as published: which ones are
    exchanged then differs from frame to frame, and follows from the sample's seed."""
    auxiliary: tuple[Auxiliary, ...] | None = Field(default=None, strict=False)
    """Losses beside the task's own, in this order. Unless said: `mlm` where there are texts, as in MELTR, and `mvm`
    for recognition where there are visual tokens.

    mlm: masked words. vtm: does this text belong to this video. wpa: optimal transport between words and patches of
    the same pairs. irtr: which of several texts is the video's own. mvm: visual tokens of hidden patches (ours).
    """
    false_texts: int = Field(default=15, ge=1)
    """Texts of other samples that `irtr` puts beside the own one."""

    @property
    def cell(self) -> int:
        return self.patch

    def losses(self, kind: Kind, codes: int) -> tuple[str, ...]:
        """`itc`, `mc`, `oe` or `recognition`, then the auxiliary losses. MELTR's released branch lets `mlm` lead in
        retrieval, by the order of a table.

        Raises:
            UserError: the kind of task cannot have one of those that `auxiliary` names.
        """
        possible = tuple(name for name in POSSIBLE[kind] if codes or name != "mvm")
        if self.auxiliary is None:
            return (PRIMARY[kind], *(possible[:1] if kind == "recognition" else ("mlm",)))
        for name in self.auxiliary:
            if name not in possible:
                reason = "needs visual tokens" if name == "mvm" else f"is not for {kind}"
                raise UserError(f"model.auxiliary: {name!r} {reason}; possible here: {', '.join(possible) or 'none'}")
        return (PRIMARY[kind], *self.auxiliary)

    def build(self, setting: Setting) -> "AllInOne":
        from models.backbones.allinone.build import build

        return build(self, setting)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.hidden % self.heads:
            raise ValueError(f"hidden={self.hidden} must be a multiple of heads={self.heads}")
        if self.image_size % self.patch:
            raise ValueError(f"image_size={self.image_size} must be a multiple of patch={self.patch}")
        if self.auxiliary is not None and len(set(self.auxiliary)) < len(self.auxiliary):
            raise ValueError(f"auxiliary={self.auxiliary} names a loss twice")
        return self
