"""LXMERT's two unimodal encoders (Tan and Bansal, EMNLP 2019): its layers before those that see both modalities.

Shapes: n items, L tokens or R regions of the longest item, d hidden dimensions (768), f dimensions of a region (2048).
"""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn


def is_lxmert(model: nn.Module) -> bool:
    """Whether a model of transformers is a whole LXMERT."""
    return bool(getattr(getattr(model, "config", None), "model_type", "") == "lxmert" and hasattr(model, "encoder"))


class LxmertLanguage(nn.Module):
    """The language encoder: embeddings and `l_layers`."""

    def __init__(self, model: Any) -> None:
        """Takes its layers from a `transformers.LxmertModel`."""
        super().__init__()
        self.config, self.embeddings, self.layers = model.config, model.embeddings, model.encoder.layer

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Any:
        """(n, L) ids and a mask that is 1 for tokens -> an output whose `last_hidden_state` is (n, L, d)."""
        kinds = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        hidden, mask = self.embeddings(input_ids, kinds), _additive(attention_mask)
        for layer in self.layers:
            hidden = layer(hidden, mask)[0]
        return SimpleNamespace(last_hidden_state=hidden)


class LxmertVision(nn.Module):
    """The object-relationship encoder: the embeddings of regions and `r_layers`."""

    def __init__(self, model: Any) -> None:
        """Takes its layers from a `transformers.LxmertModel`."""
        super().__init__()
        self.config, self.embeddings, self.layers = model.config, model.encoder.visn_fc, model.encoder.r_layers

    def forward(self, features: Tensor, boxes: Tensor, mask: Tensor) -> Tensor:
        """(n, R, f) features, (n, R, 4) boxes in shares of the image, (n, R) 1 for regions -> (n, R, d)."""
        hidden: Tensor = self.embeddings(features, boxes)
        added = _additive(mask)
        for layer in self.layers:
            hidden = layer(hidden, added)[0]
        return hidden


def _additive(mask: Tensor) -> Tensor:
    """What is added to the scores of attention: 0 where the mask is 1, else so little that nothing is attended to."""
    return (1.0 - mask[:, None, None, :].float()) * torch.finfo(torch.float32).min
