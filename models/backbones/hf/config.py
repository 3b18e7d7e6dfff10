"""Which model of `transformers` a recipe asks for, and what it is trained to do."""

from typing import Any, ClassVar, Literal

from pydantic import Field

from models.backbones.hf.passes import Triple
from models.backbones.hf.source import CLIP, HALF, IMAGENET, SourceConfig
from models.backbones.hf.towers import CLIPS, SIGLIPS, XCLIP
from models.backbones.video_language import Kind, Setting, VideoLanguageNetwork
from models.errors import UserError

VIDEOMAE = "videomae"
QWENS, LLAVA = ("qwen2_vl", "qwen2_5_vl"), "llava"


class DualEncoderConfig(SourceConfig):
    """CLIP, MetaCLIP 2, Chinese-CLIP, SigLIP, SigLIP 2, X-CLIP; and VideoMAE, which has no text tower."""

    name: Literal["hf"] = "hf"
    hidden_share: float = Field(default=0.9, gt=0, lt=1)
    """Of VideoMAE's tubes, what the encoder does not see where it learns to reconstruct them."""

    COMPONENTS: ClassVar[tuple[str, ...]] = ("video", "text", "heads")
    BUILT: ClassVar[tuple[str, ...]] = ("checkpoint", "lora")

    @property
    def cell(self) -> int:
        """The model's patches, where they divide the image; else the whole image."""
        made = self.of_transformers()
        return _cell(getattr(made, "vision_config", made).patch_size, self.image_size)

    @property
    def published(self) -> tuple[Triple, Triple]:
        found = dict.fromkeys(CLIPS, CLIP) | dict.fromkeys(SIGLIPS, HALF) | dict.fromkeys((XCLIP, VIDEOMAE), IMAGENET)
        return found[self._checked()]

    def _checked(self) -> str:
        family, families = self.family, (*CLIPS, *SIGLIPS, XCLIP, VIDEOMAE)
        if family not in families:
            raise UserError(f"{self.where}: is of type {family!r}; expected {', '.join(families)}")
        return family

    def _filled(self, setting: Setting | None) -> dict[str, Any]:
        if self._checked() == VIDEOMAE:
            return {"image_size": self.image_size, "num_frames": self.frames} | self.architecture
        filled = super()._filled(setting)
        if self.family == XCLIP:
            filled["vision_config"].setdefault("num_frames", self.frames)
        if self.family == "siglip2":  # which has a number of places instead of a size
            size, vision = filled["vision_config"].pop("image_size"), filled["vision_config"]
            vision.setdefault("num_patches", (size // vision.get("patch_size", 16)) ** 2)
        return filled

    def losses(self, kind: Kind, codes: int) -> tuple[str, ...]:
        """Retrieval and questions: the pairs of videos and texts as the model was pre-trained on, `contrastive`, or
        SigLIP's `sigmoid`; the same with the single frames in the video's place; and what the kind of task asks."""
        family = self._checked()
        if family == VIDEOMAE:
            if kind != "recognition":
                raise UserError(f"{self.where}: {family} has no text tower, and cannot do {kind}; it does recognition")
            return ("recognition", "reconstruction", "mvm") if codes else ("recognition", "reconstruction")
        pairs = "sigmoid" if family in SIGLIPS else "contrastive"
        return {
            "retrieval": (pairs, f"frame_{pairs}"),
            "multiple_choice": ("mc", pairs),
            "open_ended": ("oe", pairs),
            "recognition": ("recognition", "names"),
        }[kind]

    def build(self, setting: Setting) -> VideoLanguageNetwork:
        from models.backbones.hf import build  # it imports the networks, which recipes alone do not need

        names = self.losses(setting.kind, setting.codes)
        return build.masked_autoencoder(self, setting) if "reconstruction" in names else build.dual(self, setting)


class GenerativeConfig(SourceConfig):
    """Language models that see: Qwen2-VL, Qwen2.5-VL and LLaVA."""

    name: Literal["vlm"] = "vlm"
    prompt: str | None = None
    """What the model reads before its answer, with {video} and {question}; by default the family's for a source with a
    tokenizer, and else nothing but these two."""
    prompt_ids: tuple[tuple[int, ...], ...] = Field(default=(), strict=False)
    """The same as tokens: before the video, between it and the question, and after that. Filled in from `prompt`."""
    temperature: float = Field(default=0.05, gt=0)
    """Of the contrastive loss."""
    rows_at_once: int = Field(default=256, ge=1)
    """Tokens whose words are looked at together when answers are scored."""

    COMPONENTS: ClassVar[tuple[str, ...]] = ("video", "language")
    BUILT: ClassVar[tuple[str, ...]] = ("checkpoint", "lora")

    @property
    def cell(self) -> int:
        """The patches that one visual token stands for, where they divide the image; else the whole image."""
        vision = self.of_transformers().vision_config
        return _cell(vision.patch_size * getattr(vision, "spatial_merge_size", 1), self.image_size)

    @property
    def published(self) -> tuple[Triple, Triple]:
        self._checked()
        return CLIP

    def _checked(self) -> str:
        family = self.family
        if family not in (*QWENS, LLAVA):
            raise UserError(f"{self.where}: is of type {family!r}; expected {', '.join((*QWENS, LLAVA))}")
        return family

    def _filled(self, setting: Setting | None) -> dict[str, Any]:
        filled = super()._filled(setting)
        if self._checked() in QWENS:  # which take images of any size
            filled["vision_config"].pop("image_size")
        return filled

    def losses(self, kind: Kind, codes: int) -> tuple[str, ...]:
        """`answering`: the answer's tokens after video and question; of options, the right one among all by how likely
        each is. `captioning`: the text's after the video. `contrastive`: mean states of both, seen apart."""
        self._checked()
        return {
            "retrieval": ("contrastive", "captioning"),
            "multiple_choice": ("answering", "captioning", "contrastive"),
            "open_ended": ("answering", "captioning", "contrastive"),
            "recognition": ("answering",),
        }[kind]

    def build(self, setting: Setting) -> VideoLanguageNetwork:
        from models.backbones.hf import build

        return build.generative(self, setting)

    def without_start(self) -> "GenerativeConfig":
        from models.backbones.hf.prompts import prompt_ids

        alone = super().without_start()
        return (
            alone if self.source is None else alone.model_copy(update={"prompt_ids": prompt_ids(self), "prompt": None})
        )


def _cell(patch: int, size: int) -> int:
    return patch if size % patch == 0 else size
