"""Runs what `models` learns on Ray Train and DeepSpeed."""
