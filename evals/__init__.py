"""Evaluation: tasks with checkers that know the truth."""
