"""A contrastive two-tower model of clips and snippets, decoded by monotone dynamic programming.

Shapes: B pairs in a batch, N clips, M snippets, D joint dimensions.
"""

import math
from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from models.baselines.dynamic_programming import align_monotone, choose_unmatched
from models.baselines.held_out import Standardiser, hold_out
from models.config import StrictConfig
from models.data.examples import Example
from models.data.movie import Alignment
from models.neumatch.contrastive import contrastive_loss
from models.neumatch.pairs import matched_pairs


class TwoTowerConfig(StrictConfig):
    """The network, its training, and what `fit` chooses from on held-out training movies.

    Attributes:
        epochs: one. On `yms_msrvtt` each further epoch lowers the figures of the validation movies. Movies held out
            of the training split do not show it, because they share videos with the rest, so it is not chosen there.
        unmatched: scores of an unmatched clip, as cosines.
        hold_out_every: every so-manieth training movie is held out for the choice.
    """

    hidden: Annotated[int, Field(ge=1)] = 512
    joint: Annotated[int, Field(ge=1)] = 256
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    temperature: Annotated[float, Field(gt=0)] = 0.1
    rate: Annotated[float, Field(gt=0)] = 1e-3
    epochs: Annotated[int, Field(ge=1)] = 1
    batch: Annotated[int, Field(ge=2)] = 256
    seed: int = 101
    unmatched: Annotated[tuple[float, ...], Field(min_length=1)] = tuple(i / 40 for i in range(-8, 25))
    hold_out_every: Annotated[int, Field(ge=2)] = 5


class TwoTower:
    """The unmatched score is chosen on held-out training movies, then the towers are trained anew on all."""

    def __init__(self, config: TwoTowerConfig | None = None) -> None:
        self.config = config or TwoTowerConfig()

    def fit(self, examples: Sequence[Example]) -> None:
        """Trains twice, the same way each time for one seed; torch's global random state stays as it was.

        Raises:
            UserError: no movies, or none with a matched clip.
        """
        kept, held = hold_out(examples, self.config.hold_out_every)
        towers = train(kept, self.config)
        similarities = [similarity(towers, example) for example in held]
        self.unmatched, _ = choose_unmatched([e.movie for e in held], similarities, self.config.unmatched)
        self.towers = train(examples, self.config)

    def align(self, example: Example) -> Alignment:
        """Needs `fit` first."""
        return align_monotone(similarity(self.towers, example), self.unmatched)


class Towers(nn.Module):
    """A multi-layer perceptron over standardised clip features and a linear map of sentence embeddings."""

    def __init__(self, standardise: Standardiser, video: int, text: int, config: TwoTowerConfig) -> None:
        super().__init__()
        self.standardise = standardise
        self.video = nn.Sequential(
            nn.Linear(video, config.hidden),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden, config.joint),
        )
        self.text = nn.Linear(text, config.joint)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(config.temperature)))

    def forward(self, video: Tensor, text: Tensor) -> Tensor:
        """(N, d_video), (M, d_text) -> (N, M) cosines."""
        clips = F.normalize(self.video(self.standardise(video)), dim=1)
        return clips @ F.normalize(self.text(text), dim=1).T


def train(examples: Sequence[Example], config: TwoTowerConfig) -> Towers:
    """Towers trained with Adam on the matched pairs of the gold alignment, in evaluation mode."""
    pairs = matched_pairs(examples)
    device = pairs.video.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.enable_grad():
        torch.manual_seed(config.seed)
        towers = Towers(Standardiser.of(pairs.video), pairs.video.shape[1], pairs.text.shape[1], config).to(device)
        optimiser = torch.optim.Adam(towers.parameters(), lr=config.rate)
        for _ in range(config.epochs):
            order = torch.randperm(len(pairs.snippet)).to(device)
            for chosen in torch.split(order, config.batch):
                cosines = towers(pairs.video[chosen], pairs.text[chosen])
                loss = contrastive_loss(cosines * towers.log_scale.exp().clamp(max=100), pairs.snippet[chosen])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
    return towers.eval()


@torch.no_grad()
def similarity(towers: Towers, example: Example) -> Tensor:
    """(N, M) cosines of a movie's clips and snippets."""
    scores: Tensor = towers(example.video, example.text)
    return scores
