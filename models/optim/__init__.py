"""Optimisers that give the same step on one process and under ZeRO."""
