"""The official checkpoint: loaded whole, into any kind of task, or refused in one line."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.backbones.checkpoints import read_checkpoint
from models.backbones.video_language import Kind
from models.backbones.violet.config import VioletConfig
from models.backbones.violet.network import Violet
from models.backbones.violet.official import fitted, load_official, official_state
from models.errors import UserError
from tests.models.backbones.violet import small, vectors

SHARED = ("enc_img.", "enc_txt.", "trsfr.", "fc_mtm.", "fc_mvm.")


def pretrained() -> dict[str, Tensor]:
    """As the official training saves it, with buffers and the tied bias twice."""
    state = official_state(small.network("retrieval"))
    state["enc_txt.emb_txt.position_ids"] = torch.arange(8)[None]
    state["enc_img.swin.layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(18, 18, dtype=torch.long)
    return state


def test_round_trip(tmp_path: Path) -> None:
    torch.save({f"module.{name}": tensor for name, tensor in pretrained().items()}, tmp_path / "ckpt.pt")
    network = Violet(small.config(), small.setting("retrieval")).double()
    load_official(network, read_checkpoint(tmp_path / "ckpt.pt"), "file")
    found, state = official_state(network), pretrained()
    assert "fc_mtm.predictions.decoder.bias" in found
    assert all(torch.equal(found[name], state[name]) for name in found)


@pytest.mark.parametrize("kind", ["multiple_choice", "open_ended", "recognition"])
def test_pretraining_starts_every_kind_of_task(kind: Kind) -> None:
    """The matching head too, which has another name there; heads of the answers keep their initial weights."""
    network, state = Violet(small.config(), small.setting(kind)).double(), pretrained()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    load_official(network, state, "file")
    for name, tensor in network.state_dict().items():
        if name.startswith("fc_vtm."):
            assert torch.equal(tensor, state[name.replace("fc_vtm.", "fc.")]), name
        elif name.startswith(SHARED):
            assert torch.equal(tensor, state[name]), name
        else:
            assert torch.equal(tensor, before[name]), name
    assert any(name.startswith("fc_vtm.") for name in before) == (kind != "recognition")


def test_answering_starts_retrieval() -> None:
    network, theirs = Violet(small.config(), small.setting("retrieval")).double(), small.network("open_ended")
    load_official(network, theirs.state_dict(), "file")
    assert torch.equal(network.state_dict()["fc.3.weight"], theirs.state_dict()["fc_vtm.3.weight"])


@pytest.mark.parametrize("kind", ["open_ended", "recognition"])
def test_a_head_for_other_answers_begins_anew_where_allowed(kind: Kind) -> None:
    network = Violet(small.config(), small.setting(kind, classes=("yes", "no"))).double()
    state, name = small.network(kind).state_dict(), f"{network.heads['oe' if kind == 'open_ended' else kind]}.3.weight"
    before = network.state_dict()[name].clone()
    with pytest.raises(UserError, match=rf"file: '{name}' is for 4 answers, .*the data has 2; set .*weights=true"):
        load_official(network, state, "file")
    load_official(network, state, "file", allow_missing=True)
    assert torch.equal(network.state_dict()[name], before)
    assert torch.equal(network.state_dict()["enc_img.emb_cls"], state["enc_img.emb_cls"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"frame_positions": 6},
            r"'enc_img.emb_len' has 4 rows, model.frame_positions is 6; set .*_positions=4",
        ),
        ({"cell_positions": 9}, r"'enc_img.emb_pos' has 6 rows, model.cell_positions is 9; set model.cell_positions=6"),
        ({"text_positions": 9}, r"has 8 rows, model.text_positions is 9; set model.text_positions=8"),
        ({"vocabulary": 99}, r"has 23 rows, model.vocabulary is 99; set model.vocabulary=23"),
        ({"codes": 9}, r"'fc_mvm.3.weight' has 7 rows, model.codes is 9; set model.codes=7"),
        ({"intermediate": 8}, r"is \(24, 16\), the model's is \(8, 16\); set the model's sizes"),
    ],
)
def test_other_sizes(changes: dict[str, int], message: str) -> None:
    network = Violet(small.config(**changes), small.setting("retrieval"))
    with pytest.raises(UserError, match=f"^file: .*{message}"):
        load_official(network, pretrained(), "file")


def test_what_is_refused() -> None:
    network, good = small.network("multiple_choice"), pretrained()
    for prefix in ("fc.", "fc_mtm.", "fc_mvm.", "enc_img.emb_cls"):
        less = {name: tensor for name, tensor in good.items() if not name.startswith(prefix)}
        with pytest.raises(UserError, match=f"file: has no '{prefix.replace('fc.', 'fc_vtm.')}"):
            load_official(network, less, "file")
        load_official(network, less, "file", allow_missing=True)
    with pytest.raises(UserError, match=r"has an unknown 'extra' \(1 such names\)"):
        load_official(network, good | {"extra": torch.zeros(1)}, "file")
    untied = good | {"fc_mtm.predictions.decoder.bias": torch.zeros(small.VOCABULARY).double()}
    with pytest.raises(UserError, match="to which it is tied"):
        load_official(network, untied, "file")


def test_a_task_without_visual_tokens_leaves_their_head_out() -> None:
    network = Violet(small.config(), small.setting("retrieval", codes=0)).double()
    load_official(network, pretrained(), "file")
    assert torch.equal(network.state_dict()["fc.1.weight"], pretrained()["fc.1.weight"])


@vectors.needs_vectors
@pytest.mark.parametrize("kind", small.KINDS)
def test_a_full_size_checkpoint_fits_every_kind_of_task(kind: Kind) -> None:
    shapes = vectors.read("full_size_shapes_retrieval.json")["state_dict"]
    state = {name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}  # expanded zeros take no room
    with torch.device("meta"):
        network = Violet(VioletConfig(), small.setting(kind, vocabulary=30522, codes=8192))
    found = fitted(network, state, "file")
    left = {name for name, tensor in found.items() if tensor.is_meta}
    assert {name.split(".")[0] for name in left} == {"multiple_choice": {"fc_mc"}, "open_ended": {"fc_oe"}}.get(
        kind, {"fc_recognition"} if kind == "recognition" else set()
    )
