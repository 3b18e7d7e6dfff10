"""An All-in-one as a recipe asks for it: from which weights it starts, what is frozen, what is adapted."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from models.backbones.allinone.config import AllInOneConfig
from models.backbones.allinone.network import AllInOne
from models.backbones.allinone.official import HEADS, fitted, load_official
from models.backbones.bert import start_from
from models.backbones.checkpoints import read_checkpoint
from models.backbones.fitting import check_fit
from models.backbones.video_language import Setting
from models.freezing import freeze
from models.lora import adapt, merged


def build(config: AllInOneConfig, setting: Setting) -> AllInOne:
    """A network to train.

    Raises:
        UserError: the weights that the configuration names cannot be read or do not fit, or its sizes the setting.
    """
    network = _network(config, setting)
    if config.checkpoint is not None:
        load_official(network, _read(config.checkpoint), config.checkpoint, config.allow_missing_weights)
    if config.text_from is not None and hasattr(network, "text_embeddings"):
        words = network.text_embeddings.named_parameters()
        start_from(config.text_from, {f"embeddings.{name}": tensor for name, tensor in words})
    if config.lora is not None:
        adapt(network, config.lora, ("qkv",), HEADS)
    if config.frozen:
        freeze(network, lambda name: AllInOne.component_of(name) in config.frozen)
    return network


def check_start(config: AllInOneConfig, setting: Setting) -> None:
    """Whether `build` will find the weights that it starts from, and whether they fit; without making a network.

    Raises:
        UserError: as `build` does.
    """
    with torch.device("meta"):
        network = _network(config, setting)
    if config.checkpoint is not None:
        fitted(network, _read(config.checkpoint), config.checkpoint, config.allow_missing_weights)


def plain(config: AllInOneConfig, setting: Setting, weights: Mapping[str, Tensor]) -> AllInOne:
    """The network that `build` became by training: all weights in their places, none beside them."""
    alone = config.without_start()
    trained = build(alone, setting)
    trained.load_state_dict(dict(weights))
    network = _network(alone.model_copy(update={"lora": None, "frozen": ()}), setting)
    network.load_state_dict(merged(trained))
    return network


def _network(config: AllInOneConfig, setting: Setting) -> AllInOne:
    names = config.losses(setting.kind, setting.codes)
    check_fit(setting, config.vocabulary, config.text_positions)
    return AllInOne(config, setting, names)


def _read(path: str) -> dict[str, Tensor]:
    return read_checkpoint(Path(path), "an all-in-one checkpoint")
