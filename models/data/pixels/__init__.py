"""Pixels of videos for networks: where frames come from, which are taken, how they are cut, hidden and tokenised."""
