"""VideoMAE (Tong et al., NeurIPS 2022): recognition, with the reconstruction that it was pre-trained on beside it.

Shape legend: n samples, T frames of h x w pixels, S = T/2 pairs of frames (tubelets), g x g patches a frame, L = S g g
tokens, d hidden, C classes.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.backbones.hf.blocks import blocks_of
from models.backbones.hf.passes import Triple, at_least_one, dtype_of, standardised
from models.backbones.univl.losses import wide
from models.backbones.video_language import NO_LABEL, Setting, VideoLanguageBatch, VideoLanguageNetwork, answer_loss


class Decoder(nn.Module):
    """What the encoder makes of the tokens it sees -> the pixels of those that it does not."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.encoder_to_decoder, self.decoder = model.encoder_to_decoder, model.decoder
        self.mask_token = nn.Parameter(model.mask_token.detach())
        self.register_buffer("positions", model.position_embeddings.clone()[0], persistent=False)

    def forward(self, states: Tensor, hidden: Tensor) -> Tensor:
        """(n, seen, d), (n, L) bool with as many hidden in every sample -> (n, hidden, values of a token)."""
        seen = self.encoder_to_decoder(states)
        places = cast(Tensor, self.positions).to(seen.dtype).expand(len(seen), -1, -1)
        of_seen, of_hidden = (places[at].view(len(seen), -1, seen.shape[2]) for at in (~hidden, hidden))
        places = torch.cat([seen + of_seen, self.mask_token + of_hidden], 1)
        found: Tensor = self.decoder(places, of_hidden.shape[1]).logits
        return found


class MaskedAutoencoder(VideoLanguageNetwork):
    """The encoder, a head on the mean of its tokens (or on the first, where the model has it so), and the decoder."""

    def __init__(self, model: Any, setting: Setting, statistics: tuple[Triple, Triple], hidden_share: float) -> None:
        super().__init__()
        self.made, self.statistics = model.config, statistics
        self.encoder, self.decoder = model.videomae, Decoder(model)
        width = self.made.hidden_size
        self.norm = nn.LayerNorm(width) if self.made.use_mean_pooling else nn.Identity()
        self.head = nn.Linear(width, len(setting.classes))
        self.codes = nn.Linear(width, self.made.tubelet_size * setting.codes) if setting.codes else None
        places = (self.made.image_size // self.made.patch_size) ** 2
        self.hidden = min(places - 1, max(1, round(hidden_share * places)))

    def forward(self, batch: VideoLanguageBatch, names: Sequence[str]) -> dict[str, Tensor]:
        def compute(rows: slice) -> dict[str, Tensor]:
            part = batch.rows(rows)
            return {name: getattr(self, f"_{name}")(part) for name in names}

        parts = self.in_parts(compute, batch.frames)
        rest = self._untouched(batch)
        return {name: torch.stack([part[name] for part in parts]).sum() + rest for name in names}

    def _untouched(self, batch: VideoLanguageBatch) -> Tensor:
        """Zero, by way of the weights that some losses do without."""
        width, hidden = self.made.hidden_size, self._tubes(batch.seeds.new_zeros(1))
        state = torch.zeros(1, int((~hidden).sum()), width, dtype=dtype_of(self), device=batch.frames.device)
        touched = self.decoder(state, hidden).sum() + self.head(self.norm(state[:, 0])).sum()
        if self.codes is not None:
            touched = touched + self.codes(state).sum()
        rest: Tensor = 0 * touched
        return rest

    def _states(self, frames: Tensor) -> Tensor:
        """(n, T, 3, h, w) -> (n, L, d)."""
        found: Tensor = at_least_one(self._encoded, frames)
        return found

    def _encoded(self, frames: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Of the tokens that are not hidden."""
        pixels = standardised(frames, self.statistics, dtype_of(self.encoder))
        found: Tensor = self.encoder(pixels, bool_masked_pos=hidden).last_hidden_state
        return found

    def _logits(self, frames: Tensor) -> Tensor:
        states = self._states(frames)
        pooled = states.mean(1) if self.made.use_mean_pooling else states[:, 0]
        logits: Tensor = self.head(self.norm(pooled))
        return logits

    def _recognition(self, batch: VideoLanguageBatch) -> Tensor:
        return answer_loss(self._logits(batch.frames), batch.answers)

    def _tubes(self, seeds: Tensor) -> Tensor:
        """(n, L) bool: a fixed share of the places, each hidden in all frames; which ones is a matter of the seed."""
        places = (self.made.image_size // self.made.patch_size) ** 2
        hidden = torch.zeros(len(seeds), places, dtype=torch.bool)
        for row, seed in zip(hidden, seeds.tolist(), strict=True):
            row[torch.randperm(places, generator=torch.Generator().manual_seed(seed))[: self.hidden]] = True
        return hidden.repeat(1, self.made.num_frames // self.made.tubelet_size).to(seeds.device)

    def _reconstruction(self, batch: VideoLanguageBatch) -> Tensor:
        """The squared error of the hidden tokens' pixels, each token's colours in units of its own deviation (He et al.
        2022, section 4.1); the mean over a sample's, summed over samples."""
        guesses = wide(at_least_one(self._guesses, batch.frames, batch.seeds))
        gold = self._pixels(batch.frames)[self._tubes(batch.seeds)].view_as(guesses)
        return (guesses - gold).square().flatten(1).mean(1).sum()

    def _guesses(self, frames: Tensor, seeds: Tensor) -> Tensor:
        hidden = self._tubes(seeds)
        found: Tensor = self.decoder(self._encoded(frames, hidden), hidden)
        return found

    def _pixels(self, frames: Tensor) -> Tensor:
        """(n, L, values): the colours of each token."""
        side, depth = self.made.patch_size, self.made.tubelet_size
        cut = frames.unflatten(4, (-1, side)).unflatten(3, (-1, side)).unflatten(1, (-1, depth))
        cut = cut.permute(0, 1, 4, 6, 2, 5, 7, 3).flatten(4, 6).flatten(1, 3)  # (n, L, depth * side * side, 3)
        if self.made.norm_pix_loss:
            cut = cut - cut.mean(-2, keepdim=True)
            variance = cut.square().sum(-2, keepdim=True) / (cut.shape[-2] - 1)
            cut = cut / (variance.sqrt() + 1e-6)
        pixels: Tensor = cut.flatten(2)
        return pixels

    def _mvm(self, batch: VideoLanguageBatch) -> Tensor:
        """The visual tokens of hidden cells, from the video in which these are black."""
        if self.codes is None:
            raise ValueError("the loss 'mvm' needs visual tokens")
        guesses = self.codes(self._states(batch.masked_frames))  # (n, L, tubelet * codes)
        samples, frames, side, _ = batch.hidden.shape
        depth = self.made.tubelet_size
        guesses = guesses.view(samples, frames // depth, side * side, depth, guesses.shape[2] // depth).transpose(2, 3)
        labels = batch.cell_labels.view(samples, frames // depth, depth, side * side)
        at = labels != NO_LABEL
        return F.cross_entropy(wide(guesses[at]), labels[at], reduction="sum")

    def answer(self, batch: VideoLanguageBatch) -> Tensor:
        return self._logits(batch.frames)

    def blocks(self) -> list[nn.Module]:
        return blocks_of(self)

    @staticmethod
    def component_of(parameter: str) -> str:
        return "video" if parameter.startswith("encoder.") else "heads"
