"""Self-contained HTML pages that show a result to a person."""
