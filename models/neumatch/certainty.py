"""How sure the network is of an alignment: the probability of what was done with each clip.

It is the network's own word, and an over-confident network over-states it: a figure to rank by, not a calibrated one.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from models.data.examples import Example
from models.data.movie import Alignment
from models.neumatch.actions import Action, gold_actions
from models.neumatch.network import NeuMATCH
from models.neumatch.samples import Sample, collate


@torch.no_grad()
def confidences(
    network: NeuMATCH, examples: Sequence[Example], alignments: Sequence[Alignment]
) -> list[tuple[float, ...]]:
    """For each clip of each preprocessed movie the softmax probability, 0 to 1, of the action that deals with it.

    An alignment is walked through once, teacher-forced, along the actions that training would take for it
    (`gold_actions`); a clip that is matched with several snippets gets the product of its actions'.

    Raises:
        ValueError: an alignment that the network's actions cannot make.
    """
    if not examples:
        return []
    actions = network.config.actions
    samples = [
        Sample(e.video, e.text, tuple(gold_actions(alignment, len(e.movie.snippets), actions)))
        for e, alignment in zip(examples, alignments, strict=True)
    ]
    batch = collate(samples, examples[0].video.shape[1], examples[0].text.shape[1])
    device, was_training = network.fc1.weight.device, network.training
    network.eval()
    try:
        logits, chosen, _ = network(batch.to(device))
    finally:
        network.train(was_training)
    probabilities = F.softmax(logits.double(), dim=1).gather(1, chosen[:, None])[:, 0].cpu()
    parts = probabilities.split([len(sample.actions) for sample in samples])
    return [
        _of_clips(part, [actions[number] for number in sample.actions], len(sample.video))
        for part, sample in zip(parts, samples, strict=True)
    ]


def _of_clips(probabilities: Tensor, taken: Sequence[Action], clips: int) -> tuple[float, ...]:
    found, clip = [1.0] * clips, 0
    for probability, action in zip(probabilities.tolist(), taken, strict=True):
        if action.matches or action.drops_clip:
            found[clip] *= probability
        clip += action.drops_clip
    return tuple(found)


def of_snippets(alignment: Alignment, snippets: int, of_clips: Sequence[float]) -> list[float | None]:
    """For each snippet the mean of its clips' confidences, None where it has no clip."""
    own: list[list[float]] = [[] for _ in range(snippets)]
    for texts, confidence in zip(alignment, of_clips, strict=True):
        for j in texts:
            own[j].append(confidence)
    return [sum(values) / len(values) if values else None for values in own]
