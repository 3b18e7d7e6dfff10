"""Weights from elsewhere: the layout of the official all-in-one checkpoints."""

from collections.abc import Mapping

import torch
from torch import Tensor

from models.backbones.allinone.network import AllInOne
from models.backbones.checkpoints import fitted as fitted_state

HEADS = (
    "pooler.",
    "txt_proj.",
    "vid_proj.",
    "mlm_score.",
    "itm_score.",
    "rank_output.",
    "mc_vqa_classifier.",
    "vqa_classifier.",
    "recognition_classifier.",
    "mvm_score.",
)
"""Which of them a file has depends on what was trained; those that it lacks keep their initial weights."""
SIZED_BY_DATA = ("vqa_classifier.4.", "recognition_classifier.4.", "mvm_score.decoder.", "mvm_score.bias")
"""What has an output for every answer, class or visual token."""
_IGNORED = ("aux_model.", "text_embeddings.position_ids")
"""MELTR's network, which the official code keeps inside the model, and a buffer of some versions of transformers."""
_PLACES, _FRAMES = "text_embeddings.position_embeddings.weight", "transformer.temporal_embed"


def load_official(network: AllInOne, state: Mapping[str, Tensor], where: str, allow_missing: bool = False) -> None:
    """Overwrites the network's weights with those of the official layout.

    Raises:
        UserError: as `fitted` does.
    """
    network.load_state_dict(fitted(network, state, where, allow_missing))


def fitted(
    network: AllInOne, state: Mapping[str, Tensor], where: str, allow_missing: bool = False
) -> dict[str, Tensor]:
    """The whole state of the network that tensors of the official layout give.

    Places of words beyond the file's keep their initial weights; frames beyond the file's begin with a zero embedding.

    Raises:
        UserError: names other than heads' are missing or unknown (unless `allow_missing`), or a shape differs.
    """
    ours = dict(network.state_dict())
    theirs = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    theirs = {name: tensor for name, tensor in theirs.items() if not name.startswith(_IGNORED)}
    if not hasattr(network, "text_embeddings"):
        theirs = {name: tensor for name, tensor in theirs.items() if not name.startswith("text_embeddings.")}
    _fit_lengths(ours, theirs)
    if "rank_output.weight" in ours and "rank_output.weight" not in theirs:  # it ranks by what a pair's match scores
        for part in ("weight", "bias"):
            if f"itm_score.fc.{part}" in theirs:
                theirs[f"rank_output.{part}"] = theirs[f"itm_score.fc.{part}"][1:]
    optional = [head for head in HEADS if not (_has(ours, head) and _has(theirs, head))]
    return fitted_state(ours, theirs, where, optional, allow_missing, SIZED_BY_DATA)


def _has(state: Mapping[str, Tensor], head: str) -> bool:
    return any(name.startswith(head) for name in state)


def _fit_lengths(ours: Mapping[str, Tensor], theirs: dict[str, Tensor]) -> None:
    """Cuts or lengthens the tables of places in a text and of frames to the network's."""
    for name, axis in ((_PLACES, 0), (_FRAMES, 1)):
        table, own = theirs.get(name), ours.get(name)
        if table is None or own is None or table.dim() != own.dim() or table.shape[-1] != own.shape[-1]:
            continue
        kept = table.narrow(axis, 0, min(own.shape[axis], table.shape[axis]))
        rest = own.narrow(axis, kept.shape[axis], own.shape[axis] - kept.shape[axis])
        theirs[name] = torch.cat([kept.to(rest), rest if name == _PLACES else torch.zeros_like(rest)], axis)
