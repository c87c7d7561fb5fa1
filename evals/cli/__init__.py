"""The command `python -m evals`."""
