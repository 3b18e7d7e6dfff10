"""Searches what `distributed` runs with Ray Tune."""
