"""What a user would otherwise do: plain aligners that every results table shows."""
