"""Checkpoints from elsewhere: loaded whole, or refused in one line."""

from pathlib import Path
from typing import Any

import pytest
import torch

from models.backbones.checkpoints import read_checkpoint
from models.backbones.univl.config import UniVLConfig
from models.backbones.univl.network import UniVL
from models.backbones.univl.official import load_official, official_state, start_text_from
from models.data.sentences import SentenceEncoder
from models.errors import UserError
from tests.models.backbones.univl import small, vectors


def test_round_trip_under_old_names(tmp_path: Path) -> None:
    theirs = small.network(sentiment=False)
    state = {
        "module." + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t
        for name, t in official_state(theirs).items()
    }
    torch.save(state, tmp_path / "univl.pretrained.bin")
    ours = UniVL(UniVLConfig.model_validate(small.SIZES)).double()
    kept = ours.sentiment.weight.detach().clone()
    load_official(ours, read_checkpoint(tmp_path / "univl.pretrained.bin"), "file")
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], tensor), name
    assert torch.equal(ours.sentiment.weight, kept)


@vectors.needs_vectors
@pytest.mark.slow
def test_a_full_size_checkpoint_loads_with_nothing_missing(tmp_path: Path) -> None:
    shapes = vectors.read("full_size_shapes.json")
    state = {name: torch.zeros(1).expand(shape) for name, shape in shapes["state_dict"].items()}
    torch.save(state, tmp_path / "univl.pretrained.bin")  # expanded zeros take no room
    with torch.device("meta"):
        network = UniVL(UniVLConfig())
    network.to_empty(device="cpu")
    load_official(network, read_checkpoint(tmp_path / "univl.pretrained.bin"), "file")
    assert all(not bool(p.any()) for p in network.parameters())


def test_what_is_refused(tmp_path: Path) -> None:
    network = small.network(sentiment=False)
    good = official_state(network)
    with pytest.raises(
        UserError, match=r"file: 'bert.embeddings.word_embeddings.weight' is \(23, 16\), the model's is \(99, 16\)"
    ):
        load_official(small.network(vocabulary=99, sentiment=False), good, "file")
    missing = {name: t for name, t in good.items() if not name.startswith("similarity_dense")}
    with pytest.raises(UserError, match=r"has no 'similarity_dense.weight' \(2 such names\)"):
        load_official(network, missing, "file")
    load_official(network, missing, "file", allow_missing=True)
    with pytest.raises(UserError, match=r"has an unknown 'extra' \(1 such names\)"):
        load_official(network, good | {"extra": torch.zeros(1)}, "file")
    untied = good | {"cls.predictions.decoder.weight": torch.zeros(23, 16).double()}
    with pytest.raises(UserError, match="to which it is tied"):
        load_official(network, untied, "file")


class Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("run",)


def test_files_that_hold_no_tensors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "file.bin"
    with pytest.raises(UserError, match="no such file"):
        read_checkpoint(path)
    torch.save({"a": Hostile()}, path)
    with pytest.raises(UserError, match="holds more than tensors"):
        read_checkpoint(path)
    assert capsys.readouterr().out == ""
    torch.save({"a": 3}, path)
    with pytest.raises(UserError, match="expected tensors by name"):
        read_checkpoint(path)
    path.write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(UserError, match="cut short"):
        read_checkpoint(path)


def test_text_encoder_from_minilm() -> None:
    sizes = {"hidden": 384, "heads": 12, "intermediate": 1536, "text_layers": 2, "vocabulary": 30522}
    rest = {"visual_layers": 1, "cross_layers": 1, "decoder_layers": 1, "video_dim": 8}
    network = UniVL(UniVLConfig.model_validate(sizes | rest)).eval()
    start_text_from(network, "minilm")
    theirs: Any = SentenceEncoder.load("minilm").model
    theirs.encoder.layer = theirs.encoder.layer[:2]
    ids = torch.tensor([[101, 2023, 2003, 102, 0]])
    mask = (ids != 0).long()
    with torch.no_grad():
        ours = network.encode_text(ids, torch.zeros_like(ids), mask)
        expected = theirs(input_ids=ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(ours[:, :4], expected[:, :4], atol=2e-5, rtol=1e-4)
    with pytest.raises(UserError, match=r"set model\.hidden"):
        start_text_from(small.network(), "minilm")
