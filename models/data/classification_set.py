"""An image classification data set as a recipe names it: where it is, what is held out, how images are varied."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from models.config import StrictConfig
from models.data.cifar import ImageSet, digits, hold_out, read_cifar100
from models.data.files import data_path


class ClassificationDataConfig(StrictConfig):
    """Which images to read. A relative path is looked up below `root` (default: the MELTMATCH_DATA folder)."""

    name: Literal["cifar100", "digits"] = "cifar100"
    """`digits` are scikit-learn's own; they need no file."""
    root: str | None = None
    path: str | None = None
    """Of CIFAR-100 in any form that `models.data.cifar.read_cifar100` knows (default: `cifar100`)."""
    validation: float = Field(default=0.1, ge=0, lt=1)
    """The fraction of the training images that is held out, always the same ones."""
    mixup_alpha: float = Field(default=1.0, gt=0)
    """Mixing coefficients are drawn from Beta(mixup_alpha, mixup_alpha)."""
    augment: bool = True
    """Crop at random, after padding by 4 pixels, and mirror at random. Never done to digits, whose mirror images are
    no digits."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.name == "digits" and self.path is not None:
            raise ValueError(f"path={self.path!r} has no meaning with name='digits', which come with scikit-learn")
        return self

    def place(self) -> Path:
        """Where CIFAR-100 is."""
        return data_path(self.root, self.path or "cifar100")


def load_images(config: ClassificationDataConfig) -> dict[str, ImageSet]:
    """The images of the splits train, validation (possibly empty) and test.

    Raises UserError when files are missing or malformed.
    """
    if config.name == "digits":
        read, test = digits("train"), digits("test")
    else:
        read, test = (read_cifar100(config.place(), split) for split in ("train", "test"))
    # The same images for every seed of a run, so that runs can be compared.
    train, validation = hold_out(read, config.validation, seed=0)
    return {"train": train, "validation": validation, "test": test}
