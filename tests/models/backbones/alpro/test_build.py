"""A network from what its configuration names: weights, entities, a prompter; frozen or adapted parts; bad input."""

import warnings
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file

from models.backbones.alpro.build import build
from models.backbones.alpro.config import PROMPTS
from models.backbones.alpro.network import ALPRO
from models.backbones.alpro.official import official_state
from models.backbones.catalog import backbone
from models.backbones.video_language import Kind
from models.data.tokens import Tokenizer
from models.errors import UserError
from models.freezing import frozen_weights
from models.lora import merged
from tests.models.backbones.alpro import small

VOCABULARY = 30522
PROMPTED = ("A video of a {}.", "A {} seen on film.")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with a prompter, for the words of minilm."""
    torch.manual_seed(3)
    network = ALPRO(small.config(), small.setting(vocabulary=VOCABULARY), entities=3)
    folder = tmp_path_factory.mktemp("weights")
    state = {name: tensor.detach().clone().contiguous() for name, tensor in official_state(network).items()}
    torch.save(state, folder / "alpro.pt")
    save_file({name: tensor for name, tensor in state.items() if "prompter." not in name}, folder / "model.safetensors")
    alone = {name.removeprefix("prompter."): t for name, t in state.items() if name.startswith("prompter.")}
    torch.save(alone, folder / "prompter.pt")
    return folder


def made(weights: Path, folder: Path, kind: Kind = "retrieval", **changes: Any) -> ALPRO:
    entities = {"entities": str(small.entity_file(folder)), "prompts": PROMPTED} if kind == "retrieval" else {}
    config = small.config(**({"checkpoint": str(weights / "alpro.pt")} | entities | changes))
    return cast(ALPRO, config.network(small.setting(kind, VOCABULARY)))


@torch.no_grad()
def test_entities_become_the_mean_of_their_prompts(weights: Path, tmp_path: Path) -> None:
    network = made(weights, tmp_path)
    prompter, tokenizer = network.prompter, Tokenizer("minilm")
    for row, entity in enumerate(("dog", "polar bear", "car")):
        vectors = []
        for prompt in PROMPTED:
            table = tokenizer.table([prompt.replace("{}", entity)], 32)
            ids = table.ids[:, : int(table.lengths)].long()
            vector = prompter.text_proj(prompter.text_encoder.bert(ids, torch.ones_like(ids))[0, 0])
            vectors.append(vector / vector.norm())
        torch.testing.assert_close(prompter.video_prompt_feat[row], torch.stack(vectors).mean(0))
    assert network.mpm_head[2].out_features == len(prompter.video_prompt_feat) == 3
    losses = network(small.batch(3), ("vtc", "vtm", "mlm", "pem"))
    assert all(bool(loss.isfinite()) for loss in losses.values())


def test_a_prompter_of_its_own_goes_before_the_one_inside(weights: Path, tmp_path: Path) -> None:
    state = torch.load(weights / "prompter.pt", weights_only=True)
    state["vision_proj.bias"] = torch.full((6,), 5.0)
    torch.save(state, tmp_path / "other.pt")
    network = made(weights, tmp_path, prompter=str(tmp_path / "other.pt"))
    assert set(network.prompter.vision_proj.bias.tolist()) == {5.0}
    alone = made(weights, tmp_path, prompter=str(tmp_path / "other.pt"), checkpoint=None)
    assert bool(alone.prompter.video_prompt_feat.any())
    with pytest.raises(UserError, match=r"has no prompter, which model\.entities needs; name one by model\.prompter"):
        made(weights, tmp_path, checkpoint=str(weights))


def test_without_start_weights_come_from_elsewhere(weights: Path, tmp_path: Path) -> None:
    network = made(weights, tmp_path)
    again = build(network.config.without_start(), network.setting)
    assert not bool(again.prompter.video_prompt_feat.any())
    again.load_state_dict(network.state_dict())
    assert torch.equal(again.prompter.video_prompt_feat, network.prompter.video_prompt_feat)


def test_frozen_parts_and_the_prompter_are_no_parameters(weights: Path, tmp_path: Path) -> None:
    network = made(weights, tmp_path, frozen=("video", "text"))
    parts = {network.component_of(name) for name, _ in network.named_parameters()}
    assert parts == {"cross", "heads"}
    assert {name.split(".")[0] for name in frozen_weights(network)} == {"visual_encoder", "text_encoder", "prompter"}
    network(small.batch(3), ("vtm", "pem"))["pem"].backward()
    with pytest.raises(UserError, match=r"model\.frozen names every part that the network has"):
        made(weights, tmp_path, "recognition", frozen=("video", "heads"))


@pytest.mark.parametrize("kind", ["retrieval", "recognition"])
def test_low_rank_matrices_beside_what_is_trained(weights: Path, tmp_path: Path, kind: Kind) -> None:
    plain, network = made(weights, tmp_path, kind), made(weights, tmp_path, kind, lora={"rank": 2})
    names = [name for name, _ in network.named_parameters()]
    assert not any(name.startswith("prompter.") for name in names)
    adapted = {name.split(".lora_")[0].split(".")[-1] for name in names if ".lora_" in name}
    assert adapted == ({"qkv"} if kind == "recognition" else {"qkv", "query", "value"})
    whole = {name.split(".")[0] for name in names if ".lora_" not in name}
    frozen = {name.split(".")[0] for name in frozen_weights(network)}
    if kind == "retrieval":
        assert whole == {"vision_proj", "text_proj", "temp", "itm_head", "mpm_head", "mvm_head"}
        assert frozen == {"visual_encoder", "text_encoder", "prompter"}
    else:
        assert (whole, frozen) == ({"recognition_head", "mvm_head"}, {"visual_encoder"})
    found, started = merged(network), plain.state_dict()
    assert set(found) == set(started)
    for name in started:
        if not name.startswith(("mpm_head", "recognition_head", "mvm_head")):  # no weights for those
            torch.testing.assert_close(found[name], started[name], msg=name)


def test_bad_input_is_one_line(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model.positions=4: texts have up to 5 tokens"):
        made(weights, tmp_path, positions=4)
    with pytest.raises(UserError, match=r"absent.txt: no such file"):
        made(weights, tmp_path, entities=str(tmp_path / "absent.txt"))
    with pytest.raises(UserError, match=r"absent.pt: no such file; expected an ALPRO checkpoint"):
        made(weights, tmp_path, checkpoint=str(tmp_path / "absent.pt"))
    with pytest.raises(UserError, match=r"absent.pt: no such file; expected a prompter"):
        made(weights, tmp_path, prompter=str(tmp_path / "absent.pt"))
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "dog"]))
    with pytest.raises(UserError, match=r"has 6 ids, the data's has 30522; name the same tokenizer in both places"):
        made(weights, tmp_path, tokenizer=str(tmp_path))
    for kind in small.KINDS[1:]:
        with pytest.raises(UserError, match=f"pem is a loss of retrieval, not of {kind}"):
            small.config(entities="file", prompter="file").losses(kind, 0)


def test_prompts_with_braces_and_short_positions(weights: Path, tmp_path: Path) -> None:
    network = made(weights, tmp_path, prompts=("A {} of {x}.", "{} " + "and so on " * 9))
    assert network.prompter.video_prompt_feat.isfinite().all()


def test_sizes_can_be_checked_without_memory(weights: Path, tmp_path: Path) -> None:
    with torch.device("meta"), warnings.catch_warnings(action="ignore", category=UserWarning):
        assert made(weights, tmp_path).prompter.video_prompt_feat.shape == (3, 6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 3}, "hidden=16 must be a multiple of heads=3"),
        ({"image_size": 20}, "image_size=20 must be a multiple of patch=8"),
        ({"frozen": ("visual",)}, "frozen='visual' is no part; there are video, text, cross, heads"),
        ({"frozen": ("video", "text", "cross", "heads")}, "frozen names every part"),
        ({"frozen": ("video",), "lora": {}}, "leave frozen empty"),
        ({"entities": "file"}, "entities needs a trained prompter"),
        ({"prompter": "file"}, "prompter is of no use without entities"),
        ({"prompts": ("A video.",)}, "must hold {} once"),
        ({"ranking": "itm"}, "ranking"),
    ],
)
def test_impossible_configurations(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        small.config(**changes)


def test_losses_by_kind() -> None:
    plain, entities = small.config(), small.config(entities="file", prompter="file")
    assert plain.losses("retrieval", 0) == ("vtc", "vtm", "mlm")
    assert entities.losses("retrieval", 9) == ("vtc", "vtm", "mlm", "pem", "mvm")
    assert plain.losses("multiple_choice", 0) == ("mc", "mlm")
    assert plain.losses("open_ended", 0) == ("oe", "mlm")
    assert plain.losses("recognition", 0) == ("recognition",)
    assert plain.losses("recognition", 9) == ("recognition", "mvm")


def test_the_published_model_by_name() -> None:
    config = backbone("alpro").model_validate({"name": "alpro"})
    assert (config.frames, config.image_size, config.cell) == (8, 224, 16)
    assert len(PROMPTS) == 12
    assert "A video footage of one {}." in PROMPTS
