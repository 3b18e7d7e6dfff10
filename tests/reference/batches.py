"""Small networks and random batches with legal gold actions, for the tests of the network and of decoding."""

import random
from collections.abc import Sequence
from typing import Literal

import torch

from models.neumatch.actions import YMS_ACTIONS, Action
from models.neumatch.lookahead import GAIN, LookaheadConfig
from models.neumatch.network import Batch, NeuMATCH, NeuMATCHConfig
from models.neumatch.samples import Sample, collate

VARIANTS: list[tuple[Literal["rp", "full"], Literal["none", "sbn", "2xln", "4xln"]]] = [
    ("rp", "sbn"),
    ("full", "sbn"),
    ("rp", "none"),
    ("rp", "2xln"),
    ("rp", "4xln"),
]
ALL_ACTIONS = tuple(Action)


def small_network(
    projection: Literal["rp", "full"] = "rp",
    normalisation: Literal["none", "sbn", "2xln", "4xln"] = "sbn",
    actions: tuple[Action, ...] = YMS_ACTIONS,
    seed: int = 0,
    unbiased: bool = True,
    lookahead: bool = False,
    positions: Literal["counts", "shares"] = "counts",
) -> NeuMATCH:
    """A narrow network in float64 none of whose parameters is at a special value such as 0 or 1."""
    torch.manual_seed(seed)
    config = NeuMATCHConfig(
        projection=projection,
        normalisation=normalisation,
        actions=actions,
        width=6,
        action_hidden=3,
        matched_hidden=4,
        sbn_unbiased=unbiased,
        positions=positions,
        lookahead=LookaheadConfig(hidden=5, joint=4) if lookahead else None,
    )
    widths = (6, 6) if projection == "rp" else (9, 7)
    network = NeuMATCH(config, *widths).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        if lookahead:  # these are multiplied: so that nothing is certain
            network.lookahead.bias.div_(GAIN)
            network.lookahead.likeness.div_(GAIN)
    return network


def legal_actions(clips: int, snippets: int, actions: Sequence[Action], chance: random.Random) -> tuple[int, ...]:
    """Random action ids that are possible from full stacks; with pops, they go on until both stacks are empty."""
    chosen: list[int] = []
    clip = text = 0
    while True:
        possible = [
            number
            for number, action in enumerate(actions)
            if (clip < clips or not (action.drops_clip or action.matches))
            and (text < snippets or not (action.drops_snippet or action.matches))
        ]
        if not possible:
            return tuple(chosen)
        chosen.append(chance.choice(possible))
        clip += actions[chosen[-1]].drops_clip
        text += actions[chosen[-1]].drops_snippet


def random_samples(network: NeuMATCH, sizes: Sequence[tuple[int, int]], seed: int) -> list[Sample]:
    """One sample with random features and actions for each (clips, snippets); half of them are cut short."""
    chance, source = random.Random(seed), torch.Generator().manual_seed(seed)
    widths = [sample_width(network, "video"), sample_width(network, "text")]
    samples = []
    for clips, snippets in sizes:
        ids = legal_actions(clips, snippets, network.config.actions, chance)
        ids = ids[: chance.choice([len(ids), chance.randint(0, len(ids))])]
        video, text = (
            torch.randn(n, width, generator=source, dtype=torch.float32)
            for n, width in zip((clips, snippets), widths, strict=True)
        )
        samples.append(Sample(video, text, ids))
    return samples


def random_batch(network: NeuMATCH, sizes: Sequence[tuple[int, int]], seed: int) -> Batch:
    """`random_samples`, padded into a batch."""
    widths = [sample_width(network, "video"), sample_width(network, "text")]
    return collate(random_samples(network, sizes, seed), *widths)


def sample_width(network: NeuMATCH, modality: str) -> int:
    """How wide the features are that the network takes."""
    first = getattr(network.encoders, modality)[0]
    assert isinstance(first, torch.nn.Linear)
    return first.in_features
