"""Scores of what a model retrieves, writes or rates, as the papers print them."""
