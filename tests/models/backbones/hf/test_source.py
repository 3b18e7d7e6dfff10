"""Where models of transformers come from, and what is said of those that do not fit."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from tokenizers.models import WordLevel
from transformers import (
    AutoModel,
    AutoModelForImageTextToText,
    BertConfig,
    PreTrainedTokenizerFast,
    VideoMAEForPreTraining,
    VideoMAEImageProcessorPil,
)

from models.backbones.hf.config import DualEncoderConfig, GenerativeConfig
from models.backbones.hf.prompts import prompt_ids
from models.backbones.video_language import Kind
from models.errors import UserError
from tests.models.backbones.hf import tiny

AUTO: dict[str, tuple[Any, Kind]] = {
    "clip": (AutoModel, "open_ended"),
    "siglip2": (AutoModel, "retrieval"),
    "xclip": (AutoModel, "retrieval"),
    "videomae": (VideoMAEForPreTraining, "recognition"),
    "llava": (AutoModelForImageTextToText, "retrieval"),
    "qwen2_5_vl": (AutoModelForImageTextToText, "open_ended"),
}


def tokenizer(folder: Path, words: int) -> None:
    """A tokenizer of its own for the model in `folder`: as many words, the first three special."""
    names = ["<pad>", "<start>", "<end>", "USER", ":", "ASSISTANT", *(f"w{i}" for i in range(words - 6))]
    made = tokenizers.Tokenizer(WordLevel({name: i for i, name in enumerate(names)}, "<pad>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing(single="<start> $A", special_tokens=[("<start>", 1)])
    special = {"bos_token": "<start>", "eos_token": "<end>", "pad_token": "<pad>"}
    PreTrainedTokenizerFast(tokenizer_object=made, **special).save_pretrained(folder)


def refused(config: Any, kind: Kind, **changes: Any) -> str:
    with pytest.raises(UserError) as caught:
        config.network(tiny.setting(kind, **changes))
    said = str(caught.value)
    assert "\n" not in said
    return said


@pytest.mark.parametrize("family", AUTO)
def test_without_its_weights_it_is_the_same_network(family: str, tmp_path: Path) -> None:
    """What an export needs is in the configuration, also after a way through JSON."""
    kind, of = AUTO[family]
    tiny.saved(family, kind, tmp_path)
    config = tiny.config(family, source=str(tmp_path), architecture={})
    network = config.network(tiny.setting(of, shift=1)).eval()
    alone = type(config).model_validate_json(config.without_start().model_dump_json())
    assert alone.source is None
    assert alone.cell == config.cell
    assert alone.losses(of, 0) == config.losses(of, 0)
    other = alone.network(tiny.setting(of, shift=1)).eval()
    other.load_state_dict(network.state_dict())
    batch, names = tiny.batch(of), config.losses(of, 0)
    with torch.no_grad():
        expected, found = network(batch, names), other(batch, names)
    for name in names:
        torch.testing.assert_close(found[name], expected[name])


def test_a_checkpoint_brings_the_towers_and_may_lack_heads(tmp_path: Path) -> None:
    trained = tiny.network("clip", "retrieval").float()
    save_file(dict(trained.state_dict()), tmp_path / "model.safetensors")
    network = tiny.config("clip", checkpoint=str(tmp_path)).network(tiny.setting("recognition"))
    for name, tensor in trained.state_dict().items():
        assert torch.equal(network.state_dict()[name], tensor)
    save_file({"towers.other": torch.zeros(1)}, tmp_path / "model.safetensors")
    said = refused(tiny.config("clip", checkpoint=str(tmp_path)), "retrieval")
    assert "has no 'towers." in said


@pytest.mark.parametrize(
    ("family", "kind", "codes", "name"),
    [
        ("clip", "recognition", 0, "head"),
        ("clip", "open_ended", 0, "head.2"),
        ("videomae", "recognition", 0, "head"),
        ("videomae", "recognition", 3, "codes"),
    ],
)
def test_heads_for_other_data_are_refused_or_begin_anew(
    family: str, kind: Kind, codes: int, name: str, tmp_path: Path
) -> None:
    trained = tiny.network(family, kind, codes=codes).float().state_dict()
    save_file(dict(trained), tmp_path / "model.safetensors")
    classes: dict[str, Any] = {} if codes else {"classes": tuple("abc"), "class_ids": tiny.CLASS_IDS[:3]}
    setting = dataclasses.replace(tiny.setting(kind, codes=2 * codes), **classes)
    config = tiny.config(family, checkpoint=str(tmp_path))
    said = rf"'{name}.bias' is for \d+ answers.*set model.allow_missing_weights=true"
    with pytest.raises(UserError, match=said) as caught:
        config.network(setting)
    assert "\n" not in str(caught.value)
    found = config.model_copy(update={"allow_missing_weights": True}).network(setting).state_dict()
    assert found[f"{name}.bias"].shape != trained[f"{name}.bias"].shape
    same = [other for other in found if found[other].shape == trained[other].shape]
    assert len(same) == len(found) - 2  # weight and bias
    for other in same:
        assert torch.equal(found[other], trained[other])


@pytest.mark.parametrize(("codes", "others"), [(0, 3), (3, 0)])
def test_visual_tokens_may_come_and_go(codes: int, others: int, tmp_path: Path) -> None:
    trained = tiny.network("videomae", "recognition", codes=codes).float().state_dict()
    save_file(dict(trained), tmp_path / "model.safetensors")
    config = tiny.config("videomae", checkpoint=str(tmp_path))
    found = config.network(tiny.setting("recognition", codes=others)).state_dict()
    assert set(found.keys() ^ trained.keys()) == {"codes.weight", "codes.bias"}
    for name in found.keys() & trained.keys():
        assert torch.equal(found[name], trained[name])


def test_weights_that_are_missing_or_of_another_shape(tmp_path: Path) -> None:
    tiny.saved("clip", AutoModel, tmp_path)
    path = tmp_path / "model.safetensors"
    whole = load_file(path)
    lacking = {name: tensor for name, tensor in whole.items() if name != "text_projection.weight"}
    save_file(lacking, path, {"format": "pt"})
    config = tiny.config("clip", source=str(tmp_path), architecture={})
    assert "has no 'text_projection.weight' (1 such names)" in refused(config, "retrieval", shift=1)
    allowed = config.model_copy(update={"allow_missing_weights": True})
    assert allowed.network(tiny.setting("retrieval", shift=1))
    save_file(whole | {"text_projection.weight": torch.zeros(3, 3)}, path, {"format": "pt"})
    assert "has another shape of 'text_projection.weight'" in refused(allowed, "retrieval", shift=1)
    path.write_bytes(b"no tensors")
    assert f"model.source={str(tmp_path)!r} ({tmp_path}): cannot be loaded" in refused(config, "retrieval", shift=1)


def test_only_safetensors_are_read(tmp_path: Path) -> None:
    model = tiny.saved("clip", AutoModel, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    said = refused(tiny.config("clip", source=str(tmp_path), architecture={}), "retrieval", shift=1)
    assert "expected config.json and safetensors weights" in said


def test_sizes_that_do_not_fit(tmp_path: Path) -> None:
    tiny.saved("xclip", AutoModel, tmp_path)
    given = {"source": str(tmp_path), "architecture": {}}
    where = f"model.source={str(tmp_path)!r}: "
    assert refused(tiny.config("xclip", **given, image_size=32), "retrieval", shift=1) == (
        where + "takes images of 16 pixels; set model.image_size=16"
    )
    assert refused(tiny.config("xclip", **given, frames=3), "retrieval", shift=1) == (
        where + "takes 2 frames; set model.frames=2"
    )
    assert "knows 29 tokens and the tokenizer has 30; set inputs.words.tokenizer to the model's own" in refused(
        tiny.config("xclip", **given), "retrieval"
    )
    long = tiny.setting("retrieval", shift=1).__class__("retrieval", 30, 10, (20, 21, 22), shift=1)
    with pytest.raises(UserError, match="takes texts of at most 9 tokens, not of 10"):
        tiny.config("xclip", **given).network(long)
    assert "model.image_size=20 must be a multiple of 8" in refused(
        tiny.config("qwen2_5_vl", image_size=20), "retrieval"
    )
    assert "takes 2 frames" in refused(
        tiny.config("videomae", frames=4, architecture=_videomae(num_frames=2)), "recognition"
    )
    assert refused(tiny.config("videomae", image_size=20), "recognition") == (
        "model.architecture: model.image_size=20 must be a multiple of 8"
    )
    for frames in (1, 3):
        assert refused(tiny.config("videomae", frames=frames), "recognition") == (
            f"model.architecture: takes 2 frames together; set model.frames to a multiple of that, not to {frames}"
        )


def _videomae(**changes: Any) -> dict[str, Any]:
    return {"model_type": "videomae", **tiny.ARCHITECTURES["videomae"], **changes}


def test_a_tokenizer_of_another_model(tmp_path: Path) -> None:
    tiny.saved("clip", AutoModel, tmp_path)
    tokenizer(tmp_path, 28)
    said = refused(tiny.config("clip", source=str(tmp_path), architecture={}), "retrieval", shift=1)
    advice = f"set inputs.words.tokenizer to the model's own ({tmp_path})"
    assert said.endswith(f"its tokenizer has 28 tokens, the task's 29; {advice}")
    tokenizer(tmp_path, 29)
    assert tiny.config("clip", source=str(tmp_path), architecture={}).network(tiny.setting("retrieval", shift=1))


def test_missing_and_damaged_weights_are_seen_before_memory_is_taken(tmp_path: Path) -> None:
    tiny.saved("clip", AutoModel, tmp_path)
    config = tiny.config("clip", source=str(tmp_path), architecture={})
    (file,) = tmp_path.glob("*.safetensors")
    with torch.device("meta"):
        assert config.network(tiny.setting("retrieval", shift=1))
        file.write_bytes(file.read_bytes()[:-8])
        assert f"{file.name}: is no file of tensors, or is cut short" in refused(config, "retrieval", shift=1)
        file.unlink()
        assert "has no weights; expected files *.safetensors" in refused(config, "retrieval", shift=1)


@pytest.mark.parametrize("kind", ["retrieval", "multiple_choice", "open_ended"])
def test_videomae_has_no_texts(kind: Kind) -> None:
    with pytest.raises(UserError, match=f"videomae has no text tower, and cannot do {kind}; it does recognition"):
        tiny.config("videomae").losses(kind, 0)


def test_models_that_are_no_dual_encoders_or_do_not_generate() -> None:
    with pytest.raises(UserError, match=r"model.architecture: is of type 'bert'; expected clip, "):
        DualEncoderConfig(architecture={"model_type": "bert"}).losses("retrieval", 0)
    with pytest.raises(UserError, match=r"model.architecture: is of type 'clip'; expected qwen2_vl, "):
        GenerativeConfig(architecture={"model_type": "clip"}).losses("retrieval", 0)


@pytest.mark.parametrize("kind", [DualEncoderConfig, GenerativeConfig])
def test_a_source_of_another_kind(kind: Any, tmp_path: Path) -> None:
    """A task asks for cells and losses before it builds."""
    BertConfig().save_pretrained(tmp_path)
    config = kind(source=str(tmp_path))
    for ask in (lambda: config.cell, lambda: config.losses("retrieval", 0), config.without_start):
        with pytest.raises(UserError, match=r"^model\.source='.*': is of type 'bert'; expected "):
            ask()


@pytest.mark.parametrize(
    ("family", "keys", "said"),
    [
        ("clip", {"vision_config": {"patch_size": 0}}, "vision_config.patch_size=0: expected a whole number, 1 or"),
        ("siglip2", {"vision_config": {"patch_size": "8"}}, "vision_config.patch_size='8': expected a whole number"),
        ("clip", {"vision_config": "x"}, "vision_config='x': expected keys and values"),
        ("clip", {"text_config": None}, "text_config=None: expected keys and values"),
        ("videomae", {"tubelet_size": 0}, "tubelet_size=0: expected a whole number, 1 or more"),
        ("qwen2_vl", {"vision_config": {"spatial_merge_size": 0}}, "vision_config.spatial_merge_size=0: expected"),
    ],
)
def test_sizes_that_are_none(family: str, keys: dict[str, Any], said: str) -> None:
    config = tiny.config(family, architecture={"model_type": family} | keys)
    with pytest.raises(UserError) as caught:
        _ = config.cell
    assert str(caught.value).startswith(f"model.architecture.{said}")
    assert refused(config, "recognition") == str(caught.value)


def test_a_source_whose_patches_have_no_size(tmp_path: Path) -> None:
    tiny.saved("clip", AutoModel, tmp_path)
    path = tmp_path / "config.json"
    made = json.loads(path.read_text())
    made["vision_config"]["patch_size"] = 0
    path.write_text(json.dumps(made))
    with pytest.raises(UserError, match=r"^model\.source='.*'\.vision_config\.patch_size=0: expected a whole number"):
        _ = DualEncoderConfig(source=str(tmp_path)).cell


def test_keys_that_the_library_does_not_know() -> None:
    sizes = {"model_type": "clip", "vision_config": {"hiden_size": 12}}
    said = refused(tiny.config("clip", architecture=sizes), "retrieval")
    assert said == (
        "model.architecture.vision_config.hiden_size: no such key of clip_vision_model; did you mean hidden_size?"
    )
    sizes = {"model_type": "clip", "vision_config": {"hidden_size": 15, "num_attention_heads": 4}}
    assert "model.architecture" in refused(tiny.config("clip", architecture=sizes), "retrieval")


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({}, "name either source"),
        ({"source": "somewhere", "architecture": {"model_type": "clip"}}, "name either source"),
        ({"architecture": {"hidden_size": 3}}, "architecture has no model_type"),
        ({"source": "a", "mean": [0, 0, 0]}, "mean and std go together"),
        ({"source": "a", "frozen": ["words"]}, "frozen='words' is no part; there are video, text, heads"),
        ({"source": "a", "frozen": ["video", "text", "heads"]}, "frozen names every part"),
        ({"source": "a", "frozen": ["text"], "lora": {}}, "lora freezes every part by itself"),
    ],
)
def test_impossible_configurations(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        DualEncoderConfig.model_validate(keys)


def test_a_source_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        DualEncoderConfig(source=str(tmp_path / "none")).losses("retrieval", 0)
    with pytest.raises(UserError, match=r"cannot be read \(.*expected the config.json of transformers"):
        DualEncoderConfig(source=str(tmp_path)).losses("retrieval", 0)


def test_colours_as_the_processor_says(tmp_path: Path) -> None:
    tiny.saved("clip", AutoModel, tmp_path)
    config = tiny.config("clip", source=str(tmp_path), architecture={})
    assert config.statistics(config.published) == config.published
    processor = VideoMAEImageProcessorPil(image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6])
    processor.save_pretrained(tmp_path)
    assert config.statistics(config.published) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert config.without_start().std == (0.4, 0.5, 0.6)
    own = config.model_copy(update={"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)})
    assert own.statistics(config.published) == ((0, 0, 0), (1, 1, 1))
    (written,) = tmp_path.glob("*processor*.json")
    found = json.loads(written.read_text())
    found["do_normalize"] = False
    written.write_text(json.dumps(found))
    assert config.statistics(config.published) == ((0, 0, 0), (1, 1, 1))
    written.write_text("no json")
    with pytest.raises(UserError, match="is no JSON"):
        config.statistics(config.published)


@pytest.mark.parametrize(
    "written",
    [
        {},
        {"image_mean": None, "image_std": None, "do_normalize": None},
        {"image_mean": [0.1, 0.2, 0.3], "image_std": None},
        {"image_processor": None, "video_processor": {"image_mean": None, "image_std": [1, 1, 1]}},
    ],
)
def test_a_processor_that_says_nothing_of_colours(written: dict[str, Any], tmp_path: Path) -> None:
    tiny.saved("clip", AutoModel, tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(written))
    config = tiny.config("clip", source=str(tmp_path), architecture={})
    assert config.statistics(config.published) == config.published
    within = {"image_processor": {"image_mean": [0, 0, 0], "image_std": [1, 2, 3]}}
    (tmp_path / "processor_config.json").write_text(json.dumps(within))
    assert config.statistics(config.published) == ((0.0, 0.0, 0.0), (1.0, 2.0, 3.0))


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ([], r": is \[\]; expected a JSON object"),
        ({"image_processor": "x"}, ": image_processor: is 'x'; expected a JSON object"),
        ({"image_mean": 0.5, "image_std": [1, 1, 1]}, ": image_mean is 0.5; expected three numbers, or set model.mean"),
        ({"image_mean": [0.5, 0.5], "image_std": [1, 1, 1]}, r": image_mean is \[0.5, 0.5\]; expected three numbers"),
        ({"image_mean": ["0", 0, 0], "image_std": [1, 1, 1]}, r": image_mean is \['0', 0, 0\]; expected three"),
        (
            {"image_mean": [0, 0, 0], "image_std": [1, 0, 1]},
            r": image_std is \[1, 0, 1\]; expected three numbers above",
        ),
        ({"image_mean": [0, 0, 0], "image_std": [1, float("nan"), 1]}, r": image_std is \[1, nan, 1\]; expected three"),
    ],
)
def test_a_processor_that_is_odd_of_colours(written: Any, said: str, tmp_path: Path) -> None:
    tiny.saved("clip", AutoModel, tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(written))
    config = tiny.config("clip", source=str(tmp_path), architecture={})
    with pytest.raises(UserError, match=f"^{tmp_path}/preprocessor_config.json{said}"):
        config.statistics(config.published)


def test_prompts(tmp_path: Path) -> None:
    tiny.saved("llava", AutoModelForImageTextToText, tmp_path)
    config = tiny.config("llava", source=str(tmp_path), architecture={})
    assert prompt_ids(config) == ((), (), ())
    tokenizer(tmp_path, 29)
    assert prompt_ids(config) == ((1, 3, 4), (), (5, 4))  # <start> USER : video question ASSISTANT :
    own = config.model_copy(update={"prompt": "w0 {video} w1 w2 {question}"})
    assert prompt_ids(own) == ((1, 6), (7, 8), ())
    assert own.without_start().prompt_ids == ((1, 6), (7, 8), ())
    for prompt in ("w0", "{question} {video}"):
        with pytest.raises(UserError, match=r"expected \{video\} and after it \{question\}"):
            prompt_ids(config.model_copy(update={"prompt": prompt}))
    with pytest.raises(UserError, match=r"model.prompt needs a model.source with a tokenizer"):
        prompt_ids(tiny.config("llava", prompt="{video} {question}"))
    with pytest.raises(UserError, match="has 1 parts; expected before, between and after"):
        prompt_ids(tiny.config("llava", prompt_ids=((1,),)))
