"""From a configuration and a setting to a network: what they must have in common, the weights, what is trained."""

from collections.abc import Sequence
from pathlib import Path

from models.backbones.checkpoints import fitted, read_checkpoint
from models.backbones.hf.config import LLAVA, DualEncoderConfig, GenerativeConfig
from models.backbones.hf.dual import DualEncoder
from models.backbones.hf.generative import Generative
from models.backbones.hf.prompts import prompt_ids
from models.backbones.hf.seeing import LlavaSeeing, QwenSeeing
from models.backbones.hf.source import SourceConfig
from models.backbones.hf.towers import XCLIP, towers_of
from models.backbones.hf.videomae import MaskedAutoencoder
from models.backbones.video_language import Setting, VideoLanguageNetwork
from models.errors import UserError
from models.lora import adapt


def dual(config: DualEncoderConfig, setting: Setting) -> VideoLanguageNetwork:
    """A network of two towers. Raises UserError as `VideoLanguageConfig.build`."""
    from transformers import AutoModel

    made = config.of_transformers(setting)
    text, vision = made.text_config, made.vision_config
    config.check_tokenizer(setting, text.vocab_size)
    places = text.max_position_embeddings
    if setting.words > places:
        raise UserError(
            f"{config.where}: takes texts of at most {places} tokens, not of {setting.words}; lower inputs.words.most"
        )
    if hasattr(vision, "image_size"):
        config.check_image(vision.image_size)
    else:
        config.check_multiple(vision.patch_size)
    if made.model_type == XCLIP:
        config.check_frames(vision.num_frames)
    towers = towers_of(config.model(AutoModel, made), setting.padding, config.where)
    network = DualEncoder(towers, setting, config.statistics(config.published))
    return _started(network, config, ("q_proj", "v_proj", "query", "value"), ("head.", "towers.scale."), ("head.",))


def masked_autoencoder(config: DualEncoderConfig, setting: Setting) -> VideoLanguageNetwork:
    """A VideoMAE with its decoder. Raises UserError as `VideoLanguageConfig.build`."""
    from transformers import VideoMAEForPreTraining

    made = config.of_transformers(setting)
    config.check_image(made.image_size)
    config.check_multiple(made.patch_size)
    config.check_frames(made.num_frames)
    if made.num_frames % made.tubelet_size:
        raise UserError(
            f"{config.where}: takes {made.tubelet_size} frames together; set model.frames to a multiple of that, "
            f"not to {made.num_frames}"
        )
    model = config.model(VideoMAEForPreTraining, made)
    network = MaskedAutoencoder(model, setting, config.statistics(config.published), config.hidden_share)
    heads = ("head.", "codes.")
    return _started(network, config, ("query", "value"), (*heads, "norm.", "decoder.mask_token"), heads)


def generative(config: GenerativeConfig, setting: Setting) -> VideoLanguageNetwork:
    """A language model that sees. Raises UserError as `VideoLanguageConfig.build`."""
    from transformers import AutoModelForImageTextToText

    made = config.of_transformers(setting)
    config.check_tokenizer(setting, made.text_config.vocab_size)
    if made.model_type == LLAVA:
        config.check_image(made.vision_config.image_size)
    else:
        config.check_multiple(made.vision_config.patch_size * made.vision_config.spatial_merge_size)
    prompt = prompt_ids(config)
    model = config.model(AutoModelForImageTextToText, made)
    seeing = LlavaSeeing(model.model, config.where) if made.model_type == LLAVA else QwenSeeing(model.model)
    network = Generative(model, seeing, config, setting, prompt, config.statistics(config.published))
    maps = [
        name
        for name, _ in network.language.named_modules(prefix="language")
        if name.endswith((".q_proj", ".k_proj", ".v_proj", ".o_proj"))
    ]
    return _started(network, config, maps, ())


def _started(
    network: VideoLanguageNetwork,
    config: SourceConfig,
    maps: Sequence[str],
    trained: Sequence[str],
    heads: Sequence[str] = (),
) -> VideoLanguageNetwork:
    """The network with the weights of a checkpoint, and low-rank matrices where they are asked for.

    `maps` and `trained` as in `models.lora.adapt`. What begins with one of `heads` depends on the data: it may
    be missing in the checkpoint, and `fitted` says when it may be for other data.
    """
    if config.checkpoint is not None:
        theirs = read_checkpoint(Path(config.checkpoint), "the weights of an export")
        own, allowed = network.state_dict(), config.allow_missing_weights
        network.load_state_dict(fitted(own, theirs, config.checkpoint, heads, allowed, by_data=heads))
    if config.lora is not None:
        adapt(network, config.lora, maps, trained)
    return network
