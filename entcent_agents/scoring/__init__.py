"""Scoring recorded rollouts: every selector on the same candidates, and how right each was where that is known."""
