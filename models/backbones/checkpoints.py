"""Weights from elsewhere: files of tensors, and how they come into a network under its own names."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from models.errors import UserError

NESTED = ("state_dict", "model", "module")
"""Under which keys training programs keep the weights, beside whatever else."""


def read_checkpoint(path: Path, what: str = "a checkpoint") -> dict[str, Tensor]:
    """A file of tensors by name (.bin, .pt, .pth, .ckpt of torch.save, or .safetensors), or an export's folder with
    one, on the CPU. No code in it is run.

    Raises:
        UserError: it is missing, is no such file, or holds something else than tensors.
    """
    if path.is_dir():
        path = path / "model.safetensors"
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected {what}") from None
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError) as error:
        raise UserError(f"{path}: is no file of tensors, or is cut short ({type(error).__name__})") from None
    except Exception as error:  # torch refuses foreign objects by an error of pickle's
        raise UserError(
            f"{path}: holds more than tensors ({type(error).__name__}), which could run code, and is not loaded; "
            "where you trust it, write the tensors alone once with "
            "torch.save(torch.load(OLD, weights_only=False)['state_dict'], NEW)"
        ) from None
    for key in NESTED:
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"{path}: expected tensors by name, as torch.save(model.state_dict()) writes them")
    return dict(state)


def fitted(
    ours: Mapping[str, Tensor],
    theirs: Mapping[str, Tensor],
    where: str,
    optional: Sequence[str] = (),
    allow_missing: bool = False,
    by_data: Sequence[str] = (),
) -> dict[str, Tensor]:
    """The whole state of a network: `theirs` where they have a tensor, `ours` elsewhere; only names and shapes matter.

    Args:
        optional: prefixes of names that may be missing, and are left out where the network has none of that name.
        by_data: prefixes of names of heads, with an output for every answer, class, entity or visual token. With
            `allow_missing` they begin anew where a checkpoint is for others.

    Raises:
        UserError: other names are missing or unknown (unless `allow_missing`), or a tensor has another shape.
    """
    extra, heads = tuple(optional), tuple(by_data)
    theirs = {name: tensor for name, tensor in theirs.items() if name in ours or not name.startswith(extra)}
    for name, tensor in list(theirs.items()):
        if name in ours and ours[name].shape != tensor.shape:
            found, wanted = tensor.shape, ours[name].shape
            if name.startswith(heads) and found[1:] == wanted[1:]:
                if not allow_missing:
                    raise UserError(
                        f"{where}: {name!r} is for {found[0]} answers, classes, entities or visual tokens, the data "
                        f"has {wanted[0]}; set model.allow_missing_weights=true to begin with new weights there"
                    )
                del theirs[name]
                continue
            raise UserError(
                f"{where}: {name!r} is {tuple(tensor.shape)}, the model's is {tuple(ours[name].shape)}; "
                "set the model's sizes to the checkpoint's"
            )
    missing = [name for name in ours if name not in theirs and not name.startswith(extra)]
    unknown = [name for name in theirs if name not in ours]
    for kind, names in (("has no", missing), ("has an unknown", unknown)):
        if names and not allow_missing:
            raise UserError(
                f"{where}: {kind} {names[0]!r} ({len(names)} such names); expected the official layout, or set "
                "model.allow_missing_weights=true"
            )
    return {name: theirs.get(name, tensor) for name, tensor in ours.items()}
