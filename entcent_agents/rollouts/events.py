"""Events of LangGraph's `custom` stream: how a rollout is doing, without a word of what it says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from typing_extensions import TypedDict

from entcent_agents.selection import Selection
from entcent_agents.trajectory import Rollout, Usage

State = Literal["waiting", "thinking", "tool", "finished", "held", "unfinished", "failed"]
EVENT: Final = "entcent.rollout"
"""The `type` of a rollout's events in LangGraph's `custom` stream."""
BRANCH_EVENT: Final = "entcent.branch"
"""The `type` of the events that come when a rollout branches, and when its branch has made its turn."""
COMMIT_EVENT: Final = "entcent.commit"
"""The `type` of the event that comes just before the winner is committed."""
SELECTION_EVENT: Final = "entcent.selection"
"""The `type` of the event that comes just after: the last one of a round."""

SAMPLING_EVENT: Final = "entcent.sampling"
"""The `type` of the event that comes when the middleware begins a step."""
STEP_EVENT: Final = "entcent.step"
"""The `type` of the event that comes when the middleware has chosen a turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One rollout, at one moment.

    Attributes:
        rollout: Its index.
        round: The number of its round, from 1.
        state: What it is doing.
        turns: Model generations begun in this round.
        tokens: Generated in this round so far.
        tool: The tool that runs, if one does.
    """

    rollout: int
    round: int
    state: State = "waiting"
    turns: int = 0
    tokens: int = 0
    tool: str | None = None


class BranchEvent(TypedDict):
    """Where a rollout left another one; not a word of what either says.

    Attributes:
        type: `BRANCH_EVENT`.
        rollout: The index of the branch.
        round: The number of the round, from 1.
        parent: The index of the rollout that it left.
        turn: The turn it branched in, from 0.
        token: The token of that turn which it does not share with its parent, from 0.
        entropy: Of that token, nats.
        kind: What the parent's token belongs to, as a `SegmentKind`.
        decision: What was decided there.
        method: How the rest of the turn was made; None: it is not made yet.
    """

    type: str
    rollout: int
    round: int
    parent: int
    turn: int
    token: int
    entropy: float
    kind: int
    decision: str
    method: str | None


class SelectionEvent(TypedDict):
    """What was selected and committed.

    Attributes:
        type: `SELECTION_EVENT`.
        request: What the rounds of a request have in common.
        round: The number of the round, from 1.
        winner: The index of the rollout.
        status: `finished`, or `held`: then rollouts go on from it.
        selector: Which selector decided.
        reason: Why, in one sentence.
        candidates: Of every candidate its `rollout`, `value`, `rank` and the `reason` why it has no value.
        held: The tools of the external calls that the winner is held before.
        usage: The usage record of the request so far.
    """

    type: str
    request: str
    round: int
    winner: int
    status: str
    selector: str
    reason: str
    candidates: list[dict[str, Any]]
    held: list[str]
    usage: dict[str, Any]


def selection_event(selection: Mapping[str, Any], *, request: str, round: int) -> SelectionEvent:
    """The event that says what was committed.

    Args:
        selection: As in the channel of that name.
        request: What the rounds of a request have in common.
        round: The number of this round.
    """
    return {
        "type": SELECTION_EVENT,
        "request": request,
        "round": round,
        "winner": selection["winner"],
        "status": selection["status"],
        "selector": selection["selector"],
        "reason": selection["reason"],
        "candidates": selection["candidates"],
        "held": [held["tool"] for held in selection["held"]],
        "usage": selection["usage"],
    }


class SamplingEvent(TypedDict):
    """Candidate turns are under way.

    Attributes:
        type: `SAMPLING_EVENT`.
        turn: How many turns of the trajectory come before, as in the `StepEvent` at the end.
        n: How many candidates.
    """

    type: str
    turn: int
    n: int


def sampling_event(*, turn: int, n: int) -> SamplingEvent:
    """The event that says what a step waits for.

    Args:
        turn: How many turns of the trajectory come before.
        n: How many candidates.
    """
    return {"type": SAMPLING_EVENT, "turn": turn, "n": n}


class StepEvent(TypedDict):
    """Which candidate turn was committed at a step of an agent.

    Attributes:
        type: `STEP_EVENT`.
        turn: How many turns of the trajectory came before it.
        winner: The index of the candidate.
        selector: Which selector decided.
        reason: Why, in one sentence.
        candidates: Of each outcome its `rollout` (the index of the candidate that stood for it), `value`, `rank`, the
            `reason` why it has no value, and `votes`: how many candidates came to it.
        failed: How many candidates came to nothing that the agent could go on from.
        usage: The usage of all candidates.
    """

    type: str
    turn: int
    winner: int
    selector: str
    reason: str
    candidates: list[dict[str, Any]]
    failed: int
    usage: dict[str, Any]


def step_event(selection: Selection, outcomes: Sequence[Rollout], usages: Sequence[Usage], *, turn: int) -> StepEvent:
    """The event that says what was chosen.

    Args:
        selection: What the selector said.
        outcomes: Those that it chose from, with their votes.
        usages: Of all candidates.
        turn: How many turns of the trajectory came before.
    """
    votes = {outcome.index: outcome.votes for outcome in outcomes}
    assert selection.winner is not None
    return {
        "type": STEP_EVENT,
        "turn": turn,
        "winner": selection.winner,
        "selector": selection.selector,
        "reason": selection.reason,
        "candidates": [
            {**candidate.to_dict(), "votes": votes[candidate.rollout]} for candidate in selection.candidates
        ],
        "failed": len(usages) - sum(votes.values()),
        "usage": asdict(sum(usages, Usage())),
    }
