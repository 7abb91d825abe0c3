"""Real training: the loop that all of it shares, and the steps of each kind."""
