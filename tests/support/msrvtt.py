"""The human captions of MSR-VTT, from the official annotations, for tests of what reads or scores captions."""

import json
import zipfile
from pathlib import Path


def human_captions(data_root: Path) -> dict[str, list[str]]:
    """The captions of each test video: 20 of each of 2,990 videos."""
    captions: dict[str, list[str]] = {}
    with zipfile.ZipFile(data_root / "msrvtt" / "test_annotation.zip") as archive:
        for name in archive.namelist():
            for sentence in json.loads(archive.read(name))["sentences"]:
                captions.setdefault(sentence["video_id"], []).append(sentence["caption"])
    return captions
