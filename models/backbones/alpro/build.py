"""An ALPRO as a recipe asks for it: from which weights it starts, what is frozen, what is adapted."""

from pathlib import Path

from models.backbones.alpro.config import ALPROConfig
from models.backbones.alpro.network import ALPRO
from models.backbones.alpro.official import load_official, load_prompter
from models.backbones.alpro.prompter import read_entities
from models.backbones.checkpoints import read_checkpoint
from models.backbones.fitting import check_fit
from models.backbones.video_language import Setting
from models.errors import UserError
from models.freezing import freeze
from models.lora import adapt

ADAPTED = ("qkv", "query", "value")
TRAINED = ("vision_proj", "text_proj", "temp", "itm_head", "classifier", "recognition_head", "mpm_head", "mvm_head")
"""With low-rank adaptation: what is trained as it is."""


def build(config: ALPROConfig, setting: Setting) -> ALPRO:
    """A network to train.

    Raises:
        UserError: the weights or entities that the configuration names cannot be read or do not fit, or the sizes do
            not fit the setting.
    """
    check_fit(setting, setting.vocabulary, config.positions, "positions")
    entities = () if config.entities is None else read_entities(Path(config.entities))
    network = ALPRO(config, setting, len(entities))
    _start(network, config, entities)
    prompter = network._modules.pop("prompter", None)  # low-rank matrices are for what is trained
    if config.lora is not None:
        adapt(network, config.lora, ADAPTED, TRAINED)
    if prompter is not None:
        network.add_module("prompter", prompter)
    freeze(network, lambda name: name.startswith("prompter."))
    return network


def _start(network: ALPRO, config: ALPROConfig, entities: tuple[str, ...]) -> None:
    """Fills the network with the weights that the configuration names, if it names any."""
    allow = config.allow_missing_weights
    state = None
    if config.checkpoint is not None:
        state = read_checkpoint(Path(config.checkpoint), "an ALPRO checkpoint")
        load_official(network, state, config.checkpoint, allow)
    if not entities or (state is None and config.prompter is None):
        return
    if config.prompter is not None:
        load_prompter(network, read_checkpoint(Path(config.prompter), "a prompter"), config.prompter, allow)
    elif state is not None and any(name.removeprefix("module.").startswith("prompter.") for name in state):
        load_prompter(network, state, str(config.checkpoint), allow)
    else:
        raise UserError(f"{config.checkpoint}: has no prompter, which model.entities needs; name one by model.prompter")
    network.prompter.prompt(entities, config, network.setting.vocabulary)
