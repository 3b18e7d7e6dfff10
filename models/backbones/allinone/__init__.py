"""All-in-one (Wang et al., CVPR 2023): one vision transformer for frames, words and both together."""
