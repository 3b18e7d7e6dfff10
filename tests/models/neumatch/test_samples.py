"""From movies to training samples and padded batches in stack order."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.data.examples import Example
from models.data.movie import Clip, Movie, Snippet
from models.errors import UserError
from models.neumatch.actions import YMS_ACTIONS, gold_actions, play
from models.neumatch.oracle import oracle_alignment
from models.neumatch.projection import Preprocessing
from models.neumatch.samples import Preprocessors, Sample, collate, training_samples


def example(clips: int = 9, snippets: int = 4, seed: int = 0) -> Example:
    """Clips of one second; snippets of two, every third of them unmatched. Row i of the features is all i."""
    movie = Movie(
        f"m{seed}",
        tuple(Clip(f"c{i}", i, i + 1) for i in range(clips)),
        tuple(Snippet(f"s{j}", "x", 2 * j, 2 * j + 2, j % 3 != 2) for j in range(snippets)),
    )
    video, text = (torch.arange(float(n))[:, None].expand(n, d).clone() for n, d in ((clips, 6), (snippets, 5)))
    return Example(movie, video, text)


def test_samples_are_stretches_of_the_movie() -> None:
    whole = example()
    gold = gold_actions(oracle_alignment(whole.movie), 4)
    samples = training_samples(whole, 5, YMS_ACTIONS)
    assert [i for sample in samples for i in sample.actions] == gold
    assert max(len(sample.actions) for sample in samples) <= 5
    made: list[tuple[int, int]] = []
    for sample in samples:
        clips, snippets = sample.video[:, 0].long().tolist(), sample.text[:, 0].long().tolist()
        assert clips == list(range(clips[0], clips[0] + len(clips)))
        alignment = play(sample.actions, len(clips), len(snippets))
        made += [(clips[i], snippets[j]) for i, texts in enumerate(alignment) for j in texts]
    assert made == [(i, j) for i, texts in enumerate(oracle_alignment(whole.movie)) for j in texts]
    (one,) = training_samples(whole, 100, YMS_ACTIONS)
    assert torch.equal(one.video, whole.video)
    assert torch.equal(one.text, whole.text)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4), st.integers(0, 6)), max_size=4))
def test_batches_are_padded_and_turned_around(sizes: list[tuple[int, int, int]]) -> None:
    samples = [Sample(torch.randn(n, 3), torch.randn(m, 2), tuple(range(1, 1 + k))) for n, m, k in sizes]
    batch = collate(samples, 3, 2)
    longest = [max((size[place] for size in sizes), default=0) for place in range(3)]
    assert batch.video.shape == (len(sizes), longest[0], 3)
    assert batch.text.shape == (len(sizes), longest[1], 2)
    assert batch.actions.shape == (len(sizes), longest[2])
    assert [batch.video_lengths.tolist(), batch.text_lengths.tolist(), batch.action_lengths.tolist()] == [
        [size[place] for size in sizes] for place in range(3)
    ]
    for b, sample in enumerate(samples):
        for rows, sequence in ((batch.video[b], sample.video), (batch.text[b], sample.text)):
            for i in range(len(rows)):  # row 0 is the last element in time
                expected = sequence[len(sequence) - 1 - i] if i < len(sequence) else torch.zeros(rows.shape[1])
                assert torch.equal(rows[i], expected)
        assert batch.actions[b].tolist() == [*sample.actions, *[0] * (longest[2] - len(sample.actions))]


@pytest.mark.parametrize("target", [None, 3])
def test_preprocessing_is_fitted_on_all_movies_together(target: int | None) -> None:
    movies = [example(9, 4), example(5, 7)]
    fitted = Preprocessors.fit(movies, target, 11)
    video, text = torch.cat([m.video for m in movies]), torch.cat([m.text for m in movies])
    assert torch.equal(fitted.video(video), Preprocessing.fit(video, target, 11)(video))
    applied = fitted.apply(movies[1])
    assert applied.movie is movies[1].movie
    assert torch.equal(applied.video, fitted.video(video)[9:])
    assert torch.equal(applied.text, fitted.text(text)[4:])
    if target:  # the two modalities are projected independently
        assert fitted.video.projection is not None
        assert fitted.text.projection is not None
        assert not torch.equal(fitted.video.projection[:5], fitted.text.projection)


@pytest.mark.parametrize("target", [None, 3])
def test_saved_and_restored(tmp_path: Path, target: int | None) -> None:
    fitted = Preprocessors.fit([example()], target, 11)
    fitted.to_file(tmp_path / "preprocessing.safetensors")
    again = Preprocessors.from_file(tmp_path / "preprocessing.safetensors").apply(example())
    assert torch.equal(again.video, fitted.apply(example()).video)
    assert torch.equal(again.text, fitted.apply(example()).text)
    assert [path.name for path in tmp_path.iterdir()] == ["preprocessing.safetensors"]


def test_a_file_that_is_not_one(tmp_path: Path) -> None:
    path = tmp_path / "p.safetensors"

    def rejected() -> str:
        with pytest.raises(UserError) as caught:
            Preprocessors.from_file(path)
        return str(caught.value)

    message = f"{path}: cannot be read as the preprocessing of a run: "
    assert rejected().startswith(message)
    path.write_bytes(b"not this")
    assert rejected().startswith(message)
    from safetensors.torch import save_file

    save_file({"video.mean": torch.zeros(3)}, path)
    assert rejected().startswith(message)
    assert "\n" not in rejected()
