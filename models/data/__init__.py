"""Readers of official data files, feature stores, and the sentence encoder."""
