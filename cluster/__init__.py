"""Puts runs on machines: job submission and clusters."""
