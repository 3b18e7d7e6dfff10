"""A network from the weights that its configuration names, and back to plain weights after training."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from models.backbones.univl.build import build, check_start, plain
from models.backbones.univl.config import UniVLConfig
from models.backbones.univl.network import LOSSES
from models.backbones.univl.official import official_state
from models.errors import UserError
from tests.models.backbones.univl import small

CONFIG = UniVLConfig.model_validate(small.SIZES)


def test_a_checkpoint_that_lacks_a_tensor(tmp_path: Path) -> None:
    state = {name: tensor.float().clone() for name, tensor in official_state(small.network()).items()}
    del state["cross.pooler.dense.bias"]
    save_file(state, tmp_path / "model.safetensors")
    config = CONFIG.model_copy(update={"checkpoint": str(tmp_path)})  # a folder, as exports are
    for start in (check_start, build):
        with pytest.raises(UserError, match=r"has no 'cross.pooler.dense.bias' .* model.allow_missing_weights=true"):
            start(config)
    made = build(config.model_copy(update={"allow_missing_weights": True}))
    assert torch.equal(made.bert.embeddings.word_embeddings.weight, state["bert.embeddings.word_embeddings.weight"])
    assert not bool(made.cross.pooler.dense.bias.any())


@pytest.mark.parametrize("changes", [{}, {"lora": {"rank": 2}}, {"frozen": ("text", "decoder")}])
def test_plain_weights_compute_what_the_trained_network_does(changes: dict[str, object]) -> None:
    config = UniVLConfig.model_validate(small.SIZES | changes)
    trained = build(config).double()
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    weights = {name: tensor.float() for name, tensor in trained.state_dict().items()}
    network = plain(config, weights)
    assert network.config.lora is None
    assert {name for name, _ in network.named_parameters()} == {n for n, _ in small.network().named_parameters()}
    found, expected = network.double()(small.batch(), LOSSES), trained(small.batch(), LOSSES)
    for name in LOSSES:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-6)
