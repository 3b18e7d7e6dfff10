"""How transformers begin: with small random weights as BERT did, or with those of a BERT-like model."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from models.data.sentences import SentenceEncoder
from models.errors import UserError

CUT = ("position_embeddings.weight", "token_type_embeddings.weight")
"""Tables of which the first rows are enough."""


def initialise(module: nn.Module) -> None:
    """Weights of BERT's deviation, 0.02, and no biases (Devlin et al. 2019); for `nn.Module.apply`."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


@torch.no_grad()
def start_from(source: str, ours: Mapping[str, Tensor], width: str = "hidden") -> None:
    """Overwrites tensors, by their names in BERT (`embeddings.word_embeddings.weight`, ...), with those of a model.

    Args:
        source: `minilm`, a folder or a hub name; what `model.text_from` says. It may have more layers and positions.
        width: the key of the model's configuration that decides how wide these tensors are.

    Raises:
        UserError: it cannot be loaded, or lacks a tensor or has it in another shape.
    """
    with torch.device("cpu"):  # the network may be without weights, on the meta device
        theirs = SentenceEncoder.load(source).model.state_dict()
    for name, tensor in ours.items():
        found = theirs.get(name)
        if found is None:
            raise UserError(f"model.text_from={source}: has no {name!r}; expected a BERT of enough layers")
        if name.endswith(CUT):
            found = found[: len(tensor)]
        if found.shape != tensor.shape:
            raise UserError(
                f"model.text_from={source}: {name!r} is {tuple(found.shape)}, the model's {tuple(tensor.shape)}; "
                f"set model.{width}, model.intermediate and model.vocabulary to its sizes"
            )
        tensor.copy_(found)
