"""Sample numbers -> pixels, words and masks: all that a batch needs of the disk and of chance, away from any network.

Shape legend: n samples, T frames of s x s pixels, g x g cells a frame, O texts a sample, X tokens a text.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from models.config import StrictConfig
from models.data.asked import AskedSplit
from models.data.chance import Chance, generator, seed_of
from models.data.masking import masked_words
from models.data.pixels.augmentation import AugmentationConfig, chances_needed, square
from models.data.pixels.blocks import hidden_cells
from models.data.pixels.sampling import places
from models.data.pixels.sources import FrameSource
from models.data.tokens import Tokenizer
from models.errors import UserError

Arrays = dict[str, NDArray[Any]]


class WordsConfig(StrictConfig):
    """How texts become tokens."""

    tokenizer: str = "minilm"
    """Of a model of `transformers`: `minilm`, a folder or a hub name."""
    most: int = Field(default=40, ge=3)
    """Tokens of a text at most, special ones included."""
    masking: float = Field(default=0.15, ge=0.01, lt=1)
    """With what probability a word is masked; every text has one at least."""


@dataclass(frozen=True)
class PixelShape:
    """What a network wants to see."""

    frames: int
    size: int
    cells: int
    """Of a side of a frame."""


class PixelReader:
    """Reads the samples of one split. What is random about a sample depends on the draw and its own number alone.

    It can be pickled, and then reads in other processes; they need the same files.
    """

    def __init__(
        self,
        split: AskedSplit,
        source: FrameSource,
        shape: PixelShape,
        tokenizer: Tokenizer,
        words: WordsConfig,
        augmentation: AugmentationConfig,
    ) -> None:
        """A sample is an item, and looks the same at each draw, as for scoring; see `varied`.

        Raises:
            UserError: the texts of the split's items are not equally many.
        """
        self.split, self.source, self.shape, self.words = split, source, shape, words
        self.augmentation = augmentation
        self.vary, self.by_video = False, False
        self._last: tuple[int, NDArray[np.uint8]] | None = None
        self.mask, self.vocabulary = tokenizer.mask, tokenizer.vocabulary
        counts = {len(item.texts) for item in split.items}
        if len(counts) > 1:
            raise UserError(f"items with {min(counts)} and with {max(counts)} texts; expected equally many of each")
        self.options = max(1, *counts) if counts else 1
        texts = [text for item in split.items for text in (item.texts or ("",))]
        table = tokenizer.table(texts, words.most)
        self.ids = table.ids.view(len(split.items), self.options, words.most)
        self.lengths = table.lengths.view(len(split.items), self.options)
        self.video_of = torch.tensor([item.video for item in split.items], dtype=torch.long)
        self.answers = torch.tensor([item.answer for item in split.items], dtype=torch.long)
        self.items_of: list[list[int]] = [[] for _ in split.videos]
        for number, item in enumerate(split.items):
            self.items_of[item.video].append(number)

    def varied(self, by_video: bool = False) -> Self:
        """The same for training: a sample looks different at each draw, where `augmentation` has it so; `by_video`: it
        is a video with one of its items at random."""
        found = copy(self)
        found._last = None
        found.vary, found.by_video = self.augmentation.vary, by_video
        return found

    def __len__(self) -> int:
        return len(self.split.videos) if self.by_video else len(self.split.items)

    def __call__(self, numbers: Sequence[int], draw: int) -> Arrays:
        """The samples with these numbers (possibly none), as `draw` has them.

        Returns:
            frames (n, T, 3, s, s) uint8, hidden (n, T, g, g) bool; ids, masked_ids and token_labels (n, O, X), answers
            and seeds (n,) int64.

        Raises:
            UserError: a video cannot be read.
        """
        items = [self._item_of(number, draw) for number in numbers] if self.by_video else list(numbers)
        rows = torch.tensor(items, dtype=torch.long)
        ids, lengths = self.ids[rows].long(), self.lengths[rows]
        each = [number * self.options + option for number in numbers for option in range(self.options)]
        masked, labels = masked_words(
            each, draw, ids.flatten(0, 1), lengths.flatten(), self.words.masking, self.mask, self.vocabulary
        )
        shape = (len(items), self.shape.frames, 3, self.shape.size, self.shape.size)
        frames = np.empty(shape, np.uint8)
        for row, number in enumerate(numbers):
            frames[row] = self.video(int(self.video_of[items[row]]), number, draw)
        return {
            "frames": frames,
            "hidden": hidden_cells(numbers, draw, self.shape.frames, self.shape.cells),
            "ids": ids.numpy(),
            "masked_ids": masked.view_as(ids).numpy(),
            "token_labels": labels.view_as(ids).numpy(),
            "answers": self.answers[rows].numpy(),
            "seeds": np.array([seed_of(draw, number) for number in numbers], np.int64),
        }

    def video(self, video: int, number: int = 0, draw: int = 0) -> NDArray[np.uint8]:
        """The frames (T, 3, s, s) of a video, as the sample `number` sees them; not to be changed.

        Where all samples see the same, those of the last video are kept: it often is the next sample's too.
        """
        count = self.shape.frames
        if not self.vary:
            last = self._last
            if last is None or last[0] != video:
                images = self.source.frames(self.split.videos[video], places(count))
                last = self._last = video, square(images, self.shape.size, self.augmentation)
            return last[1]
        chance = generator(draw, number, Chance.SAMPLING).random(count + chances_needed(self.augmentation))
        images = self.source.frames(self.split.videos[video], places(count, chance[:count]))
        return square(images, self.shape.size, self.augmentation, chance[count:])

    def texts(self, rows: Tensor) -> Tensor:
        """(k, O, X) int64: the tokens of some items."""
        return self.ids[rows].long()

    def _item_of(self, number: int, draw: int) -> int:
        own = self.items_of[number]
        return own[int(generator(draw, number, Chance.CHOICE).integers(len(own)))]
