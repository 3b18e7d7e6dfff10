"""MSR-VTT (Xu et al., CVPR 2016) from pixels: retrieval by its captions, or its 20 categories."""

from typing import Literal

from pydantic import Field

from models.backbones.video_language import NO_LABEL, Kind
from models.data.asked import Asked, AskedDataConfig, Entry, Has, asked_split
from models.data.msrvtt import CATEGORIES, Which, read_categories, read_splits


class MSRVTTPixelsConfig(AskedDataConfig):
    """Which videos of MSR-VTT, and what is asked of them."""

    name: Literal["msrvtt_pixels"] = "msrvtt_pixels"
    folder: str = "msrvtt"
    """Holds the official annotations (json, or zipped as they are published) and the lists of the splits (csv)."""
    frames: str = "msrvtt/frames_*.tar"
    ask: Literal["retrieval", "category"] = "retrieval"
    split: Which = "7k"
    """As of `models.data.msrvtt`."""
    captions: int | None = Field(default=None, ge=1)
    """Train on the first so many captions of each video; null: on all."""

    @property
    def kind(self) -> Kind:
        return "retrieval" if self.ask == "retrieval" else "recognition"


def load_msrvtt_pixels(config: MSRVTTPixelsConfig, has: Has) -> Asked:
    """The splits train, validation (possibly empty) and test; `has` says which videos have frames.

    Retrieval trains on every caption, and searches with the official sentence of each video of 1k-A, or with a video's
    first caption (validation, and the test of the full split).

    Raises:
        UserError: a file is missing or malformed, or videos have no frames and may not be left out.
    """
    folder = config.place(config.folder)
    captions, splits, queries = read_splits(folder, config.split, config.validation)
    categories = read_categories(folder) if config.ask == "category" else {}

    def entries(split: str, video: str) -> list[Entry]:
        if config.ask == "category":
            return [Entry(video, (), categories[video])]
        texts = captions[video][: config.captions if split == "train" else 1]
        if split == "test" and video in queries:
            texts = [queries[video]]
        return [Entry(video, (text,), NO_LABEL) for text in texts]

    loaded = {
        split: asked_split(config, has, split, [entry for video in videos for entry in entries(split, video)])
        for split, videos in splits.items()
    }
    return Asked(config.kind, loaded, CATEGORIES if config.ask == "category" else ())
