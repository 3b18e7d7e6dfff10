"""NeuMATCH as it is usually written: a loop over elements, then a loop over actions, each for a whole padded batch.

The fair opponent of the parallel network: it computes the same numbers from the same weights and wastes nothing but
padding. (tests/reference/neumatch.py, which takes one sample at a time, is only there to be obvious.)
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.neumatch.network import Batch, NeuMATCH
from models.neumatch.recurrent import RecurrentStack, State
from models.neumatch.stacks import ActionEffects, positional_features

States = tuple[State, State]


def _outputs(encoder: nn.Module, stack: RecurrentStack, norm: nn.Module, padded: Tensor, lengths: Tensor) -> Tensor:
    """(B, L, d) features -> (B, L, width) normalised outputs, one cell step of the batch an element."""
    x = encoder(padded.flatten(0, 1)).view(len(padded), padded.shape[1], -1)
    states, outputs = stack.start(len(padded), x), []
    for t in range(padded.shape[1]):
        states = stack.step(x[:, t], states)
        outputs.append(states[1][0])
    rows = torch.stack(outputs, dim=1)
    real = (torch.arange(rows.shape[1])[None, :] < lengths[:, None]).to(rows.device)
    normed = torch.zeros_like(rows)
    normed[real] = norm(rows[real])
    return normed


def _where(condition: Tensor, yes: States, no: States) -> States:
    def pick(a: State, b: State) -> State:
        return torch.where(condition[:, None], a[0], b[0]), torch.where(condition[:, None], a[1], b[1])

    return pick(yes[0], no[0]), pick(yes[1], no[1])


def forward(network: NeuMATCH, batch: Batch) -> tuple[Tensor, Tensor]:
    """Teacher forcing, one action of all samples at a time -> logits (R, C) and gold ids (R,) of the real steps."""
    device, dtype, count = batch.video.device, network.fc1.weight.dtype, len(batch.video)
    effects = ActionEffects.of(network.config.actions, device)
    video = _outputs(
        network.encoders.video, network.video_stack, network.video_norm, batch.video.to(dtype), batch.video_lengths
    )
    text = _outputs(
        network.encoders.text, network.text_stack, network.text_norm, batch.text.to(dtype), batch.text_lengths
    )
    clips, snippets = batch.video_lengths.to(device), batch.text_lengths.to(device)
    each = torch.arange(count, device=device)
    clip = text_at = torch.zeros(count, dtype=torch.int64, device=device)
    actions, matched = network.action_stack.start(count, video), network.matched_stack.start(count, video)
    before = matched
    total, number, element = torch.zeros_like(video[:, 0]), video.new_zeros(count), clip - 1
    rows = []
    for t in range(batch.actions.shape[1]):
        clips_left, snippets_left = (clips - clip).clamp(min=1), (snippets - text_at).clamp(min=1)
        top_video, top_text = video[each, clips_left - 1], text[each, snippets_left - 1]
        positions = positional_features(clips_left, snippets_left, clips, snippets)
        features = [top_video, top_text, actions[0][0] + actions[1][0], matched[0][0] + matched[1][0], positions]
        rows.append(network.classify(features))
        action = batch.actions[:, t]
        one_hot = F.one_hot(action, len(network.config.actions)).to(dtype)
        actions = network.action_stack.step(one_hot, actions)
        matches, again = effects.matches[action], text_at == element
        keep = again.to(dtype)
        new_total, new_number = total * keep[:, None] + top_video, number * keep + 1
        start = _where(again, before, matched)
        pushed = network.matched_stack.step(torch.cat([new_total / new_number[:, None], top_text], dim=1), start)
        before, matched = _where(matches, start, before), _where(matches, pushed, matched)
        total, number = torch.where(matches[:, None], new_total, total), torch.where(matches, new_number, number)
        element = torch.where(matches, text_at, element)
        clip, text_at = clip + effects.drops_clip[action], text_at + effects.drops_snippet[action]
    real = (torch.arange(batch.actions.shape[1])[None, :] < batch.action_lengths[:, None]).to(device)
    return torch.stack(rows, dim=1)[real], batch.actions[real]
