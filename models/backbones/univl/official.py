"""Weights from elsewhere: the official UniVL checkpoint layout, and text encoders of `transformers`."""

from collections.abc import Mapping

import torch
from torch import Tensor

from models.backbones.bert import start_from
from models.backbones.checkpoints import fitted as fitted_state
from models.backbones.univl.network import UniVL
from models.errors import UserError

TIED = {
    "decoder.embeddings.word_embeddings.weight": "bert.embeddings.word_embeddings.weight",
    "decoder.embeddings.position_embeddings.weight": "bert.embeddings.position_embeddings.weight",
    "decoder.classifier.cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls_visual.predictions.weight": "visual.embeddings.word_embeddings.weight",
}
"""Names of the official layout that stand for another's tensor."""
OURS_ALONE = ("sentiment.",)
"""Heads that no official checkpoint has; they keep their initial weights then, and those of others are left out."""


def load_official(network: UniVL, state: Mapping[str, Tensor], where: str, allow_missing: bool = False) -> None:
    """Overwrites the network's weights with those of the official layout (`gamma` and `beta` of old norms included).

    Raises:
        UserError: as `fitted` does.
    """
    network.load_state_dict(fitted(network, state, where, allow_missing))


def fitted(network: UniVL, state: Mapping[str, Tensor], where: str, allow_missing: bool = False) -> dict[str, Tensor]:
    """The whole state of the network that tensors of the official layout give; only its names and shapes matter.

    Raises:
        UserError: names are missing or unknown (unless `allow_missing`), or a tensor has another shape.
    """
    ours = dict(network.state_dict())
    theirs: dict[str, Tensor] = {}
    for key, tensor in state.items():
        name = key.removeprefix("module.")
        for old, new in (("gamma", "weight"), ("beta", "bias")):
            if name.endswith(f"LayerNorm.{old}"):
                name = name.removesuffix(old) + new
        if name.endswith("position_ids"):  # a buffer of some versions of transformers
            continue
        first = TIED.get(name, name)
        if name in TIED and first in state and not torch.equal(tensor, state[first]):
            raise UserError(f"{where}: {name!r} differs from {first!r}, to which it is tied; expected equal tensors")
        theirs[first] = tensor
    return fitted_state(ours, theirs, where, OURS_ALONE, allow_missing)


def official_state(network: UniVL) -> dict[str, Tensor]:
    """The weights under all names of the official layout, tied ones repeated, and heads of our own."""
    state = dict(network.state_dict())
    return state | {name: state[first] for name, first in TIED.items()}


def start_text_from(network: UniVL, source: str) -> None:
    """Starts the text encoder from the embeddings and first layers of a BERT-like model of `transformers`.

    Raises:
        UserError: it cannot be loaded, has another width or fewer layers, words or positions than the network.
    """
    ours = {n.removeprefix("bert."): t for n, t in network.state_dict().items() if n.startswith("bert.")}
    start_from(source, {name: tensor for name, tensor in ours.items() if not name.startswith("pooler.")})
