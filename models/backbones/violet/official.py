"""Weights from elsewhere: the layout of the official checkpoint, `ckpt_violet_pretrain.pt`."""

from collections.abc import Mapping

import torch
from torch import Tensor

from models.backbones.checkpoints import fitted as fitted_state
from models.backbones.violet.network import HEADS, MATCHING, Violet
from models.errors import UserError

TIED = {"fc_mtm.predictions.decoder.bias": "fc_mtm.predictions.bias"}
"""Names of the official layout that stand for another's tensor."""
BUFFERS = ("position_ids", "token_type_ids", "relative_position_index")
"""What some versions of the libraries save beside the weights."""
NEW = ("mc", "oe", "recognition")
"""Losses whose heads no pre-training has; they keep their initial weights then."""
SIZES = {
    "enc_img.emb_len": (1, "frame_positions"),
    "enc_img.emb_pos": (2, "cell_positions"),
    "enc_txt.emb_txt.position_embeddings.weight": (0, "text_positions"),
    "enc_txt.emb_txt.word_embeddings.weight": (0, "vocabulary"),
    "fc_mvm.3.weight": (0, "codes"),
}
"""Tables by name: the axis along which their rows are counted, and the configuration's key that says how many."""


def load_official(network: Violet, state: Mapping[str, Tensor], where: str, allow_missing: bool = False) -> None:
    """Overwrites the network's weights with those of the official layout.

    Raises:
        UserError: as `fitted` does.
    """
    network.load_state_dict(fitted(network, state, where, allow_missing))


def fitted(network: Violet, state: Mapping[str, Tensor], where: str, allow_missing: bool = False) -> dict[str, Tensor]:
    """The whole state of the network that tensors of the official layout give; only its names and shapes matter.

    The head that matches videos and texts is `fc` in pre-training and retrieval, `fc_vtm` in question answering: each
    starts the other. Heads of other losses than the network's are left out.

    Raises:
        UserError: names are missing or unknown (unless `allow_missing`), or a tensor has another shape.
    """
    ours, theirs = dict(network.state_dict()), dict[str, Tensor]()
    for key, tensor in state.items():
        name = key.removeprefix("module.")
        if name.rsplit(".", 1)[-1] in BUFFERS:
            continue
        first = TIED.get(name, name)
        if first in theirs and not torch.equal(theirs[first], tensor):
            raise UserError(f"{where}: {name!r} differs from {first!r}, to which it is tied; expected equal tensors")
        theirs[first] = tensor
    mine = network.heads.get("vtm", MATCHING)
    other = f"{HEADS['vtm'] if mine == MATCHING else MATCHING}."
    for name in [name for name in theirs if name.startswith(other)]:
        theirs.setdefault(f"{mine}.{name.removeprefix(other)}", theirs.pop(name))
    for name, (axis, key) in SIZES.items():
        if name in ours and name in theirs and ours[name].ndim == theirs[name].ndim:
            rows, wanted = theirs[name].shape[axis], ours[name].shape[axis]
            if rows != wanted:
                extra = 1 if key == "cell_positions" else 0  # the place of the frame's own token
                raise UserError(
                    f"{where}: {name!r} has {rows - extra} rows, model.{key} is {wanted - extra}; "
                    f"set model.{key}={rows - extra}"
                )
    foreign = tuple(f"{head}." for head in (MATCHING, *HEADS.values()) if head not in network.heads.values())
    new = tuple(f"{HEADS[loss]}." for loss in NEW)
    return fitted_state(ours, theirs, where, foreign + new, allow_missing, new)


def official_state(network: Violet) -> dict[str, Tensor]:
    """The weights under all names of the official layout, the tied one repeated, and heads of our own."""
    state = dict(network.state_dict())
    return state | {name: state[first] for name, first in TIED.items() if first in state}
