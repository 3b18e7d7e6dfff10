"""From a film and a script to files: the same alignment as the run's own data give, and every mistake in one line."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizer, ViTConfig, ViTImageProcessorPil, ViTModel

from distributed.align import align_film
from distributed.aligning import clips_of
from distributed.embedding import SETTINGS as TEXT_SETTINGS
from distributed.embedding import SentenceConfig
from distributed.evaluate import evaluate
from distributed.exported import export_of, write_export
from distributed.extract import CLIP_FEATURES
from distributed.extraction import SETTINGS, Cutter, Encode, ExtractionConfig, begin, gather
from models.data.alignment_set import load_examples
from models.data.features import write_features
from models.data.filming import film
from models.data.movie import Alignment
from models.data.scripts import read_script
from models.data.yms import ANNOTATIONS, SEGMENTATION, read_phrases, read_yms, write_segmentation
from models.errors import UserError
from models.neumatch.certainty import confidences, of_snippets
from models.neumatch.decoding import DecodingConfig, align
from models.neumatch.metrics import score
from tests.support.films import cut_short, scenes, write_sound, write_video
from tests.support.small_runs import small_recipe
from tests.support.trainers import train_and_save
from tests.support.workers import on_workers, refusal, run_command

FILES = {"alignment.json", ANNOTATIONS, SEGMENTATION, "alignment.html"}


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three films with their annotations, and what `distributed.extract` makes of them with two frames a clip."""
    folder, config = tmp_path_factory.mktemp("films"), ExtractionConfig(frames=2)
    encode, clips, features = Encode(config.encoder), {}, []
    for path in film(folder, 3):
        clips[path.stem], rows, _ = clips_of(path, path.stem, config, encode)
        features.append(rows)
    begin(folder, config)
    write_segmentation(folder, clips)
    write_features(folder / CLIP_FEATURES, [c.id for pieces in clips.values() for c in pieces], torch.cat(features))
    return folder


@pytest.fixture(scope="module")
def run(films: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on those films."""
    storage = tmp_path_factory.mktemp("trained")
    recipe = small_recipe(films, storage, {"data.text_features": None, "optimiser.eta": 0.01})
    on_workers(1, train_and_save, recipe, [40], 40)
    return storage / "run"


@pytest.fixture(scope="module")
def name(films: Path) -> str:
    """The film to test on."""
    return (films / "test_split.txt").read_text().strip()


def decoded(films: Path, run: Path, name: str, decoding: DecodingConfig) -> tuple[Alignment, tuple[float, ...]]:
    """What `distributed.evaluate` would decode from the features of the data set."""
    export = export_of(run)
    (example,) = load_examples(small_recipe(films, run.parent, {"data.text_features": None}).data)["test"]
    assert example.movie.id == name
    prepared, network = export.preprocessors.apply(example), export.network()
    (alignment,) = align(network, [prepared], decoding)
    return alignment, confidences(network, [prepared], [alignment])[0]


def test_features_are_those_of_extraction(films: Path, name: str) -> None:
    path, config = films / "videos" / f"{name}.mp4", ExtractionConfig(frames=3)
    encode = Encode(config.encoder)
    clips, features, pictures = clips_of(path, name, config, encode)
    rows = map(encode, Cutter(config)({"film": [name], "path": [str(path)]}))
    ((_, facts, expected),) = gather(rows, config.frames)
    assert not isinstance(facts, str)
    assert expected is not None
    assert [(c.start, c.end) for c in clips] == [pytest.approx(span, abs=0.0006) for span in facts.clips]
    assert torch.allclose(features, expected, atol=1e-4)
    assert len(pictures) == len(clips)
    assert all(picture.startswith(b"\xff\xd8") for picture in pictures)


@pytest.mark.parametrize("beam", [None, 3])
def test_a_film_is_aligned_as_the_data_set_is(
    films: Path, run: Path, name: str, tmp_path: Path, beam: int | None
) -> None:
    to, script = tmp_path / "deep" / "to", films / "scripts" / f"{name}.txt"
    options = [] if beam is None else ["--beam", str(beam)]
    outcome = run_command(align_film, films / "videos" / f"{name}.mp4", script, "--run", run, "--to", to, *options)
    assert outcome.code == 0, outcome
    assert not outcome.launched
    assert {path.name for path in to.iterdir()} == {*FILES, f"{name}.srt"}
    told = json.loads((to / "alignment.json").read_text(encoding="utf-8"))
    decoding = DecodingConfig() if beam is None else DecodingConfig(method="beam", width=beam)
    alignment, sure = decoded(films, run, name, decoding)
    original = read_yms(films)[name]
    assert [(c["start"], c["end"]) for c in told["clips"]] == [(c.start, c.end) for c in original.clips]
    assert [tuple(c["snippets"]) for c in told["clips"]] == alignment
    assert [c["confidence"] for c in told["clips"]] == pytest.approx(list(sure), abs=1e-3)
    texts = told["snippets"]
    assert [s["text"] for s in texts] == script.read_text().splitlines()
    for j, (snippet, confidence) in enumerate(zip(texts, of_snippets(alignment, len(texts), sure), strict=True)):
        assert snippet["clips"] == [i for i, owners in enumerate(alignment) if j in owners]
        assert (snippet["confidence"] is None) == (snippet["start"] is None) == (not snippet["clips"])
        assert confidence is None or snippet["confidence"] == pytest.approx(confidence, abs=1e-3)
    assert told["reference"] is None
    assert (to / told["movie"]["file"]).resolve() == (films / "videos" / f"{name}.mp4").resolve()
    assert told["settings"]["frames"] == 2
    assert told["settings"]["encoder"] == "efficientnet-lite0"
    assert told["settings"]["decoding"]["method"] == decoding.method
    assert told["model"]["run"] == "run"
    assert told["model"]["step"] == 40
    assert re.fullmatch("[0-9a-f]{64}", told["model"]["sha256"])
    assert str(films / "extraction.json") in outcome.out
    assert (to / "alignment.html").as_uri() in outcome.out


def test_what_is_written_reads_back(films: Path, run: Path, name: str, tmp_path: Path) -> None:
    align_film(
        [str(films / "videos" / f"{name}.mp4"), str(films / ANNOTATIONS), "--run", str(run), "--to", str(tmp_path)]
    )
    told = json.loads((tmp_path / "alignment.json").read_text(encoding="utf-8"))
    back = read_yms(tmp_path)[name]
    assert [clip.id for clip in back.clips] == [clip.id for clip in read_yms(films)[name].clips]
    assert [s.text for s in back.snippets] == [s["text"] for s in told["snippets"]]
    assert [s.matched for s in back.snippets] == [bool(s["clips"]) for s in told["snippets"]]
    found = [s for s in back.snippets if s.matched]
    assert [(s.start, s.end) for s in found] == [(s["start"], s["end"]) for s in told["snippets"] if s["clips"]]
    if found:
        passages = read_script(tmp_path / f"{name}.srt")
        assert [(p.text, p.start, p.end) for p in passages] == [(s.text, s.start, s.end) for s in found]
    # The script has gold times, which are kept beside what was found.
    gold = read_phrases(films / ANNOTATIONS)[name]
    assert [s["reference"] for s in told["snippets"]] == [
        {"start": s.start, "end": s.end, "matched": s.matched} for s in gold
    ]
    figures = score([read_yms(films)[name]], [[tuple(c["snippets"]) for c in told["clips"]]])
    assert told["reference"]["video_accuracy"] == pytest.approx(figures.video_accuracy)
    assert told["reference"]["text_iou"] == pytest.approx(figures.text_iou)
    page = (tmp_path / "alignment.html").read_text(encoding="utf-8")
    shown = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert [row["name"] for row in shown["rows"]] == ["gold", "NeuMATCH"]
    assert shown["rows"][1]["confidence"] == pytest.approx([c["confidence"] for c in told["clips"]], abs=1e-3)
    assert len(shown["pictures"]) == len(back.clips)
    assert all(shown["pictures"])


def test_an_export_elsewhere_and_the_folder_beside_the_film(
    films: Path,
    run: Path,
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Without the run's data the features' settings are unknown: defaults are taken, and said."""
    monkeypatch.delenv("MELTMATCH_DATA", raising=False)
    export = export_of(run)
    data = {**export.about["data"], "root": str(tmp_path / "gone")}
    write_export(tmp_path / "export", replace(export, about={**export.about, "data": data}))
    movie = tmp_path / "my film #1.mp4"
    movie.write_bytes((films / "videos" / f"{name}.mp4").read_bytes())
    subtitles = tmp_path / "a.srt"
    subtitles.write_text(
        "1\n00:00:01,000 --> 00:00:02,500\nA red ball\n\n2\n00:00:02,500 --> 00:00:04,000\nrolls. A star spins.\n"
    )
    align_film([str(movie), str(subtitles), "--run", str(tmp_path / "export"), "--sentences"])
    folder = tmp_path / "my film #1-alignment"
    told = json.loads((folder / "alignment.json").read_text(encoding="utf-8"))
    assert told["settings"]["frames"] == 1
    assert "settings: defaults" in capsys.readouterr().out
    assert [s["text"] for s in told["snippets"]] == ["A red ball rolls.", "A star spins."]
    assert told["reference"]["kind"] == "subtitles"
    page = (folder / "alignment.html").read_text(encoding="utf-8")
    assert '"film":"../my%20film%20%231.mp4"' in page
    assert (folder / "my_film_#1.srt").is_file()


def test_texts_are_read_as_the_models_own(films: Path, run: Path, name: str, tmp_path: Path) -> None:
    """Files beside a run's features say what one of its texts was, and what one of its clips."""
    export, root = export_of(run), tmp_path / "data"
    data = {**export.about["data"], "root": str(root), "text_features": "text_features.npz"}
    write_export(tmp_path / "export", replace(export, about={**export.about, "data": data}))
    begin(root, ExtractionConfig(frames=2))
    begin(root, SentenceConfig(language="de"), TEXT_SETTINGS)
    script = write(tmp_path / "a.txt", "A ball rolls. A star spins.\n")
    movie = films / "videos" / f"{name}.mp4"
    arguments = [str(movie), str(script), "--run", str(tmp_path / "export"), "--to", str(tmp_path / "to")]
    align_film(arguments)
    told = json.loads((tmp_path / "to" / "alignment.json").read_text(encoding="utf-8"))
    assert [s["text"] for s in told["snippets"]] == ["A ball rolls.", "A star spins."]
    assert told["settings"]["frames"] == 2
    align_film([*arguments, "--no-sentences"])
    told = json.loads((tmp_path / "to" / "alignment.json").read_text(encoding="utf-8"))
    assert [s["text"] for s in told["snippets"]] == ["A ball rolls. A star spins."]
    (root / SETTINGS).write_text('{"regions_encoder": "mean", "frames": 1}')
    with pytest.raises(UserError, match=r"extraction\.json: the run's clips are a detector's"):
        align_film(arguments)
    (root / SETTINGS).write_text('{"frames": 0}')
    with pytest.raises(UserError, match=r"extraction\.json: frames: input should be greater"):
        align_film(arguments)


def test_an_option_goes_before_the_settings(films: Path, run: Path, name: str, tmp_path: Path) -> None:
    arguments = [str(films / "videos" / f"{name}.mp4"), str(films / ANNOTATIONS), "--run", str(run), "--to"]
    align_film([*arguments, str(tmp_path), "--frames", "1", "--detector", "hash", "--name", name])
    settings = json.loads((tmp_path / "alignment.json").read_text(encoding="utf-8"))["settings"]
    assert settings["frames"] == 1
    assert settings["segmentation"] == {"detector": "hash", "threshold": None, "min_frames": 5}


def test_the_page_of_an_evaluation_says_how_sure_the_network_is(
    films: Path, run: Path, name: str, tmp_path: Path
) -> None:
    evaluate([str(run), "--baselines", "uniform", "--beam", "3", "--page", str(tmp_path / "page.html")])
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    shown = json.loads(page.split('id="data">')[1].split("</script>")[0])
    rows = {row["name"]: row for row in shown["rows"]}
    assert list(rows) == ["gold", "NeuMATCH, greedy", "NeuMATCH, beam 3", "uniform"]
    alignment, sure = decoded(films, run, name, DecodingConfig(method="beam", width=3))
    assert rows["NeuMATCH, beam 3"]["links"] == [list(texts) for texts in alignment]
    assert rows["NeuMATCH, beam 3"]["confidence"] == pytest.approx(list(sure), abs=0.001)
    assert rows["gold"]["confidence"] is rows["uniform"]["confidence"] is None
    assert shown["film"] is None
    assert shown["pictures"] == []


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two encoders of other widths, and a run of another task."""
    folder = tmp_path_factory.mktemp("other")
    small: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    ViTModel(ViTConfig(**small, image_size=32, patch_size=8)).save_pretrained(folder / "vit")
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder / "vit")
    BertModel(BertConfig(**small, vocab_size=30)).save_pretrained(folder / "bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"]
    (folder / "words.txt").write_text("\n".join(words))
    BertTokenizer(str(folder / "words.txt")).save_pretrained(folder / "bert")
    (folder / "digits").mkdir()
    recipe = "name: digits\ntask: classification\ndata: {name: digits}\n"
    (folder / "digits" / "recipe.yaml").write_text(recipe)
    (folder / "nothing").mkdir()
    return folder


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


MISTAKES: dict[str, tuple[dict[str, str], str]] = {
    "no film": ({"movie": "gone.mp4"}, "gone.mp4: no such file; expected a video"),
    "an empty film": ({"movie": "empty.mp4"}, "empty.mp4: the file is empty; expected a video"),
    "a film without pictures": ({"movie": "sound.mp4"}, "sound.mp4: holds no video stream, only audio"),
    "a film that is a text": ({"movie": "words.txt"}, "words.txt: is no video"),
    "no script": ({"script": "gone.txt"}, "gone.txt: no such file"),
    "a script without text": ({"script": "blank.txt"}, "blank.txt: holds no text; expected passages to align"),
    "a screenplay without action": ({"script": "a.fountain"}, "a.fountain: holds no text"),
    "subtitles that are none": ({"script": "words.srt"}, "words.srt:1: is no .srt file"),
    "a reserved word": ({"script": "reserved.txt"}, "reserved.txt: text 2 begins with 'UNMATCHED'"),
    "annotations without it": ({"script": "yms.txt"}, "yms.txt: has no movie"),
    "no run": ({"--run": "gone"}, "gone: neither a run"),
    "an empty folder": ({"--run": "nothing"}, "nothing: neither a run (recipe.yaml) nor an export (config.json)"),
    "a run of another task": ({"--run": "digits"}, "an alignment run is expected; this one's task is classification"),
    "an image encoder of another width": (
        {"--encoder": "vit"},
        "gives features of width 32, but .* was trained on width 1280; name the one .* with --encoder",
    ),
    "a sentence encoder of another width": ({"--sentence-encoder": "bert"}, "width 32, .* width 384; .*--sentence-enc"),
    "an image encoder that is not there": ({"--encoder": "/gone"}, "encoder '/gone'"),
    "a place that is a file": ({"--to": "words.txt/deeper"}, "words.txt/deeper: cannot be written, for .*words.txt is"),
    "no beam": ({"--beam": "0"}, "--beam 0: expected a width of 1 or more"),
    "no frames": ({"--frames": "0"}, "--frames 0: input should be greater than or equal to 1"),
    "a negative threshold": ({"--threshold": "-1"}, "--threshold -1.0: input should be greater than 0"),
    "a name that is a path": ({"--name": "../x"}, "bad movie name '../x'"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(
    films: Path, run: Path, name: str, other: Path, tmp_path: Path, mistake: str
) -> None:
    changes, says = MISTAKES[mistake]
    (tmp_path / "empty.mp4").touch()
    write_sound(tmp_path / "sound.mp4")
    write(tmp_path / "words.txt", "A ball rolls.\n")
    write(tmp_path / "words.srt", "A ball rolls.\n")
    write(tmp_path / "blank.txt", "\n  \n")
    write(tmp_path / "a.fountain", "INT. ROOM - DAY\n\nANNA\nHello.\n")
    write(tmp_path / "reserved.txt", "A ball.\nUNMATCHED: a box.\n")
    write(tmp_path / "yms.txt", "9999_00.00.00.000-00.00.01.000\tA ball.\n")
    before = sorted(tmp_path.iterdir())
    given: dict[str, object] = {
        "movie": films / "videos" / f"{name}.mp4",
        "script": tmp_path / "words.txt",
        "--run": run,
        "--to": tmp_path / "to",
    }
    for key, value in changes.items():
        if key.startswith("--") and re.fullmatch("[a-z]+", value) and (other / value).exists():
            given[key] = other / value
        else:
            given[key] = tmp_path / value if key in ("movie", "script", "--run", "--to") else value
    arguments = [given.pop("movie"), given.pop("script"), *(f"{key}={value}" for key, value in given.items())]
    assert re.search(says.replace("(", r"\(").replace(")", r"\)"), refusal(align_film, *arguments))
    assert sorted(tmp_path.iterdir()) == before


def test_a_film_cut_short_is_taken_when_asked(run: Path, films: Path, tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.mp4", scenes([0, 1, 2, 3, 4, 5]), faststart=True)
    cut = cut_short(tmp_path / "cut.mp4", whole, 0.8)
    script = write(tmp_path / "a.txt", "A ball rolls.\n")
    outcome = run_command(align_film, cut, script, "--run", run, "--to", tmp_path / "to")
    assert outcome.code == 2
    assert re.fullmatch(r"error: .*cut\.mp4: its last .* cannot be decoded; .* --damaged\n", outcome.err)
    assert not (tmp_path / "to").exists()
    align_film([str(cut), str(script), "--run", str(run), "--to", str(tmp_path / "to"), "--damaged"])
    assert read_yms(tmp_path / "to")["cut"].clips[-1].end < 6


def test_more_texts_than_a_film_has_room_for(run: Path, films: Path, tmp_path: Path) -> None:
    movie = write_video(tmp_path / "a.mp4", scenes([0], 1))
    script = write(tmp_path / "a.txt", "A ball rolls.\n" * 120)
    with pytest.raises(UserError, match="120 texts have no room in 100 ms of video"):
        align_film([str(movie), str(script), "--run", str(run), "--to", str(tmp_path / "to")])
    assert not (tmp_path / "to").exists()


def test_what_stands_in_the_way_leaves_all_as_it_was(run: Path, films: Path, tmp_path: Path) -> None:
    movie = write_video(tmp_path / "a.mp4", scenes([0, 1]))
    script = write(tmp_path / "a.txt", "A ball rolls.\n")
    to = tmp_path / "to"
    arguments = [str(movie), str(script), "--run", str(run), "--to", str(to)]
    align_film(arguments)
    before = {path.name: path.read_bytes() for path in to.iterdir()}
    align_film(arguments)  # again: the same, in its place
    assert {path.name: path.read_bytes() for path in to.iterdir()} == before
    (to / "alignment.html").unlink()
    (to / "alignment.html").mkdir()
    write(script, "A star spins.\n")
    with pytest.raises(UserError, match=r"alignment\.html: is a folder"):
        align_film(arguments)
    del before["alignment.html"]
    assert {path.name: path.read_bytes() for path in to.iterdir() if path.is_file()} == before
    assert len(list(to.iterdir())) == len(before) + 1
