"""Training on the network's own decisions: it walks on its own, and a dynamic oracle says what would have been right.

On gold histories alone a network never sees what its mistakes lead to (exposure bias). Here a share of the steps of a
sample follows the network's own choice and the rest the oracle's, which knows the best action in every cell, also where
the gold actions never go: DAgger (Ross et al., AISTATS 2011) with a dynamic oracle (Goldberg and Nivre, COLING 2012).
Shape legend: B samples, V clips, T snippets (each the batch's longest), L = V + T.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from models.neumatch.actions import Action
from models.neumatch.decoding import Stepper
from models.neumatch.network import Batch, Encoded, Histories, NeuMATCH


@dataclass(frozen=True)
class OwnDecisions:
    """What a batch needs beside its sequences."""

    owner: Tensor
    """(B, V) int64: the snippet of each clip in the gold alignment, in the order of time; -1 for none."""
    own: Tensor
    """(B, L) bool: whether the network's choice is followed at this step, else the oracle's."""

    @torch.no_grad()
    def __call__(self, network: NeuMATCH, batch: Batch, encoded: Encoded) -> Histories:
        """Walks all samples together until one of their stacks is empty (nothing is left to learn from there on)."""
        stepper = Stepper(network, encoded)
        right = best_actions(self.owner, batch.text.shape[1], network.config.actions)
        samples, longest = self.own.shape
        actions = torch.zeros(samples, longest, dtype=torch.int64, device=right.device)
        targets, lengths = torch.zeros_like(actions), torch.zeros(samples, dtype=torch.int64, device=right.device)
        h = stepper.start()
        h = h.select(stepper.unfinished(h).nonzero()[:, 0])
        for step in range(longest):
            if not len(h.sample):
                break
            video, text = stepper.tops(h)
            target = right[h.sample, h.clip, h.snippet]
            action = torch.where(self.own[h.sample, step], stepper.logits(h, video, text).argmax(1), target)
            actions[h.sample, step], targets[h.sample, step] = action, target
            lengths[h.sample] = step + 1
            h = stepper.advance(h, action, video, text)
            going = stepper.unfinished(h)
            if not bool(going.all()):
                h = h.select(going.nonzero()[:, 0])
        return Histories(actions, lengths.cpu(), targets)


def best_actions(owner: Tensor, snippets: int, actions: tuple[Action, ...]) -> Tensor:
    """The action after which most clips can still go to their snippet, in every cell -> (B, V, T) int64 ids.

    A snippet without clips to come is popped, a clip of the snippet on top is matched, any other is left. Along the
    gold actions these are the gold actions.

    Args:
        owner: (B, V) int64 as in `OwnDecisions`.
        snippets: T.
        actions: the set; needs pop_video, pop_text and match_retain_text.
    """
    texts = torch.arange(snippets, device=owner.device)
    belongs = owner[:, :, None] == texts
    # Whether any clip from i on belongs to snippet j.
    to_come = belongs.flip(1).cummax(1).values.flip(1) if owner.shape[1] else belongs
    pop_video, pop_text, match = (
        actions.index(action) for action in (Action.POP_VIDEO, Action.POP_TEXT, Action.MATCH_RETAIN_TEXT)
    )
    return torch.where(to_come, torch.where(belongs, match, pop_video), pop_text)
