"""Visual tokens: what stands for the cells of frames when a network has to guess the hidden ones."""

from models.data.pixels.visual_tokens.config import VisualTokensConfig, fit_or_load
from models.data.pixels.visual_tokens.tokenizer import VisualTokenizer

__all__ = ["VisualTokenizer", "VisualTokensConfig", "fit_or_load"]
