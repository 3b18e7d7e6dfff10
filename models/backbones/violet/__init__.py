"""Violet (Fu et al. 2021): a Video Swin and a BERT over frames and words, with the losses of MELTR (CVPR 2023)."""
