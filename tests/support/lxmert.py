"""A small LXMERT with random weights, saved as transformers saves one."""

from pathlib import Path

import torch
from transformers import BertTokenizer, LxmertConfig, LxmertModel

LAYERS = {"l_layers": 2, "x_layers": 1, "r_layers": 2}
WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] a an and the man dog his walks sits is in on red blue green circle . ,"


def small_lxmert(folder: Path, width: int = 16) -> Path:
    """LXMERT of 32 dimensions for regions of `width`, with its tokenizer."""
    torch.manual_seed(0)
    config = LxmertConfig(
        vocab_size=40,
        hidden_size=32,
        num_attention_heads=2,
        intermediate_size=48,
        visual_feat_dim=width,
        max_position_embeddings=64,
        l_layers=LAYERS["l_layers"],
        x_layers=LAYERS["x_layers"],
        r_layers=LAYERS["r_layers"],
    )
    LxmertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in WORDS.split()))
    BertTokenizer(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    return folder
