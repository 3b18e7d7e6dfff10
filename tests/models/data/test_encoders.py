"""Image encoders: what they make of images of any size, out of a package and out of a folder of transformers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, ViTConfig, ViTImageProcessorPil, ViTModel

from models.data.encoders import LITE0, geometry, image_encoder
from models.errors import UserError

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
}


def image(height: int = 60, width: int = 90) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    ViTModel(ViTConfig(**SMALL, patch_size=8)).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    text = {**SMALL, "vocab_size": 50, "max_position_embeddings": 8}
    del text["image_size"]
    vision = {**SMALL, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)).save_pretrained(folder)
    size = {"shortest_edge": 32}
    CLIPImageProcessorPil(size=size, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("shape", [(60, 90), (224, 224), (500, 300), (3, 5)])
def test_the_packages_encoder_takes_any_image(shape: tuple[int, int]) -> None:
    fitted = geometry(LITE0).fit(image(*shape))
    assert fitted.shape == (224, 224, 3)
    assert fitted.dtype == np.uint8


def test_features_do_not_depend_on_the_batch() -> None:
    encoder, fit = image_encoder(LITE0), geometry(LITE0).fit
    images = torch.from_numpy(np.stack([fit(image(40 + 10 * i, 60)) for i in range(3)]))
    together = encoder.encode(images)
    assert together.shape == (3, encoder.width) == (3, 1280)
    torch.testing.assert_close(together[1:2], encoder.encode(images[1:2]), rtol=1e-4, atol=1e-5)
    assert not together.requires_grad


def test_its_features_are_those_of_the_msrvtt_set(data_root: Path) -> None:
    """The set's features were made from frames of other decoders and sizes: near, not equal."""
    from models.data.film import stills

    stored = np.load(data_root / "msrvtt" / "frame_features.npz")
    rows = np.flatnonzero((stored["video_shot_sub_frame"][:, [0, 3]] == (7013, 0)).all(1))
    expected = torch.from_numpy(stored["features"][rows[0]].astype(np.float32))
    [first] = stills(data_root / "msrvtt" / "videos" / "video7013.mp4", [0.0], side=224)
    found = image_encoder(LITE0).encode(torch.from_numpy(geometry(LITE0).fit(first))[None])[0]
    assert torch.cosine_similarity(found, expected, dim=0) > 0.98


def test_a_vision_model_of_transformers(vit: Path) -> None:
    encoder = image_encoder(str(vit))
    processor, model = ViTImageProcessorPil.from_pretrained(vit), ViTModel.from_pretrained(vit).eval()
    with torch.no_grad():
        expected = model(**processor(image(), return_tensors="pt")).pooler_output
    found = encoder.encode(torch.from_numpy(geometry(str(vit)).fit(image()))[None])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_model_of_images_and_texts(clip: Path) -> None:
    encoder = image_encoder(str(clip))
    processor, model = CLIPImageProcessorPil.from_pretrained(clip), CLIPModel.from_pretrained(clip).eval()
    with torch.no_grad():
        vision = model.vision_model(**processor(image(), return_tensors="pt"))
        expected = model.visual_projection(vision.pooler_output)
    assert encoder.width == 24
    found = encoder.encode(torch.from_numpy(geometry(str(clip)).fit(image()))[None])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_what_is_no_encoder(tmp_path: Path, vit: Path) -> None:
    with pytest.raises(UserError, match=r"encoder './absent': no such folder; expected 'efficientnet-lite0'"):
        geometry("./absent")
    with pytest.raises(UserError, match="has no image processor"):
        geometry(str(tmp_path))
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((vit / name).read_bytes())
    with pytest.raises(UserError, match=r"cannot be loaded"):
        image_encoder(str(tmp_path))
