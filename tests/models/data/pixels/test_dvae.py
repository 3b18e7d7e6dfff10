"""The dVAE's encoder beside its definition, its official names and shapes, and files that hold something else."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from models.data.pixels.visual_tokens.dvae import DVAETokenizer, Encoder, mapped
from models.errors import UserError

WIDTH, BLOCKS, CODES, GRID = 4, 2, 11, 3


def small() -> dict[str, Tensor]:
    """Random weights that matter in every layer."""
    torch.manual_seed(0)
    state = Encoder(WIDTH, BLOCKS, CODES).state_dict()
    return {name: 3 * tensor if name.endswith("w") else torch.randn(len(tensor)) for name, tensor in state.items()}


def videos(count: int, frames: int, side: int) -> Tensor:
    return torch.rand(count, frames, 3, side, side, generator=torch.Generator().manual_seed(1))


def reference(state: dict[str, Tensor], pixels: Tensor) -> Tensor:
    """(1, 3, 8g, 8g) from 0 to 1 -> (1, K, g, g), as the paper's code has it: a line an operation."""

    def convolved(x: Tensor, name: str, padding: int) -> Tensor:
        return F.conv2d(x, state[f"{name}.w"], state[f"{name}.b"], padding=padding)

    x = convolved(0.8 * pixels + 0.1, "blocks.input", 3)
    for group in range(1, 5):
        for block in range(1, BLOCKS + 1):
            name = f"blocks.group_{group}.block_{block}"
            inner = convolved(x.relu(), f"{name}.res_path.conv_1", 1)
            inner = convolved(inner.relu(), f"{name}.res_path.conv_2", 1)
            inner = convolved(inner.relu(), f"{name}.res_path.conv_3", 1)
            inner = convolved(inner.relu(), f"{name}.res_path.conv_4", 0)
            x = (convolved(x, f"{name}.id_path", 0) if f"{name}.id_path.w" in state else x) + inner / (4 * BLOCKS) ** 2
        if group < 4:
            x = F.max_pool2d(x, 2)
    return convolved(x.relu(), "blocks.output.conv", 0)


def test_against_its_definition(tmp_path: Path) -> None:
    state = small()
    save_file(state, tmp_path / "encoder.safetensors")
    tokenizer = DVAETokenizer.load(tmp_path / "encoder.safetensors", GRID)
    assert tokenizer.codes == CODES
    frames = videos(2, 3, 8 * GRID)
    tokens = tokenizer(frames)
    assert tokens.shape == (2, 3, GRID, GRID)
    assert tokens.dtype == torch.int64
    for video in range(2):
        for frame in range(3):
            logits = reference(state, frames[video, frame, None])
            assert torch.allclose(tokenizer.encoder(mapped(frames[video, frame, None])), logits, atol=1e-5)
            assert torch.equal(tokens[video, frame], logits[0].argmax(0))
    assert len(tokens.unique()) > 3


def test_frames_of_any_size_give_the_grid() -> None:
    tokenizer = DVAETokenizer(Encoder(WIDTH, 1, CODES), CODES, GRID)
    tokenizer.encoder.load_state_dict({name: 2 * value for name, value in tokenizer.encoder.state_dict().items()})
    frames = videos(1, 1, 8 * GRID)
    larger = frames.repeat_interleave(4, -1).repeat_interleave(4, -2)
    small_again = F.interpolate(larger[0], size=(24, 24), mode="bilinear", antialias=True)[None]
    assert torch.equal(tokenizer(larger), tokenizer(small_again))
    assert tokenizer(videos(0, 2, 40)).shape == (0, 2, GRID, GRID)


def test_no_batch_mate_changes_a_frames_tokens() -> None:
    tokenizer = DVAETokenizer(Encoder(8, 1, 300), 300, GRID)
    frames = videos(5, 2, 40)
    whole = tokenizer(frames)
    assert torch.equal(whole[[3, 1]], tokenizer(frames[[3, 1]]))
    assert torch.equal(whole[:, 1:], tokenizer(frames[:, 1:]))


def test_official_names_and_shapes() -> None:
    """Of openai/DALL-E's Encoder() with its own sizes."""
    expected = {"blocks.input": (256, 3, 7, 7), "blocks.output.conv": (8192, 2048, 1, 1)}
    bottleneck = ((1, 256, 256), (2, 256, 512), (3, 512, 1024), (4, 1024, 2048))
    for group, inputs, outputs in bottleneck:
        for block, channels in ((1, inputs), (2, outputs)):
            name, hidden = f"blocks.group_{group}.block_{block}", outputs // 4
            if channels != outputs:
                expected[f"{name}.id_path"] = (outputs, channels, 1, 1)
            expected[f"{name}.res_path.conv_1"] = (hidden, channels, 3, 3)
            expected[f"{name}.res_path.conv_2"] = (hidden, hidden, 3, 3)
            expected[f"{name}.res_path.conv_3"] = (hidden, hidden, 3, 3)
            expected[f"{name}.res_path.conv_4"] = (outputs, hidden, 1, 1)
    with torch.device("meta"):
        found = {name: tuple(tensor.shape) for name, tensor in Encoder().state_dict().items()}
    assert found == {f"{name}.w": shape for name, shape in expected.items()} | {
        f"{name}.b": shape[:1] for name, shape in expected.items()
    }
    assert len(expected) == 2 + 8 * 4 + 3


def test_files_of_torch_save(tmp_path: Path) -> None:
    state = small()
    torch.save({name: tensor.half() for name, tensor in state.items()}, tmp_path / "encoder.pt")
    tokenizer = DVAETokenizer.load(tmp_path / "encoder.pt", GRID)
    for name, tensor in tokenizer.encoder.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, state[name].half().float())


@pytest.mark.parametrize("name", ["encoder.pkl", "encoder.pt"])
def test_a_whole_module_is_refused(tmp_path: Path, name: str) -> None:
    torch.save(Encoder(WIDTH, 1, CODES), tmp_path / name)
    with pytest.raises(UserError, match=r"write its tensors once with torch.save\(.*state_dict\(\)") as error:
        DVAETokenizer.load(tmp_path / name, GRID)
    assert str(tmp_path / name) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"blocks.input.w": None}, "has no tensor 'blocks.input.w'"),
        ({"blocks.output.conv.w": torch.zeros(3)}, "has no tensor 'blocks.output.conv.w' of 4 dimensions"),
        ({"blocks.group_2.block_1.id_path.b": None}, "'blocks.group_2.block_1.id_path.b' is missing"),
        (
            {"blocks.group_3.block_2.res_path.conv_4.w": torch.zeros(16, 3, 1, 1)},
            r"4.w' is \(16, 3, 1, 1\); expected",
        ),
        ({"blocks.extra": torch.zeros(2)}, r"'blocks.extra' is \(2,\); expected no such tensor"),
        ({"blocks.input.w": torch.zeros(6, 3, 7, 7)}, "expected .* in a dVAE encoder of 6 channels"),
    ],
)
def test_other_tensors(tmp_path: Path, change: dict[str, Tensor | None], says: str) -> None:
    state = {name: tensor for name, tensor in {**small(), **change}.items() if tensor is not None}
    save_file(state, tmp_path / "encoder.safetensors")
    with pytest.raises(UserError, match=says) as error:
        DVAETokenizer.load(tmp_path / "encoder.safetensors", GRID)
    assert str(tmp_path) in str(error.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file; expected the encoder of DALL-E's dVAE"):
        DVAETokenizer.load(tmp_path / "encoder.pt", GRID)
