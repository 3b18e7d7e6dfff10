"""An All-in-one as a recipe asks for it: from which weights it starts, what is frozen, what is adapted."""

from pathlib import Path

from models.backbones.allinone.config import AllInOneConfig
from models.backbones.allinone.network import AllInOne
from models.backbones.allinone.official import HEADS, load_official
from models.backbones.bert import start_from
from models.backbones.checkpoints import read_checkpoint
from models.backbones.fitting import check_fit
from models.backbones.video_language import Setting
from models.lora import adapt


def build(config: AllInOneConfig, setting: Setting) -> AllInOne:
    """A network to train.

    Raises:
        UserError: the weights that the configuration names cannot be read or do not fit, or its sizes the setting.
    """
    names = config.losses(setting.kind, setting.codes)
    check_fit(setting, config.vocabulary, config.text_positions)
    network = AllInOne(config, setting, names)
    if config.checkpoint is not None:
        state = read_checkpoint(Path(config.checkpoint), "an all-in-one checkpoint")
        load_official(network, state, config.checkpoint, config.allow_missing_weights)
    if config.text_from is not None and hasattr(network, "text_embeddings"):
        words = network.text_embeddings.named_parameters()
        start_from(config.text_from, {f"embeddings.{name}": tensor for name, tensor in words})
    if config.lora is not None:
        adapt(network, config.lora, ("qkv",), HEADS)
    return network
