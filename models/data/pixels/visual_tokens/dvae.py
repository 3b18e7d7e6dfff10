"""Visual tokens by the encoder of DALL-E's discrete VAE (Ramesh et al., ICML 2021), under its official names.

Shape legend: B frames of 8g x 8g pixels, C channels (`width`), K codes.
"""

from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.backbones.checkpoints import read_checkpoint
from models.errors import UserError

GROUPS, SHRINK = 4, 8
_MARGIN = 0.1
_CONVERT = (
    "the official encoder.pkl is a program's object, which is not loaded: where its package dall_e is installed, write "
    "its tensors once with torch.save(torch.load('encoder.pkl', weights_only=False).state_dict(), 'encoder.pt')"
)


class _Convolution(nn.Module):
    """Of odd size, padded so that height and width stay."""

    def __init__(self, inputs: int, outputs: int, size: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(outputs, inputs, size, size) / (inputs * size**2) ** 0.5)
        self.b = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.w, self.b, padding=self.w.shape[-1] // 2)


class _Block(nn.Module):
    """A bottleneck of four convolutions beside a shortcut; `layers` in all share what they add."""

    def __init__(self, inputs: int, outputs: int, layers: int) -> None:
        super().__init__()
        hidden = outputs // 4
        self.gain = 1 / layers**2
        self.id_path = nn.Identity() if inputs == outputs else _Convolution(inputs, outputs, 1)
        path: OrderedDict[str, nn.Module] = OrderedDict()
        channels = [inputs, hidden, hidden, hidden, outputs]
        for number in range(1, 5):
            path[f"relu_{number}"] = nn.ReLU()
            path[f"conv_{number}"] = _Convolution(channels[number - 1], channels[number], 1 if number == 4 else 3)
        self.res_path = nn.Sequential(path)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.id_path(x) + self.gain * self.res_path(x)
        return found


class Encoder(nn.Module):
    """(B, 3, 8g, 8g) pixels as `mapped` -> (B, K, g, g) logits."""

    def __init__(self, width: int = 256, blocks: int = 2, codes: int = 8192) -> None:
        """`width`: channels of the first group, doubled by each further one; a multiple of 4. `blocks`: of a group."""
        super().__init__()
        parts: OrderedDict[str, nn.Module] = OrderedDict(input=_Convolution(3, width, 7))
        channels = width
        for group in range(1, GROUPS + 1):
            outputs = width * 2 ** (group - 1)
            inner: OrderedDict[str, nn.Module] = OrderedDict()
            for block in range(1, blocks + 1):
                inner[f"block_{block}"] = _Block(channels, outputs, GROUPS * blocks)
                channels = outputs
            if group < GROUPS:
                inner["pool"] = nn.MaxPool2d(2)
            parts[f"group_{group}"] = nn.Sequential(inner)
        parts["output"] = nn.Sequential(OrderedDict(relu=nn.ReLU(), conv=_Convolution(channels, codes, 1)))
        self.blocks = nn.Sequential(parts)

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.blocks(pixels)
        return logits


def mapped(pixels: Tensor) -> Tensor:
    """Pixels from 0 to 1 as the encoder takes them: away from the ends, by the logit-Laplace distribution's margin."""
    return (1 - 2 * _MARGIN) * pixels + _MARGIN


class DVAETokenizer:
    """The likeliest code of each cell; the frame is made so large that the encoder's grid is the one asked for."""

    def __init__(self, encoder: Encoder, codes: int, grid: int) -> None:
        self.encoder, self.codes, self.grid = encoder.eval().requires_grad_(False), codes, grid

    @classmethod
    def load(cls, path: Path, grid: int) -> "DVAETokenizer":
        """Reads the encoder's tensors, by their official names, from .safetensors or what torch.save wrote of a state
        dict; the sizes are those of the tensors.

        Raises:
            UserError: the file is missing or holds something else.
        """
        if path.suffix == ".pkl":
            raise UserError(f"{path}: {_CONVERT}")
        try:
            state = read_checkpoint(path, "the encoder of DALL-E's dVAE")
        except UserError as error:
            raise UserError(f"{error}; {_CONVERT}") from None
        for name in ("blocks.input.w", "blocks.output.conv.w"):
            if name not in state or state[name].ndim != 4:
                raise UserError(
                    f"{path}: has no tensor {name!r} of 4 dimensions; expected the encoder of DALL-E's dVAE"
                )
        width, codes = len(state["blocks.input.w"]), len(state["blocks.output.conv.w"])
        blocks = sum(name.startswith("blocks.group_1.") and name.endswith(".res_path.conv_1.w") for name in state)
        with torch.device("meta"):
            encoder = Encoder(width, blocks, codes)
        wanted = {name: tensor.shape for name, tensor in encoder.state_dict().items()}
        for name in sorted(wanted.keys() | state.keys()):
            shapes = [tuple(found[name]) if name in found else None for found in (wanted, _shapes(state))]
            if shapes[0] != shapes[1]:
                raise UserError(
                    f"{path}: tensor {name!r} is {shapes[1] or 'missing'}; expected {shapes[0] or 'no such tensor'} in "
                    f"a dVAE encoder of {width} channels, {blocks} blocks a group and {codes} codes"
                )
        encoder.load_state_dict({name: tensor.float() for name, tensor in state.items()}, assign=True)
        return cls(encoder, codes, grid)

    @torch.no_grad()
    def __call__(self, frames: Tensor) -> Tensor:
        encoder = self.encoder.to(frames.device)
        tokens = frames.new_empty(*frames.shape[:2], self.grid, self.grid, dtype=torch.long)
        # One at a time: the order of a convolution's sums changes with the size of a batch, and near ties with it.
        with torch.autocast(frames.device.type, enabled=False):
            for token, frame in zip(tokens.flatten(0, 1), frames.flatten(0, 1).float(), strict=True):
                small = F.interpolate(frame[None], size=(SHRINK * self.grid,) * 2, mode="bilinear", antialias=True)
                token[:] = encoder(mapped(small))[0].argmax(0)
        return tokens


def _shapes(state: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in state.items()}
