"""Tasks: from data to named losses to metrics."""
