"""The Berkeley Function Calling Leaderboard, version 4, in the mode of models that call functions natively."""

from __future__ import annotations

from evals.suites.bfcl.suite import open_suite

__all__ = ["open_suite"]
