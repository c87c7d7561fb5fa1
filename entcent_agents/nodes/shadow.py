"""Shadow mode: the first rollout is committed as if the agent ran alone, and what would have been is recorded."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

from entcent_agents.errors import EntcentError
from entcent_agents.rollouts.packing import pack
from entcent_agents.rollouts.progress import ProgressReporter
from entcent_agents.rollouts.request import RolloutRequest
from entcent_agents.rollouts.rollout import Begun, one_line, run_rollout
from entcent_agents.selection import First, Selection
from entcent_agents.telemetry.lines import log_line
from entcent_agents.trajectory import CANDIDATES, Rollout, Usage

LOGGER: Final = logging.getLogger("entcent_agents.shadow")
"""One line for each round, at INFO."""


def as_alone(request: RolloutRequest) -> RolloutRequest:
    """The request as the rollout gets it that is to be committed: with as many supersteps as the agent alone has."""
    return replace(request, recursion_limit=request.config.get("recursion_limit"))


async def run_beside(
    request: RolloutRequest, index: int, write: Callable[[Any], None], begun: Begun | None = None
) -> Rollout:
    """As `run_rollout`, where another one is committed whatever becomes of this: all its errors are data."""
    try:
        return await run_rollout(request, index, write, begun)
    except Exception as error:
        ProgressReporter(index, request.round, write).end("failed")
        return Rollout(
            index=index,
            thread_id=request.thread_id(index),
            status="failed",
            usage=request.used.get(index, Usage()),
            error=one_line(error),
        )


def alone(rollouts: Sequence[Rollout], candidates: Sequence[Rollout]) -> Selection:
    """The first rollout; where it failed, the next that did not."""
    chosen = First().select(candidates)
    winner, first = candidates[0], rollouts[0]
    if winner.plain:
        reason = "no rollout finished, and this is one plain run"
    elif winner is first:
        reason = "the first rollout, as if the agent ran alone"
    else:
        reason = f"the first rollout is {first.status} ({first.error}), and this is the next that is not"
    return replace(chosen, selector="shadow", reason=reason)


def would_have_been(
    ask: Callable[[Sequence[Rollout]], Selection], rollouts: Sequence[Rollout], committed: Rollout, *, quorum: int
) -> dict[str, Any]:
    """What the selector says: a `Selection` in plain form, how it compares, and what went wrong, if anything did.

    Args:
        ask: The selector.
        rollouts: All of the round.
        committed: The one that is committed.
        quorum: How many have to be finished or held for a choice.
    """
    candidates = [rollout for rollout in rollouts if rollout.status in CANDIDATES]
    error = None
    try:
        if committed.plain or len(candidates) < quorum:
            found = 0 if committed.plain else len(candidates)
            selection = _nothing(f"{found} rollouts finished, {quorum} needed")
        else:
            selection = ask(candidates)
        shadow = selection.to_dict()
        pack(shadow)  # what no checkpointer could keep would fail the request later
    except Exception as failure:  # a selector that is only tried out fails no request
        error = _told(failure)
        shadow = _nothing(error).to_dict()
    chosen = next((rollout for rollout in candidates if rollout.index == shadow["winner"]), None)
    return {
        **shadow,
        "error": error,
        "same_rollout": chosen and chosen.index == committed.index,
        "same_outcome": _same_outcome(chosen, committed) if chosen else None,
    }


def log_shadow(result: dict[str, Any], *, request: str, round: int, candidates: int) -> None:
    """Say what was committed and what would have been, in a line of JSON and as `record.shadow`; never in whose words.

    Args:
        result: The selection, with its `shadow`.
        request: What the rounds of a request have in common.
        round: The number of this round, from 1.
        candidates: How many rollouts are finished or held.
    """
    shadow = result["shadow"]
    line = {
        "request": request,
        "round": round,
        "candidates": candidates,
        "committed": result["winner"],
        "chosen": shadow["winner"],
        "same_rollout": shadow["same_rollout"],
        "same_outcome": shadow["same_outcome"],
        "selector": shadow["selector"],
        "error": shadow["error"] and shadow["error"].partition(":")[0],
    }
    log_line(LOGGER, logging.INFO, line)


def _nothing(reason: str) -> Selection:
    return Selection(winner=None, selector="none", reason=reason)


def _same_outcome(chosen: Rollout, committed: Rollout) -> bool:
    return chosen.index == committed.index or (chosen.vote_key is not None and chosen.vote_key == committed.vote_key)


def _told(error: Exception) -> str:
    """An error, as results may have it: the messages of other libraries quote what was generated."""
    name = type(error).__name__
    return f"{name}: {error}" if isinstance(error, EntcentError) else name
