"""MELTR (CVPR 2023): a small transformer that learns how to combine named losses, by bi-level optimisation."""
