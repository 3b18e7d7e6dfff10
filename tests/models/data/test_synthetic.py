"""The generated data set: its shape, that it is the same everywhere, and that alignment can be learned on it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from models.data.features import FeatureStore
from models.data.movie import Movie
from models.data.synthetic import CLIP_FEATURES, TEMPLATES, TOPICS, generate_movies
from models.data.yms import read_splits, read_yms
from models.errors import UserError
from models.neumatch.oracle import oracle_alignment


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("movies")
    generate_movies(path, seed=3)
    return path


def topic_of(text: str) -> int:
    """The topic whose words a sentence has."""
    (topic,) = {i for i, (who, does, _) in enumerate(TOPICS) if f"{who} {does}" in text.lower()}
    return topic


def test_topics_can_be_told_apart() -> None:
    assert len(TOPICS) == 40
    for column in zip(*TOPICS, strict=True):
        assert len(set(column)) == 40
    for i, (who, does, where) in enumerate(TOPICS):
        assert all(topic_of(template.format(who=who, does=does, where=where)) == i for template in TEMPLATES)


def test_shape(folder: Path) -> None:
    movies = read_yms(folder)
    splits = read_splits(folder, movies)
    assert {split: len(ids) for split, ids in splits.items()} == {"train": 14, "validation": 3, "test": 3}
    for movie in movies.values():
        assert 20 <= len(movie.clips) <= 40
        assert 8 <= len(movie.snippets) <= 14
        assert any(not snippet.matched for snippet in movie.snippets)
        owners = oracle_alignment(movie)
        assert () in owners
        for index, snippet in enumerate(movie.snippets):
            # One text, several clips; an unmatched text has none.
            assert (owners.count((index,)) >= 2) == snippet.matched
    text = (folder / "annotations_phrases.txt").read_text()
    assert "\tUNMATCHED\n" in text
    assert "\tUNMATCHED: " in text


def test_clips_look_like_the_topic_of_their_snippet(folder: Path) -> None:
    movies = read_yms(folder)
    store = FeatureStore.open(folder / CLIP_FEATURES, expected_width=128)
    splits = read_splits(folder, movies)
    sums = torch.zeros(40, 128)

    def matched(movie: Movie) -> list[tuple[torch.Tensor, int]]:
        features = store.gather([clip.id for clip in movie.clips])
        owners = oracle_alignment(movie)
        return [
            (feature, topic_of(movie.snippets[own[0]].text))
            for feature, own in zip(features, owners, strict=True)
            if own
        ]

    for id in splits["train"]:
        for feature, topic in matched(movies[id]):
            sums[topic] += feature
    seen = sums.norm(dim=1) > 0
    assert seen.sum() >= 38
    held_out = [pair for id in splits["validation"] + splits["test"] for pair in matched(movies[id]) if seen[pair[1]]]
    directions = torch.nn.functional.normalize(sums, dim=1)
    right = [int((directions @ feature).argmax()) == topic for feature, topic in held_out]
    assert sum(right) / len(right) > 0.95


def test_the_same_for_the_same_seed_in_any_process(folder: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from models.data.synthetic import generate_movies;"
        "generate_movies(Path(sys.argv[1]), seed=3)"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "again")],
        check=True,
        cwd=Path(__file__).parents[3],
        env={**os.environ, "PYTHONHASHSEED": "77", "TZ": "Asia/Tokyo"},
    )
    files = sorted(path.name for path in folder.iterdir())
    assert files == sorted(path.name for path in (tmp_path / "again").iterdir())
    for name in files:
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    generate_movies(tmp_path / "other", seed=4)
    assert (folder / CLIP_FEATURES).read_bytes() != (tmp_path / "other" / CLIP_FEATURES).read_bytes()


def test_sizes(tmp_path: Path) -> None:
    generate_movies(tmp_path, movies=3, width=8)
    movies = read_yms(tmp_path)
    assert {split: len(ids) for split, ids in read_splits(tmp_path, movies).items()} == {
        "train": 1,
        "validation": 1,
        "test": 1,
    }
    assert FeatureStore.open(tmp_path / CLIP_FEATURES).width == 8
    with pytest.raises(UserError, match="cannot generate 2 movies with 8-d features; expected 3 movies"):
        generate_movies(tmp_path, movies=2, width=8)
