"""A UniVL as a recipe asks for it: from which weights it starts, what is frozen, what is adapted."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from models.backbones.checkpoints import read_checkpoint
from models.backbones.univl.config import UniVLConfig
from models.backbones.univl.network import UniVL
from models.backbones.univl.official import fitted, load_official, start_text_from
from models.freezing import freeze
from models.lora import adapt, merged


def build(config: UniVLConfig) -> UniVL:
    """A network to train.

    Raises:
        UserError: the weights that the configuration names cannot be read or do not fit.
    """
    network = UniVL(config)
    if config.checkpoint is not None:
        state = read_checkpoint(Path(config.checkpoint), "a UniVL checkpoint")
        load_official(network, state, config.checkpoint, config.allow_missing_weights)
    if config.text_from is not None:
        start_text_from(network, config.text_from)
    if config.lora is not None:
        adapt(network, config.lora, ("query", "value"), ("similarity_dense", "sentiment", "normalize_video"))
    if config.frozen:
        freeze(network, lambda name: UniVL.component_of(name) in config.frozen)
    return network


def check_start(config: UniVLConfig) -> None:
    """Whether `build` will find the weights that it starts from, and whether they fit; without making a network.

    Raises:
        UserError: as `build` does.
    """
    with torch.device("meta"):
        network = UniVL(config)
    if config.checkpoint is not None:
        fitted(
            network,
            read_checkpoint(Path(config.checkpoint), "a UniVL checkpoint"),
            config.checkpoint,
            config.allow_missing_weights,
        )
    if config.text_from is not None:
        start_text_from(network, config.text_from)


def plain(config: UniVLConfig, weights: Mapping[str, Tensor]) -> UniVL:
    """The network that `build(config)` became by training: all weights in their places, none beside them."""
    alone = config.without_start()
    trained = build(alone)
    trained.load_state_dict(dict(weights))
    network = UniVL(alone.model_copy(update={"lora": None, "frozen": ()}))
    network.load_state_dict(merged(trained))
    return network
