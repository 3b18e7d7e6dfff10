"""Whether a video-language network of certain sizes fits the data; what they all must hold."""

from models.backbones.video_language import Setting
from models.errors import UserError


def check_fit(setting: Setting, vocabulary: int, positions: int, key: str = "text_positions") -> None:
    """`vocabulary` and `positions`: words and places of the network's tables; `key`: what configures the latter.

    Raises:
        UserError: they are fewer than the data needs, or there is nothing to choose from.
    """
    if setting.vocabulary > vocabulary:
        raise UserError(
            f"model.vocabulary={vocabulary}: the tokenizer has {setting.vocabulary} ids; take the checkpoint's "
            "tokenizer, or set model.vocabulary to at least that"
        )
    if setting.words > positions:
        raise UserError(
            f"model.{key}={positions}: texts have up to {setting.words} tokens; lower inputs.words.most, or raise "
            f"model.{key}"
        )
    if setting.kind in ("open_ended", "recognition") and not setting.classes:
        raise UserError(f"the data names no answers or classes for {setting.kind}; expected one or more to choose from")
