"""Video-language backbones by name; a backbone of one's own is named by where its configuration class is."""

import importlib
from inspect import isabstract

from models.backbones.video_language import VideoLanguageConfig
from models.errors import UserError

BACKBONES = {
    "violet": "models.backbones.violet.config:VioletConfig",
    "allinone": "models.backbones.allinone.config:AllInOneConfig",
    "alpro": "models.backbones.alpro.config:ALPROConfig",
    "hf": "models.backbones.hf.config:DualEncoderConfig",
    "vlm": "models.backbones.hf.config:GenerativeConfig",
}


def backbone(name: str) -> type[VideoLanguageConfig]:
    """The configuration class of a name in BACKBONES, or of `MODULE:CLASS`; its code is imported, so a recipe that
    names a module is trusted as much as that module.

    Raises:
        UserError: there is none.
    """
    module, colon, attribute = BACKBONES.get(name, name).partition(":")
    if not colon:
        raise UserError(
            f"model.name={name!r}: no such backbone; there are {', '.join(BACKBONES)}, or name the configuration class "
            "of your own as MODULE:CLASS"
        )
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except (ImportError, TypeError, ValueError) as error:  # the last two: of names that are none
        raise UserError(f"model.name={name!r}: cannot be imported ({error}); is its module on this path?") from None
    if not (isinstance(found, type) and issubclass(found, VideoLanguageConfig)) or isabstract(found):
        raise UserError(f"model.name={name!r}: {module} has no {attribute} that is a whole VideoLanguageConfig")
    return found
