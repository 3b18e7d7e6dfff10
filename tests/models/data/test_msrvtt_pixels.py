"""MSR-VTT from pixels: captions and categories, generated and real, and what is said of each mistake in them."""

import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.data.asked import Item
from models.data.msrvtt import CATEGORIES, read_annotations, read_categories
from models.data.msrvtt_pixels import MSRVTTPixelsConfig, load_msrvtt_pixels
from models.errors import UserError
from models.metrics.answering import majority
from tests.support.asked_files import add_categories, has_all
from tests.support.small_videos import TESTED, caption, small_videos


def config(folder: Path, **changes: Any) -> MSRVTTPixelsConfig:
    return MSRVTTPixelsConfig.model_validate({"root": str(folder), "folder": ".", "validation": 0.2, **changes})


def number(video: str) -> int:
    return int(video.removeprefix("video"))


def test_retrieval(tmp_path: Path) -> None:
    small_videos(tmp_path)
    asked = load_msrvtt_pixels(config(tmp_path), has_all)
    assert asked.kind == config(tmp_path).kind == "retrieval"
    assert asked.classes == ()
    assert {name: (len(s.videos), len(s)) for name, s in asked.splits.items()} == {
        "train": (16, 48),
        "validation": (4, 4),
        "test": (TESTED, TESTED),
    }
    for name, split in asked.splits.items():
        variants = 3 if name == "train" else 1
        assert split.items == [
            Item(place, (caption(number(video), variant),), -1)
            for place, video in enumerate(split.videos)
            for variant in range(variants)
        ]
    some = load_msrvtt_pixels(config(tmp_path, captions=2), has_all)
    assert [len(split) for split in some.splits.values()] == [32, 4, 6]


def test_the_official_sentence_searches(tmp_path: Path) -> None:
    small_videos(tmp_path)
    path = tmp_path / "MSRVTT_JSFUSION_test.csv"
    path.write_text(path.read_text().replace(caption(21, 0), "somebody else says this"))
    test = load_msrvtt_pixels(config(tmp_path), has_all).splits["test"]
    assert test.items[test.videos.index("video21")].texts == ("somebody else says this",)
    test = load_msrvtt_pixels(config(tmp_path, split="full"), has_all).splits["test"]
    assert test.items[test.videos.index("video21")].texts == (caption(21, 0),)


def test_categories(tmp_path: Path) -> None:
    small_videos(tmp_path)
    add_categories(tmp_path)
    asked = load_msrvtt_pixels(config(tmp_path, ask="category", split="full"), has_all)
    assert asked.kind == config(tmp_path, ask="category").kind == "recognition"
    assert asked.classes == CATEGORIES
    assert (len(set(CATEGORIES)), CATEGORIES[0], CATEGORIES[6], CATEGORIES[19]) == (
        20,
        "music",
        "tv shows",
        "advertisement",
    )
    assert {name: len(split) for name, split in asked.splits.items()} == {"train": 16, "validation": 4, "test": 6}
    for split in asked.splits.values():
        assert split.items == [Item(place, (), number(video) % 20) for place, video in enumerate(split.videos)]


def test_videos_without_frames(tmp_path: Path) -> None:
    small_videos(tmp_path)
    with pytest.raises(
        UserError, match=r"frames_\*\.tar: 1 of 6 test videos have no frames \(video20\); set data\.allow"
    ):
        load_msrvtt_pixels(config(tmp_path), lambda video: video != "video20")
    changed = config(tmp_path, allow_missing_videos=True)
    test = load_msrvtt_pixels(changed, lambda video: video != "video20").splits["test"]
    assert test.items[0] == Item(0, (caption(21, 0),), -1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"category": 20}, r"videodatainfo\.json: videos\[1\]: category 20 of 'video21'; expected 0 to 19"),
        ({"category": "music"}, r"videos\[1\] has no 'video_id' or no 'category'; expected a text and a number"),
        ({"category": None}, r"videos\[1\] has no 'video_id' or no 'category'"),
    ],
)
def test_mistakes_in_categories(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    small_videos(tmp_path)
    add_categories(tmp_path)
    path = tmp_path / "test_videodatainfo.json"
    content = json.loads(path.read_text())
    content["videos"][1] |= changes
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        load_msrvtt_pixels(config(tmp_path, ask="category"), has_all)
    assert len(load_msrvtt_pixels(config(tmp_path), has_all).splits["test"]) == TESTED  # retrieval needs none


TELLING = {
    "singing": "music",
    "game": "gaming",
    "basketball": "sports/actions",
    "news": "news/events/politics",
    "teacher": "education",
    "tv": "tv shows",
    "movie": "movie/comedy",
    "cartoon": "animation",
    "car": "vehicles/autos",
    "folding": "howto",
    "beach": "travel",
    "scientist": "science/technology",
    "dog": "animals/pets",
    "baby": "kids/family",
    "recipe": "food/drink",
    "cooking": "cooking",
    "makeup": "beauty/fashion",
    "commercial": "advertisement",
}


def test_the_real_captions_bear_out_the_names_of_the_categories(data_root: Path) -> None:
    categories = read_categories(data_root / "msrvtt")
    captions, _ = read_annotations(data_root / "msrvtt")
    assert len(categories) == 10_000
    words = np.zeros((len(CATEGORIES), len(TELLING)))
    for video, category in categories.items():
        texts = [set(text.split()) for text in captions[video]]
        words[category] += [sum(word in text for text in texts) for word in TELLING]
    shares = words / np.bincount(list(categories.values()))[:, None]  # every video has 20 captions
    assert [CATEGORIES[number] for number in shares.argmax(0)] == list(TELLING.values())


def test_the_real_files(data_root: Path) -> None:
    everything = load_msrvtt_pixels(MSRVTTPixelsConfig(root=str(data_root), split="full"), has_all)
    assert [(len(s.videos), len(s)) for s in everything.splits.values()] == [(6513, 130_260), (497, 497), (2990, 2990)]


def test_the_real_videos_that_have_frames(data_root: Path) -> None:
    there: set[str] = set()
    for path in (data_root / "msrvtt").glob("frames_*.tar"):
        with tarfile.open(path) as archive:
            there |= {name.split("/")[-2] for name in archive.getnames() if name.endswith(".jpg")}
    found = MSRVTTPixelsConfig(root=str(data_root), allow_missing_videos=True)
    asked = load_msrvtt_pixels(found, there.__contains__)
    assert [(len(s.videos), len(s)) for s in asked.splits.values()] == [(965, 19_300), (35, 35), (476, 476)]
    asked = load_msrvtt_pixels(found.model_copy(update={"ask": "category"}), there.__contains__)
    train, _, test = asked.splits.values()
    most = max(range(20), key=[item.answer for item in train.items].count)
    right = sum(item.answer == most for item in test.items)
    assert majority(train.items, test.items) == pytest.approx(100 * right / 476)
    assert asked.classes[most] == "sports/actions"
