"""The training loop and what it is made of: learner, optimizer, average, checkpoints, strategies."""
