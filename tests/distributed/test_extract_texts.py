"""Scripts and annotations to sentences and embeddings on a real Ray cluster, in files that a recipe reads."""

import csv
from pathlib import Path

import pytest
import torch

from distributed.embedding import TEXT_FEATURES, TEXTS, find_scripts, of_passages
from distributed.extract import FAILED, extract
from models.data.alignment_set import AlignmentDataConfig, load_examples
from models.data.features import FeatureStore
from models.data.scripts import Passage, read_script
from models.data.sentences import SentenceEncoder
from models.data.yms import ANNOTATIONS, SPLIT_FILES, read_phrases
from models.errors import UserError
from tests.support.films import scenes, write_video

SUBTITLES = """1
00:00:00,100 --> 00:00:01,000
A man walks his dog. Then

2
00:00:01,200 --> 00:00:02,900
he sits down.
"""
LINES = "A red circle is in a wood.\nIt moves. It stops.\n"


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_films_with_their_scripts_are_a_data_set(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    videos, scripts, to = tmp_path / "videos", tmp_path / "scripts", tmp_path / "to"
    scripts.mkdir()
    for name in ("one", "two", "wordless"):
        write_video(videos / f"{name}.mp4", scenes([0, 1, 2]))
    (scripts / "one.srt").write_text(SUBTITLES)
    (scripts / "two.srt").write_text("00:00:01 -> nothing\n")
    (scripts / "other.txt").write_text(LINES)
    extract([str(videos), "--scripts", str(scripts), "--to", str(to)])
    out = capfd.readouterr().out
    assert "1 texts are of none of the films" in out
    assert "9 clips of 3 films" in out
    assert "2 sentences of 1 films" in out
    with (to / FAILED).open() as file:
        failed = {Path(row["file"]).name: row["reason"] for row in csv.DictReader(file)}
    assert sorted(failed) == ["two.srt", "wordless.mp4"]
    assert "two.srt:1: malformed times" in failed["two.srt"]
    assert "has no text called 'wordless'" in failed["wordless.mp4"]

    # Once the film whose script is bad, and the one without, are of no concern, a recipe reads it all.
    (scripts / "two.srt").write_text(SUBTITLES)
    (scripts / "wordless.srt").write_text(SUBTITLES)
    before = (to / TEXTS / "one.safetensors").stat().st_mtime_ns
    extract([str(videos), "--scripts", str(scripts), "--to", str(to)])
    assert "1 of 3 films are done already" in capfd.readouterr().out
    assert (to / TEXTS / "one.safetensors").stat().st_mtime_ns == before
    assert (to / FAILED).read_text().splitlines() == ["file,reason"]
    for name, movie in zip(SPLIT_FILES.values(), ("one", "two", "wordless"), strict=True):
        (to / name).write_text(f"{movie}\n")
    config = AlignmentDataConfig(
        root=str(to), annotations=".", clip_features="clip_features.npz", text_features=TEXT_FEATURES
    )
    [example] = load_examples(config)["train"]
    texts = [snippet.text for snippet in example.movie.snippets]
    assert texts == ["A man walks his dog.", "Then he sits down."]
    assert len(example.video) == 3
    torch.testing.assert_close(example.text, SentenceEncoder.load("minilm").encode(texts), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_scripts_without_times(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    scripts, to = tmp_path / "scripts", tmp_path / "to"
    scripts.mkdir()
    (scripts / "a film.txt").write_text(LINES)
    (scripts / "empty.txt").touch()
    extract(["--scripts", str(scripts), "--to", str(to)])
    assert "3 sentences of 1 films" in capfd.readouterr().out
    assert not (to / ANNOTATIONS).exists()  # there is nothing to say when
    with (to / "sentences.csv").open() as file:
        rows = [(row["id"], row["text"]) for row in csv.DictReader(file)]
    assert rows == [
        ("a_film_1", "A red circle is in a wood."),
        ("a_film_2", "It moves."),
        ("a_film_3", "It stops."),
    ]
    found = FeatureStore.open(to / TEXT_FEATURES).gather([id for id, _ in rows])
    expected = SentenceEncoder.load("minilm").encode([text for _, text in rows])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert "empty.txt: holds no text" in (to / FAILED).read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_annotations_as_they_stand(data_root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Those of three real movies; one is changed afterwards, and it alone is embedded again."""
    lines = (data_root / "yms" / ANNOTATIONS).read_text().splitlines(keepends=True)
    movies = list(read_phrases(data_root / "yms" / ANNOTATIONS))[:3]
    lines = [line for line in lines if line.split("_")[0] in movies]
    path, to = tmp_path / ANNOTATIONS, tmp_path / "to"
    path.write_text("".join(lines))
    extract(["--annotations", str(path), "--to", str(to)])
    snippets = [snippet for found in read_phrases(path).values() for snippet in found]
    assert f"{len(snippets)} sentences of 3 films" in capfd.readouterr().out
    store = FeatureStore.open(to / TEXT_FEATURES, expected_width=384)
    expected = SentenceEncoder.load("minilm").encode([snippet.text for snippet in snippets])
    torch.testing.assert_close(store.gather([s.id for s in snippets]), expected, rtol=1e-4, atol=1e-5)
    assert not (to / ANNOTATIONS).exists()

    times = {film.name: film.stat().st_mtime_ns for film in (to / TEXTS).iterdir()}
    last = next(number for number in reversed(range(len(lines))) if not lines[number].endswith("UNMATCHED\n"))
    lines[last] = lines[last].partition("\t")[0] + "\tSomething else happens.\n"
    path.write_text("".join(lines))
    extract(["--annotations", str(path), "--to", str(to)])
    again = [film.name for film in (to / TEXTS).iterdir() if film.stat().st_mtime_ns != times[film.name]]
    assert again == [f"{lines[last].split('_')[0]}.safetensors"]
    assert "Something else happens." in (to / "sentences.csv").read_text()


def test_ids_and_times_of_sentences(tmp_path: Path) -> None:
    (tmp_path / "a.srt").write_text(SUBTITLES)
    found = of_passages("a", read_script(tmp_path / "a.srt", sentences=True))
    assert [sentence.id for sentence in found] == ["a_00.00.00.100-00.00.00.820", "a_00.00.00.856-00.00.02.900"]
    assert [(s.start, s.end) for s in found] == [(0.1, 0.82), (0.856, 2.9)]
    with pytest.raises(UserError, match=r"sentence 2 \('b'\) begins at 0\.500 s, before another ends"):
        of_passages("a", [Passage("a", 0.0, 1.0), Passage("b", 0.5, 2.0)])
    with pytest.raises(UserError, match="ends at or before its start"):
        of_passages("a", [Passage("a", 1.0, 1.0001)])


def test_texts_that_are_none(tmp_path: Path) -> None:
    to = str(tmp_path / "to")
    with pytest.raises(UserError, match="no such folder; expected a folder of scripts"):
        find_scripts(tmp_path / "absent")
    with pytest.raises(UserError, match=r"holds no script \(\.fountain, \.srt, \.txt, \.vtt\)"):
        find_scripts(tmp_path)
    (tmp_path / "a.txt").write_text("One.")
    with pytest.raises(UserError, match="nothing to extract from"):
        extract(["--to", to])
    both = ["--scripts", str(tmp_path), "--annotations", str(tmp_path / "a.txt")]
    with pytest.raises(UserError, match="--scripts and --annotations: name one of them"):
        extract([*both, "--to", to])
    with pytest.raises(UserError, match=r"sentence encoder '\./absent': no such folder"):
        extract(["--scripts", str(tmp_path), "--sentence-encoder", "./absent", "--to", to])
    with pytest.raises(UserError, match=r"a\.txt:1: malformed line"):
        extract(["--annotations", str(tmp_path / "a.txt"), "--to", to])
    assert not Path(to).exists()
    (tmp_path / "a.srt").write_text(SUBTITLES)
    with pytest.raises(UserError, match=r"a\.txt: is called like .*a\.srt; a film has one script"):
        find_scripts(tmp_path)


def test_annotations_are_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "a.srt").write_text(SUBTITLES)
    (tmp_path / ANNOTATIONS).write_text("mine")
    with pytest.raises(UserError, match="would be written over; embed it with --annotations, or name another folder"):
        extract(["--scripts", str(tmp_path / "scripts"), "--to", str(tmp_path)])
    assert (tmp_path / ANNOTATIONS).read_text() == "mine"
