"""Lines of JSON in the log, for people and for programs; never a word of what was asked, called or answered."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from entcent_agents.trajectory import Rollout, Spent

ROUND: Final = logging.getLogger("entcent_agents.round")
"""One line for each round of a request: at INFO where it was committed or cancelled, at WARNING where it failed."""
ROLLOUT: Final = logging.getLogger("entcent_agents.rollout")
"""One line for each rollout, at DEBUG."""

STEP: Final = logging.getLogger("entcent_agents.step")
"""One line for each step of an agent with the middleware, at INFO."""


def log_line(logger: logging.Logger, level: int, line: Mapping[str, Any]) -> None:
    """Log a line of JSON, and the same as an attribute of the record, which has the last name of the logger."""
    if logger.isEnabledFor(level):
        name = logger.name.rpartition(".")[2]
        logger.log(level, "%s", json.dumps(line, default=str), extra={name: dict(line)})


def log_rollout(rollout: Rollout, *, request: str, round: int) -> None:
    """Say how a rollout ended."""
    if not ROLLOUT.isEnabledFor(logging.DEBUG):
        return
    line = {
        "request": request,
        "round": round,
        "rollout": rollout.index,
        "status": rollout.status,
        "turns": len(rollout.trajectory.turns),
        **asdict(rollout.usage),
        "coverage": rollout.trajectory.coverage,
        "seconds": rollout.seconds,
        "error": error_name(rollout.error),
    }
    log_line(ROLLOUT, logging.DEBUG, line)


def log_step(event: Mapping[str, Any]) -> None:
    """Say which candidate turn was committed.

    Args:
        event: The step's event in the `custom` stream; its name for itself is left out.
    """
    log_line(STEP, logging.INFO, {key: value for key, value in event.items() if key != "type"})


def log_commit(rollouts: Sequence[Rollout], selection: Mapping[str, Any], *, request: str, round: int) -> None:
    """Say what was committed.

    Args:
        rollouts: All of the round.
        selection: As in the channel of that name.
        request: What the rounds of a request have in common.
        round: The number of this round, from 1.
    """
    line = {
        "request": request,
        "round": round,
        "status": selection["status"],
        "rollout": selection["winner"],
        "selector": selection["selector"],
        "reason": selection["reason"],
        **_counts(rollouts),
        "held": [held["tool"] for held in selection["held"]],
        "usage": selection["usage"],
        "error": None,
    }
    log_line(ROUND, logging.INFO, line)


def log_stop(rollouts: Sequence[Rollout], stop: BaseException, spent: Spent, *, request: str, round: int) -> None:
    """Say that a round was cancelled, or failed.

    Args:
        rollouts: Those that are known.
        stop: What ended it.
        spent: What the request has used, this round included: no other record has it.
        request: What the rounds of a request have in common.
        round: The number of this round, from 1.
    """
    failed = isinstance(stop, Exception)
    line = {
        "request": request,
        "round": round,
        "status": "failed" if failed else "cancelled",
        "rollout": None,
        **_counts(rollouts),
        "usage": spent.to_dict(),
        "error": type(stop).__name__,
    }
    log_line(ROUND, logging.WARNING if failed else logging.INFO, line)


def error_name(error: str | None) -> str | None:
    """Of an exception in one line the name alone, as messages quote what was generated; other lines are our own."""
    name = (error or "").partition(":")[0]
    return name if name.isidentifier() else error


def _counts(rollouts: Sequence[Rollout]) -> dict[str, Any]:
    return {
        "rollouts": dict(Counter(rollout.status for rollout in rollouts)),
        "errors": dict(Counter(error_name(rollout.error) for rollout in rollouts if rollout.error)),
    }
