"""A Violet as a recipe asks for it: whether it fits the task, from which weights it starts, what is trained of it."""

from pathlib import Path

from torch import Tensor

from models.backbones.bert import start_from
from models.backbones.checkpoints import read_checkpoint
from models.backbones.fitting import check_fit
from models.backbones.video_language import Setting
from models.backbones.violet.config import VioletConfig
from models.backbones.violet.network import Violet
from models.backbones.violet.official import load_official
from models.errors import UserError
from models.lora import adapt

PROJECTIONS = ("query", "value", "qkv")
"""Of the attention: the BERT's, and the Swin's, which has one map for all three."""


def build(config: VioletConfig, setting: Setting) -> Violet:
    """A network to train.

    Raises:
        UserError: the sizes do not fit the setting, or the weights that the configuration names cannot be read or do
            not fit.
    """
    _check(config, setting)
    state = None if config.checkpoint is None else read_checkpoint(Path(config.checkpoint), "a Violet checkpoint")
    network = Violet(config, setting)
    if state is not None:
        load_official(network, state, str(config.checkpoint), config.allow_missing_weights)
    if config.text_from is not None:
        start_from(config.text_from, _bert(network), "embed_dim")
    if config.lora is not None:
        adapt(network, config.lora, PROJECTIONS, tuple(f"{head}." for head in network.heads.values()))
    return network


def _bert(network: Violet) -> dict[str, Tensor]:
    """The weights that a BERT also has, under its names."""
    theirs = {"enc_txt.emb_txt.": "embeddings.", "trsfr.": "encoder."}
    parameters = list(network.named_parameters())
    return {new + n.removeprefix(old): t for old, new in theirs.items() for n, t in parameters if n.startswith(old)}


def _check(config: VioletConfig, setting: Setting) -> None:
    check_fit(setting, config.vocabulary, config.text_positions)
    if setting.codes > config.codes:
        raise UserError(
            f"model.codes={config.codes}: the visual tokenizer has {setting.codes} tokens; set model.codes to at least "
            "that"
        )
