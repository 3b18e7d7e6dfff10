"""Backbones: the networks that tasks train, from images or features to predictions."""
