"""Weights in the official layout: of the pre-trained model, of those fine-tuned from it, and of a prompter alone."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from models.backbones.alpro.network import ALPRO
from models.backbones.checkpoints import fitted
from models.errors import UserError

TIED = {
    "text_encoder.cls.predictions.decoder.weight": "text_encoder.bert.embeddings.word_embeddings.weight",
    "text_encoder.cls.predictions.decoder.bias": "text_encoder.cls.predictions.bias",
}
"""Names of the official layout that stand for another's tensor."""
VIDEO = "visual_encoder.model."
HEADS = ("classifier.", "mpm_head.", "mvm_head.", "recognition_head.")
"""Heads of one data set. They keep their initial values where a checkpoint has none."""
OPTIONAL = (*HEADS, "text_encoder.cls.", f"{VIDEO}head.")
"""Models that were fine-tuned to answer have no head for words; the classes of the TimeSformer's own pre-training are
never used."""
PARTS = ("text_encoder.", "vision_proj.", "text_proj.", "temp", "itm_head.")
"""What some kinds of tasks do without."""
PROMPTS = ("video_prompt_feat", "image_prompt_feat")
"""They follow from the entities that are asked for."""


def load_official(network: ALPRO, state: Mapping[str, Tensor], where: str, allow_missing: bool = False) -> None:
    """Overwrites the network's weights, without the prompter's, with those of the official layout.

    Position tables are resized to the network's: over time to the nearest frame, as the official code does, and in
    space on the grid (the official code goes along the flattened rows, which mixes places up).

    Raises:
        UserError: names are missing or unknown (unless `allow_missing`), or a tensor has another shape.
    """
    ours = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith("prompter.")}
    theirs = _translated(state, ours, where)
    absent = tuple(part for part in PARTS if not any(name.startswith(part) for name in ours))
    optional = (*OPTIONAL, *absent, "prompter.")
    network.load_state_dict(fitted(ours, theirs, where, optional, allow_missing, HEADS), strict=False)


def load_prompter(network: ALPRO, state: Mapping[str, Tensor], where: str, allow_missing: bool = False) -> None:
    """Overwrites the weights of the network's prompter with those of a prompter alone, or of one inside a checkpoint.

    Raises:
        UserError: as `load_official` does, and when there is no prompter in it.
    """
    names = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    inside = {name.removeprefix("prompter."): t for name, t in names.items() if name.startswith("prompter.")}
    ours = {name: t for name, t in network.prompter.state_dict().items() if name not in PROMPTS}
    theirs = _translated(inside or names, ours, where)
    unused = ("text_encoder.cls.", "itm_head.", f"{VIDEO}head.", "mpm_head.", *PROMPTS)
    layers = max(int(name.split(".")[4]) for name in ours if name.startswith("text_encoder.bert.encoder."))
    theirs = {name: t for name, t in theirs.items() if not _beyond(name, layers)}
    network.prompter.load_state_dict(fitted(ours, theirs, where, unused, allow_missing), strict=False)


def official_state(network: ALPRO) -> dict[str, Tensor]:
    """The weights under all names of the official layout, tied ones repeated, and heads of our own."""
    state = {name: tensor[0] if name.endswith("temp") else tensor for name, tensor in network.state_dict().items()}
    return state | {name: state[first] for name, first in TIED.items() if first in state}


def _beyond(name: str, layers: int) -> bool:
    place = name.split(".")
    return name.startswith("text_encoder.bert.encoder.layer.") and place[4].isdigit() and int(place[4]) > layers


def _translated(state: Mapping[str, Tensor], ours: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Their tensors by our names, in our number of dimensions and of positions."""
    renamed = {}
    for key, tensor in state.items():
        name = key.removeprefix("module.")
        if name.startswith(("text_encoder.embeddings.", "text_encoder.encoder.")):  # models that answer
            name = name.replace("text_encoder.", "text_encoder.bert.", 1)
        if not name.endswith("position_ids"):  # a buffer of some versions of transformers
            renamed[name] = tensor
    for name, first in TIED.items():
        tied = renamed.pop(name, None)
        if tied is not None and first in renamed and not torch.equal(tied, renamed[first]):
            raise UserError(f"{where}: {name!r} differs from {first!r}, to which it is tied; expected equal tensors")
    for name, tensor in list(renamed.items()):
        own = ours.get(name)
        if own is None:
            continue
        if name == "temp" and tensor.dim() == 0:  # DeepSpeed broadcasts no tensor without dimensions
            renamed[name] = tensor[None]
        elif name == f"{VIDEO}time_embed" and _resizable(tensor, own):
            renamed[name] = F.interpolate(tensor.transpose(1, 2), own.shape[1], mode="nearest").transpose(1, 2)
        elif name == f"{VIDEO}pos_embed" and _resizable(tensor, own):
            renamed[name] = _on_a_grid(tensor, own.shape[1] - 1, where)
    return renamed


def _resizable(tensor: Tensor, own: Tensor) -> bool:
    return tensor.dim() == 3 and tensor.shape[::2] == own.shape[::2] and tensor.shape[1] != own.shape[1]


def _on_a_grid(table: Tensor, places: int, where: str) -> Tensor:
    """(1, 1 + side^2, H) -> (1, 1 + places, H), bicubically; what belongs to [CLS] stays."""
    old, new = round((table.shape[1] - 1) ** 0.5), round(places**0.5)
    if old**2 != table.shape[1] - 1:
        raise UserError(f"{where}: '{VIDEO}pos_embed' has {table.shape[1]} places; expected 1 and those of a square")
    grid = table[:, 1:].transpose(1, 2).unflatten(2, (old, old))
    resized = F.interpolate(grid, (new, new), mode="bicubic", align_corners=False, antialias=False)
    return torch.cat([table[:, :1], resized.flatten(2).transpose(1, 2)], 1)
