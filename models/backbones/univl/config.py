"""Sizes and loss settings of UniVL; the defaults are the published model's."""

from typing import Literal, Self

from pydantic import Field, model_validator

from models.config import StrictConfig
from models.lora import LoRAConfig


class UniVLConfig(StrictConfig):
    """UniVL; as published it has 199.54M parameters."""

    name: Literal["univl"] = "univl"
    hidden: int = Field(default=768, ge=1)
    heads: int = Field(default=12, ge=1)
    intermediate: int = Field(default=3072, ge=1)
    text_layers: int = Field(default=12, ge=1)
    visual_layers: int = Field(default=6, ge=1)
    cross_layers: int = Field(default=2, ge=1)
    decoder_layers: int = Field(default=3, ge=1)
    video_dim: int = Field(default=1024, ge=1)
    """Width of a frame's feature."""
    vocabulary: int = Field(default=30522, ge=1)
    text_positions: int = Field(default=512, ge=2)
    """Also the decoder's: they share one table."""
    visual_positions: int = Field(default=512, ge=1)
    cross_positions: int = Field(default=1024, ge=3)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    frozen: tuple[Literal["text", "visual", "cross", "decoder", "heads"], ...] = Field(default=(), strict=False)
    """Parts whose weights stay as they are; the text part holds the word table that decoder and heads share."""
    lora: LoRAConfig | None = None
    """Train low-rank matrices beside the attention's queries and values, and small heads, instead of all weights."""
    checkpoint: str | None = None
    """Weights in the official layout to start from: univl.pretrained.bin, safetensors, or an export's folder."""
    allow_missing_weights: bool = False
    """Start from a checkpoint that lacks some tensors or has others; those that it lacks keep their initial values."""
    text_from: str | None = None
    """A BERT-like `transformers` model (`minilm`, a folder or a hub name) whose embeddings and first layers the text
    encoder starts from; its width must be `hidden`."""
    sentiment: bool = False
    """Whether there is a head for sentiment, which no official checkpoint has."""
    feature_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Of the normalised frame features' entries; none as published. Few videos and wide features overfit without."""
    joint_loss: Literal["margin", "contrastive"] = "margin"
    """Max-margin as published in the fine-tuning, or the softmax over the batch's pairs (InfoNCE), both ways."""
    margin: float = Field(default=0.1, ge=0)
    """Of the max-margin joint losses."""
    temperature: float = Field(default=0.05, gt=0)
    """Of the contrastive joint losses."""
    normalise_joint: bool = True
    """Compare unit vectors in the joint losses (the official switch `use_mil` turns it off)."""
    train_padding: bool = False
    """Whether the decoder also learns to predict padding, as the official code does."""
    align_chunk: int = Field(default=128, ge=1)
    """Pairs of a text and a video that the cross encoder takes at once; more are computed again going backward."""

    def without_start(self) -> Self:
        """The same network without the weights that it starts from, for those who bring their own."""
        return self.model_copy(update={"checkpoint": None, "text_from": None})

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.hidden % self.heads:
            raise ValueError(f"hidden={self.hidden} must be a multiple of heads={self.heads}")
        if len(set(self.frozen)) == 5:
            raise ValueError("frozen names every part; leave one to train")
        if self.frozen and self.lora is not None:
            raise ValueError("lora freezes every part by itself; leave frozen empty")
        if self.checkpoint is not None and self.text_from is not None:
            raise ValueError("checkpoint and text_from both say where the text encoder's weights come from; keep one")
        return self
