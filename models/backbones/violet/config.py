"""Sizes and loss settings of Violet; the defaults are the published model's."""

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator

from models.backbones.video_language import Kind, Setting, VideoLanguageConfig

if TYPE_CHECKING:
    from models.backbones.violet.network import Violet

PRIMARY: dict[Kind, str] = {
    "retrieval": "vtm",
    "multiple_choice": "mc",
    "open_ended": "oe",
    "recognition": "recognition",
}
CELL = 32
"""Pixels of a side of what the Swin's last stage makes one feature of: a patch of 4, halved three times."""


class VioletConfig(VideoLanguageConfig):
    """Violet; as published it has 197.58M parameters for retrieval."""

    name: Literal["violet"] = "violet"
    frames: int = Field(default=5, ge=1)
    embed_dim: int = Field(default=96, ge=1)
    """Channels of the Swin's first stage, doubled by each further one; 8 times as many is the width of all else."""
    depths: tuple[int, int, int, int] = Field(default=(2, 2, 18, 2), strict=False)
    """Blocks of each stage."""
    swin_heads: tuple[int, int, int, int] = Field(default=(3, 6, 12, 24), strict=False)
    window: tuple[int, int, int] = Field(default=(8, 7, 7), strict=False)
    """Frames, rows and columns of patches that attend to each other."""
    layers: int = Field(default=12, ge=1)
    """Of the cross encoder, a BERT."""
    heads: int = Field(default=12, ge=1)
    intermediate: int = Field(default=3072, ge=1)
    vocabulary: int = Field(default=30522, ge=1)
    text_positions: int = Field(default=512, ge=2)
    frame_positions: int = Field(default=6, ge=1)
    """Rows of the table of frames; `frames` may be fewer."""
    cell_positions: int = Field(default=196, ge=1)
    """Cells of a frame in the table of places; a frame may have fewer."""
    codes: int = Field(default=8192, ge=1)
    """Visual tokens that the head of `mvm` can name; a tokenizer may have fewer."""
    text_from: str | None = None
    """A BERT-like `transformers` model (`minilm`, a folder or a hub name) that the embeddings and the cross encoder
    start from, as in the published pre-training; its width must be 8 * embed_dim."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Of the BERT and the heads."""
    answer_dropout: float = Field(default=0.5, ge=0, lt=1)
    """Of the heads that choose among answers or classes."""
    stochastic_depth: float = Field(default=0.2, ge=0, lt=1)
    """How often the Swin's last block is skipped in training; earlier ones are so less, linearly."""
    temperature: float = Field(default=0.05, gt=0)
    """Of the softmax over texts in `vtm`."""
    pair_chunk: int = Field(default=64, ge=1)
    """Pairs of a text and a video that the cross encoder takes at once; more are computed again going backward."""
    released_masking: bool = False
    """Compute all losses from masked frames, as the released code does; else only `mtm` and `mvm` see them."""
    released_windows: bool = False
    """In windows of fewer than 7 x 7 patches (never at 224 pixels), take the bias of the first positions of a full
    window, as the released code does; else that of the patches' true distances."""

    COMPONENTS: ClassVar[tuple[str, ...]] = ("video", "text", "cross", "heads")
    BUILT: ClassVar[tuple[str, ...]] = ("checkpoint", "lora")

    @property
    def cell(self) -> int:
        return CELL

    @property
    def hidden(self) -> int:
        """H, the width of the cross encoder."""
        return 8 * self.embed_dim

    def losses(self, kind: Kind, codes: int) -> tuple[str, ...]:
        """Matching of videos and texts (`vtm`), masked words (`mtm`) and hidden cells (`mvm`), after the primary one.

        Violet has no recognition of its own: here a head reads the class off the [CLS] of an empty text, so that there
        are no words to match or to mask.
        """
        matching = () if kind == "recognition" else ("vtm", "mtm")
        return tuple(dict.fromkeys((PRIMARY[kind], *matching, *(("mvm",) if codes else ()))))

    def build(self, setting: Setting) -> "Violet":
        from models.backbones.violet.build import build  # the network needs this module

        return build(self, setting)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.image_size % CELL:
            raise ValueError(f"image_size={self.image_size} must be a multiple of {CELL}, the side of a cell")
        cells = (self.image_size // CELL) ** 2
        if cells > self.cell_positions:
            raise ValueError(f"image_size={self.image_size} makes {cells} cells; cell_positions={self.cell_positions}")
        if self.frames > self.frame_positions:
            raise ValueError(f"frames={self.frames} must be at most frame_positions={self.frame_positions}")
        if self.hidden % self.heads:
            raise ValueError(f"8 * embed_dim = {self.hidden} must be a multiple of heads={self.heads}")
        if min(*self.depths, *self.swin_heads, *self.window) < 1:
            raise ValueError("depths, swin_heads and window must be at least 1 everywhere")
        for stage, heads in enumerate(self.swin_heads):
            if (width := self.embed_dim * 2**stage) % heads:
                raise ValueError(
                    f"swin_heads={self.swin_heads}: stage {stage} has {width} channels, no multiple of {heads}"
                )
        return self
