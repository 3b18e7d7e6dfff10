"""LXMERT's two encoders on a small LXMERT: beside the whole model, one item at a time."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, LxmertForPreTraining, LxmertModel, ViTConfig, ViTModel

from models.data.lxmert import LxmertLanguage
from models.data.regions import MEAN, Regions, region_encoder
from models.data.sentences import SentenceEncoder, embed_texts
from models.errors import UserError
from tests.support.lxmert import LAYERS, small_lxmert

TEXTS = ["a man walks his dog .", "a dog", "the man sits and the dog walks and a man walks the dog ."]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_lxmert(tmp_path_factory.mktemp("lxmert"))


def found(count: int, seed: int = 0) -> Regions:
    """Random regions of a picture."""
    random = np.random.default_rng(seed)
    corners = np.sort(random.uniform(0, 1, (count, 2, 2)), axis=1).reshape(count, 4)
    return Regions(f"p{seed}", random.normal(size=(count, 16)).astype(np.float32), corners.astype(np.float32))


def test_sentences_are_those_of_the_whole_models_language_layers(folder: Path) -> None:
    tokenizer, model = AutoTokenizer.from_pretrained(folder), LxmertModel.from_pretrained(folder).eval()
    expected = []
    for text in TEXTS:
        seen = found(3)
        with torch.no_grad():
            output = model(
                **tokenizer(text, return_tensors="pt"),
                visual_feats=torch.from_numpy(seen.features)[None],
                visual_pos=torch.from_numpy(seen.boxes)[None],
                output_hidden_states=True,
            )
        hidden = output.language_hidden_states[LAYERS["l_layers"] - 1][0]
        expected.append(torch.nn.functional.normalize(hidden.mean(0), dim=0))
    encoder = SentenceEncoder.load(str(folder))
    embeddings = encoder.encode(TEXTS)
    assert embeddings.shape == (3, encoder.width) == (3, 32)
    torch.testing.assert_close(embeddings, torch.stack(expected), rtol=1e-4, atol=1e-5)
    assert isinstance(encoder.model, LxmertLanguage)


def test_regions_are_those_of_the_whole_models_vision_layers(folder: Path) -> None:
    tokenizer, model = AutoTokenizer.from_pretrained(folder), LxmertModel.from_pretrained(folder).eval()
    pictures = [found(count, seed) for seed, count in enumerate((5, 1, 9))]
    expected = []
    for picture in pictures:
        with torch.no_grad():
            output = model(
                **tokenizer(TEXTS[0], return_tensors="pt"),
                visual_feats=torch.from_numpy(picture.features)[None],
                visual_pos=torch.from_numpy(picture.boxes)[None],
                output_hidden_states=True,
            )
        expected.append(output.vision_hidden_states[LAYERS["r_layers"] - 1][0].mean(0))
    features = region_encoder(str(folder)).encode(pictures)
    torch.testing.assert_close(features, torch.stack(expected), rtol=1e-4, atol=1e-5)
    # What a region's place is tells.
    moved = [Regions(p.id, p.features, p.boxes[:, [2, 3, 0, 1]]) for p in pictures]
    assert not torch.allclose(features, region_encoder(str(folder)).encode(moved), atol=1e-3)


def test_the_checkpoint_of_pretraining(folder: Path, tmp_path: Path) -> None:
    """What is published has the heads of pre-training, and its weights another prefix."""
    model = LxmertForPreTraining(LxmertModel.from_pretrained(folder).config)
    model.lxmert = LxmertModel.from_pretrained(folder)
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    assert torch.equal(embed_texts(TEXTS, str(tmp_path), None), embed_texts(TEXTS, str(folder), None))
    pictures = [found(4)]
    assert torch.equal(region_encoder(str(tmp_path)).encode(pictures), region_encoder(str(folder)).encode(pictures))


def test_the_mean_over_regions() -> None:
    pictures = [found(4), found(2, 1)]
    expected = np.stack([sum(picture.features) / len(picture.features) for picture in pictures])
    np.testing.assert_allclose(region_encoder(MEAN).encode(pictures), expected, rtol=1e-5)


def test_what_encodes_no_regions(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"encoder './absent': no such folder; expected 'mean', a folder"):
        region_encoder("./absent")
    with pytest.raises(UserError, match="cannot be loaded"):
        region_encoder(str(tmp_path))
    narrow = Regions("p", np.ones((2, 5), np.float32), np.zeros((2, 4), np.float32))
    with pytest.raises(UserError, match="regions of 'p' have 5 dimensions; the encoder expects 16"):
        region_encoder(str(folder)).encode([narrow])
    ViTModel(ViTConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)).save_pretrained(
        tmp_path / "vit"
    )
    with pytest.raises(UserError, match=r"is no LXMERT; regions are encoded by 'mean' or an LXMERT"):
        region_encoder(str(tmp_path / "vit"))


def test_weights_that_are_missing(tmp_path: Path) -> None:
    folder = small_lxmert(tmp_path)
    weights = load_file(folder / "model.safetensors")
    for name in ("encoder.r_layers.0.output.dense.bias", "encoder.layer.1.output.dense.bias"):
        del weights[name]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        UserError, match=r"no fitting weight for encoder\.r_layers\.0\.output\.dense\.bias \(1 in all\)"
    ):
        region_encoder(str(folder))
    with pytest.raises(UserError, match=r"no fitting weight for encoder\.layer\.1\.output\.dense\.bias"):
        SentenceEncoder.load(str(folder))
