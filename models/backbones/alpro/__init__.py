"""ALPRO (Li et al., CVPR 2022): a TimeSformer and a BERT that are aligned before they are fused; entity prompts."""
