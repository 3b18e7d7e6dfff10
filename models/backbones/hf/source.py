"""A model of `transformers` as a recipe names it: a folder, a hub name, or its sizes, for random weights."""

import copy
import json
import math
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import Field, model_validator
from safetensors import SafetensorError, safe_open

from models.backbones.hf.passes import Triple
from models.backbones.video_language import NO_LABEL, Setting, VideoLanguageBatch, VideoLanguageConfig
from models.data.hub import LOAD, loading, locate, one_line, quiet
from models.data.sentences import has_tokenizer, load_tokenizer
from models.errors import UserError

IMAGENET: tuple[Triple, Triple] = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP: tuple[Triple, Triple] = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HALF: tuple[Triple, Triple] = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
_PROCESSORS = ("preprocessor_config.json", "video_preprocessor_config.json", "processor_config.json")
_LABELS = ("id2label", "label2id")
_PARTS = ("text_config", "vision_config")
_SIZES = ("image_size", "patch_size", "tubelet_size", "temporal_patch_size", "spatial_merge_size", "num_frames")
"""What frames are cut up by."""


class SourceConfig(VideoLanguageConfig):
    """What the configurations of all models of `transformers` have in common."""

    source: str | None = None
    """A folder or a hub name: config.json and safetensors weights; no code that comes with them is run."""
    architecture: dict[str, Any] = {}
    """Instead of `source`: the `model_type` and the keys of a config.json that differ from that type's defaults, for
    random weights. The vocabulary, the image size and the frames follow the setting where it does not name them."""
    mean: Triple | None = Field(default=None, strict=False)
    """Of the pixels' colours, from 0 to 1; by default what the source's processor says, or the family's."""
    std: Triple | None = Field(default=None, strict=False)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if (self.source is None) == (not self.architecture):
            raise ValueError("name either source (a folder or a hub name) or architecture (with its model_type)")
        if self.architecture and not isinstance(self.architecture.get("model_type"), str):
            raise ValueError("architecture has no model_type; name the family, such as clip")
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std go together; give both or none")
        return self

    @property
    def where(self) -> str:
        """The model's name in errors."""
        return f"model.source={self.source!r}" if self.source else "model.architecture"

    @property
    def family(self) -> str:
        """The model's type, as `transformers` names it."""
        found: str = _read(self.source).model_type if self.source else self.architecture["model_type"]
        return found

    def of_transformers(self, setting: Setting | None = None) -> Any:
        """The configuration of `transformers`, to be changed at will.

        Raises:
            UserError: it cannot be read or built, is of another family, or cuts frames up by no whole number.
        """
        self._checked()
        if self.source is not None:
            made = copy.deepcopy(_read(self.source))
            _check_sizes(made.to_dict(), self.where)
            return made
        _check_sizes(self.architecture, self.where)
        return _made(self._filled(setting))

    def _checked(self) -> str:
        """The family. Raises UserError where it is none of those that this configuration is for."""
        raise NotImplementedError

    def _filled(self, setting: Setting | None) -> dict[str, Any]:
        """`architecture` with what follows from the other keys and the setting."""
        filled = copy.deepcopy(self.architecture)
        if setting is not None:
            text = filled.setdefault("text_config", {})
            text.setdefault("vocab_size", setting.vocabulary - setting.shift)
        filled.setdefault("vision_config", {}).setdefault("image_size", self.image_size)
        return filled

    def model(self, kind: Any, made: Any) -> Any:
        """A model of `kind`, an auto class or a class of `transformers`, float32, as `made` has it.

        Raises:
            UserError: the weights cannot be read, some are missing (unless `allow_missing_weights`), or do not fit.
        """
        folder = self.folder()
        if folder is None or torch.get_default_device().type == "meta":  # a look at the sizes alone
            if folder is not None:
                self._check_files(folder)
            build = getattr(kind, "from_config", None) or kind._from_config
            with loading("model.architecture: cannot be built", "; expected sizes that go together"):
                return build(made).float()
        with loading(f"{self.where} ({folder}): cannot be loaded", "; expected config.json and safetensors weights"):
            found, report = kind.from_pretrained(
                folder,
                config=made,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **LOAD,
            )
        # transformers fills with random numbers whatever the file lacks or has in another shape.
        missing = [] if self.allow_missing_weights else sorted(report["missing_keys"])
        for problem, names in (("another shape of", report["mismatched_keys"]), ("no", missing)):
            if names:
                first = next(iter(sorted(str(name if isinstance(name, str) else name[0]) for name in names)))
                raise UserError(
                    f"{self.where}: has {problem} {first!r} ({len(names)} such names); expected a whole "
                    f"{made.model_type}, or set model.allow_missing_weights=true for what is missing"
                )
        return found

    def _check_files(self, folder: Path) -> None:
        """Raises UserError where there are no weights, or a file of them is damaged: only its beginning is read."""
        paths = sorted(folder.glob("*.safetensors"))
        if not paths:
            raise UserError(f"{self.where} ({folder}): has no weights; expected files *.safetensors")
        for path in paths:
            try:
                with safe_open(path, "pt"):
                    pass
            except (OSError, SafetensorError) as error:
                raise UserError(f"{path}: is no file of tensors, or is cut short ({one_line(error)})") from None

    def folder(self) -> Path | None:
        """Where the source's files are. Raises UserError where it cannot be found."""
        return None if self.source is None else locate(self.source, "model", "architecture")

    def check_tokenizer(self, setting: Setting, vocabulary: int) -> None:
        """Raises UserError where the words of the setting are not those that the model knows `vocabulary` of."""
        own = setting.vocabulary - setting.shift
        advice = f"set inputs.words.tokenizer to the model's own ({self.source or 'its folder'})"
        if own > vocabulary:
            raise UserError(f"{self.where}: knows {vocabulary} tokens and the tokenizer has {own}; {advice}")
        folder = self.folder()
        if folder is not None and has_tokenizer(folder):
            theirs = len(load_tokenizer(str(folder)))
            if theirs != own:
                raise UserError(f"{self.where}: its tokenizer has {theirs} tokens, the task's {own}; {advice}")

    def statistics(self, published: tuple[Triple, Triple]) -> tuple[Triple, Triple]:
        """Mean and deviation of the colours that the model wants standardised away."""
        if self.mean is not None and self.std is not None:
            return self.mean, self.std
        folder = self.folder()
        if folder is None:
            return published
        for path in (folder / name for name in _PROCESSORS):
            if found := _statistics(path):
                return found
        return published

    def check_image(self, size: int) -> None:
        """Raises UserError where the model's images are not `image_size`."""
        if size != self.image_size:
            raise UserError(f"{self.where}: takes images of {size} pixels; set model.image_size={size}")

    def check_multiple(self, patch: int) -> None:
        """Raises UserError where patches of that many pixels do not fill an image."""
        if self.image_size % patch:
            raise UserError(f"{self.where}: model.image_size={self.image_size} must be a multiple of {patch}")

    def check_frames(self, frames: int) -> None:
        """Raises UserError where the model does not see as many frames as `frames`."""
        if self.frames != frames:
            raise UserError(f"{self.where}: takes {frames} frames; set model.frames={frames}")

    def without_start(self) -> Self:
        """The same network without the weights that it starts from, for those who bring their own."""
        if self.source is None:
            return super().without_start()
        made = self.of_transformers()
        mean, std = self.statistics(self.published)
        changes = {"source": None, "architecture": _plain(made), "checkpoint": None, "mean": mean, "std": std}
        return self.model_copy(update=changes)

    def weights(self, batch: VideoLanguageBatch, names: Sequence[str]) -> dict[str, float]:
        """As of every backbone; `names` and `answering` are over samples with a known answer too."""
        known = float((batch.answers != NO_LABEL).sum())
        return super().weights(batch, names) | {name: known for name in names if name in ("names", "answering")}

    @property
    def published(self) -> tuple[Triple, Triple]:
        """The family's own mean and deviation of the colours."""
        raise NotImplementedError


@lru_cache(maxsize=16)
def _read(source: str) -> Any:
    from transformers import AutoConfig

    folder = locate(source, "model", "architecture")
    with loading(f"model.source={source!r} ({folder}): cannot be read", "; expected the config.json of transformers"):
        return AutoConfig.from_pretrained(folder, **LOAD)


def _made(architecture: Mapping[str, Any]) -> Any:
    from transformers import AutoConfig

    keys = {name: value for name, value in architecture.items() if name != "model_type"}
    with loading(f"model.architecture: model_type={architecture['model_type']!r} cannot be built with these keys"):
        made = AutoConfig.for_model(architecture["model_type"], **copy.deepcopy(keys))
    _check_keys(architecture, made, "model.architecture")
    return made


def _check_sizes(given: Mapping[str, Any], where: str) -> None:
    for name in (name for name in _SIZES if name in given):
        value = given[name]
        if value is not None and (not isinstance(value, int) or value < 1):
            raise UserError(f"{where}.{name}={value!r:.60}: expected a whole number, 1 or more")
    for name in (name for name in _PARTS if name in given):
        if not isinstance(given[name], Mapping):
            raise UserError(f"{where}.{name}={given[name]!r:.60}: expected keys and values")
        _check_sizes(given[name], f"{where}.{name}")


def _check_keys(given: Mapping[str, Any], made: Any, where: str) -> None:
    """transformers takes any key; one that is not of the model would be without effect."""
    with quiet():
        default = type(made)()
    for name, value in given.items():
        if not hasattr(default, name):
            near = get_close_matches(name, list(vars(default)), n=1)
            raise UserError(
                f"{where}.{name}: no such key of {made.model_type}" + (f"; did you mean {near[0]}?" if near else "")
            )
        if isinstance(value, Mapping) and hasattr(inner := getattr(made, name), "model_type"):
            _check_keys(value, inner, f"{where}.{name}")


def _plain(made: Any) -> dict[str, Any]:
    """The keys of a configuration that the next reader will know, as JSON has them."""
    with quiet():
        default, found = type(made)(), {}
    for name, value in made.to_dict().items():
        inner = getattr(made, name, None)
        if hasattr(inner, "to_dict"):
            found[name] = _plain(inner)
        elif hasattr(default, name) and name not in _LABELS:
            found[name] = value
    return found | {"model_type": made.model_type}


def _statistics(path: Path) -> tuple[Triple, Triple] | None:
    """What a processor's file says of the colours; None where it says nothing, as null does.

    Raises:
        UserError: it is no JSON object, or says something else than three numbers of each.
    """
    try:
        written = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: is no JSON ({type(error).__name__}); expected a processor's configuration") from None
    for key in (None, "image_processor", "video_processor"):
        part, where = (written, f"{path}") if key is None else (written.get(key), f"{path}: {key}")
        if part is None and key is not None:
            continue
        if not isinstance(part, Mapping):
            raise UserError(f"{where}: is {part!r:.60}; expected a JSON object")
        if part.get("do_normalize") is False:
            return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        mean, std = part.get("image_mean"), part.get("image_std")
        if mean is not None and std is not None:
            return _triple(mean, f"{where}: image_mean"), _triple(std, f"{where}: image_std", above=0)
    return None


def _triple(value: object, where: str, above: float = -math.inf) -> Triple:
    numbers = value if isinstance(value, list) else []
    if len(numbers) != 3 or not all(type(n) in (int, float) and math.isfinite(n) and n > above for n in numbers):
        wanted = "numbers above 0" if above == 0 else "numbers"
        raise UserError(f"{where} is {value!r:.60}; expected three {wanted}, or set model.mean and model.std")
    return float(numbers[0]), float(numbers[1]), float(numbers[2])
