"""TextArena: text games for one player. A conversation without tools: the game says, the model moves."""

from __future__ import annotations

from evals.suites.textarena.suite import open_suite

__all__ = ["open_suite"]
