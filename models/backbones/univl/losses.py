"""The losses of UniVL as functions of what its encoders give (CVPR 2023, section 4; Luo et al. 2020).

Each is the sum over this worker's rows; negatives are those of all workers. Logits are taken in float32 at least.

Shape legend: n samples of this worker, N of all, F frames, D width of a frame's feature, H hidden.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from models.collectives import Collectives

NEGATIVE = -1e8
"""Added to the scores of frames that are no candidates."""


def wide(x: Tensor) -> Tensor:
    """In float32, or as it is where that is wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def mean_text(encoded: Tensor, mask: Tensor) -> Tensor:
    """(n, W, H) -> (n, H): the mean over the words, [SEP] included and [CLS] left out."""
    weights = mask.to(encoded.dtype).clone()
    weights[:, 0] = 0
    return (encoded * weights[..., None]).sum(1) / weights.sum(1, keepdim=True).clamp(min=1)


def mean_video(encoded: Tensor, mask: Tensor) -> Tensor:
    """(n, F, H) -> (n, H): the mean over the frames."""
    weights = mask.to(encoded.dtype)
    return (encoded * weights[..., None]).sum(1) / weights.sum(1, keepdim=True).clamp(min=1)


def joint_loss(text: Tensor, video: Tensor, margin: float, collectives: Collectives) -> Tensor:
    """Max-margin loss of (n, H) texts and videos, both ways; row means over all N, the diagonal included."""
    text, video = wide(text), wide(video)
    all_text, _ = collectives.gather(text)
    all_video, _ = collectives.gather(video)
    scores = text @ all_video.T
    own, theirs = (text * video).sum(1), (all_text * all_video).sum(1)
    loss = F.relu(margin + scores - own[:, None]) + F.relu(margin + scores - theirs)
    return loss.sum() / max(1, len(all_text))


def contrastive_loss(text: Tensor, video: Tensor, temperature: float, collectives: Collectives) -> Tensor:
    """InfoNCE (van den Oord et al. 2018) of (n, H) texts and videos: the mean of both ways over all N."""
    text, video = wide(text), wide(video) / temperature
    all_text, start = collectives.gather(text)
    all_video, _ = collectives.gather(video)
    return (align_loss(text @ all_video.T, start) + align_loss(video @ all_text.T, start)) / 2


def align_loss(scores: Tensor, start: int) -> Tensor:
    """Scores (n, N) of texts with all videos, of which this worker's begin at column `start`."""
    labels = torch.arange(start, start + len(scores), device=scores.device)
    return F.cross_entropy(wide(scores), labels, reduction="sum")


def frame_loss(guesses: Tensor, where: Tensor, frames: Tensor, mask: Tensor, collectives: Collectives) -> Tensor:
    """Noise-contrastive loss of masked frames (CMFM): each has to find itself among the frames of all videos.

    Args:
        guesses: (k, D), of this worker's masked frames.
        where: (k,), which of this worker's n*F frames they are.
        frames: (n, F, D), normalised, not masked.
        mask: (n, F), 1 for frames that exist.
    """
    all_frames, start = collectives.gather(frames)
    all_masks, _ = collectives.gather(mask)
    candidates = wide(all_frames.flatten(0, 1))
    scores = wide(guesses) @ candidates.T + (1 - all_masks.flatten().to(candidates)) * NEGATIVE
    return F.cross_entropy(scores, where + start * frames.shape[1], reduction="sum")
