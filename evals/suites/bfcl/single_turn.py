"""Tasks of one turn: the calls of the first reply are compared with the possible answers, and nothing is run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evals.suites.bfcl.official import BACKENDS, MODEL, official
from evals.suites.protocol import Score

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evals.suites.protocol import Reply, Task


def check(task: Task, replies: Sequence[Reply]) -> Score:
    """Judge the first reply by the official checker."""
    calls = [{call.name: dict(call.arguments)} for call in replies[0].calls] if replies else []
    language = official().language
    spoken = {"simple_java": language.JAVA, "simple_javascript": language.JAVASCRIPT}
    with BACKENDS:
        try:
            verdict: dict[str, Any] = official().ast_checker(
                task.truth["functions"],
                calls,
                task.truth["ground_truth"],
                spoken.get(task.category, language.PYTHON),
                task.category,
                MODEL,
            )
        except Exception as error:  # values of shapes that the checker did not foresee
            return Score(reward=0, reason=f"the official checker broke off: {error!r}")
    return Score(reward=1) if verdict["valid"] else Score(reward=0, reason=str(verdict["error"]))
