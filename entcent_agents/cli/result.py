"""What `entcent run` prints in the end: as tables for people, or as one JSON object."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from entcent_agents.cli.calls import WatchedLedger, call_of
from entcent_agents.cli.text import printable, readable
from entcent_agents.ledger import State
from entcent_agents.phases import PhaseConfig
from entcent_agents.trajectory import Rollout, Spent

if TYPE_CHECKING:
    from langgraph.types import Interrupt

SHOWN_LINES: Final = 20
"""Of each change that was committed; the selection of `--json` has up to 60."""
_CALLED: Final = {
    State.DONE: "called",
    State.FAILED: "called, failed",
    State.INTENT: "called, and nobody knows what came of it",
    State.IN_DOUBT: "in doubt whether it happened",
    State.CLEARED: "not called",
    State.GIVEN_UP: "given up",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """Rollouts up to a selection.

    Attributes:
        rollouts: All of them, the failed ones too.
        selection: The selector's result and the changes that were committed, as plain data.
    """

    rollouts: list[Rollout]
    selection: dict[str, Any]


@dataclass(slots=True, kw_only=True)
class RunResult:
    """Everything there is to say of a run, while it runs and afterwards.

    Attributes:
        task: What was asked.
        model: Who was asked.
        phases: What counts as phases.
        ledger: Of its external calls.
        rounds: Those that were committed.
        questions: What the agent asks, and nobody has answered.
        answer: The winner's last words.
        seconds: From the first model call to the end of the last commit, without the time that answers took.
        first_token_seconds: From the start of the command to the first generated token; None where none was seen.
    """

    task: str
    model: str
    phases: PhaseConfig = field(default_factory=PhaseConfig)
    ledger: WatchedLedger = field(default_factory=WatchedLedger)
    rounds: list[Round] = field(default_factory=list[Round])
    questions: Sequence[Interrupt[Any]] = ()
    answer: str | None = None
    seconds: float = 0.0
    first_token_seconds: float | None = None

    @property
    def spent(self) -> Spent:
        """What all rollouts of all rounds used, up to the last commit."""
        return Spent.from_dict(self.rounds[-1].selection["usage"]) if self.rounds else Spent()

    @property
    def changes(self) -> list[dict[str, Any]]:
        """What was committed to the environments."""
        return [change for each in self.rounds for change in each.selection["changes"]]

    @property
    def changed(self) -> bool:
        """Whether anything was committed or called."""
        return bool(self.rounds or self.ledger.calls)

    @property
    def calls(self) -> list[dict[str, Any]]:
        """External calls that were begun."""
        return [call_of(record) for record in self.ledger.calls]


def print_result(result: RunResult, *, as_json: bool) -> None:
    """Print it to standard output."""
    if as_json:
        sys.stdout.write(json.dumps(_plain(result)) + "\n")
        return
    console = Console(highlight=False)
    for number, each in enumerate(result.rounds, 1):
        title = "rollouts" if len(result.rounds) == 1 else f"round {number} of {len(result.rounds)}"
        console.print(_table(each, title, result.phases))
        console.print(_reason(each.selection))
    console.print(Panel(Text(result.answer or ""), title="answer", title_align="left"))
    _print_committed(console, result)
    usage = result.spent.usage
    least = "at least " if usage.cut_calls else ""
    first = f", first token after {result.first_token_seconds:.1f} s" if result.first_token_seconds else ""
    reused = f"{usage.reused_tokens:,} reused, " if usage.reused_tokens else ""
    console.print(
        f"tokens: {least}{usage.prompt_tokens:,} prompt, {usage.generated_tokens:,} generated, {reused}"
        f"in {usage.model_calls} model calls; {result.seconds:.1f} s{first}"
    )


def print_questions(result: RunResult, *, as_json: bool) -> None:
    """Print to standard error what the agent asks where nobody is there to answer, and what was done up to there."""
    if as_json:
        questions = [
            {"id": asked.id, "value": asked.value, "response_schema": asked.response_schema}
            for asked in result.questions
        ]
        sys.stderr.write(json.dumps({"questions": questions, **_plain(result)}, default=str) + "\n")
        return
    console = Console(stderr=True, highlight=False)
    for asked in result.questions:
        console.print(Text.assemble(("the agent asks: ", "bold"), readable(asked.value)), soft_wrap=True)
    console.print("[bold]not answered:[/] run it in a terminal to answer. What was done up to here stays:")
    _print_committed(console, result)


def print_so_far(result: RunResult, why: str, *, committing: bool = False) -> None:
    """Print to standard error what a run that did not come to its end leaves behind.

    Args:
        result: The run.
        why: What stopped it.
        committing: Whether it waited for the end of a commit.
    """
    console = Console(stderr=True, highlight=False)
    said = [] if committing or result.changed else ["nothing was changed"]
    said += ["the commit had begun and was carried through"] if committing else []
    said += ["what was done before stays"] if result.changed else []
    console.print(f"[bold]{why}:[/] {'; '.join(said)}")
    if result.changed:
        _print_committed(console, result)


def _measures(rollout: Rollout, phases: PhaseConfig) -> dict[str, Any]:
    trajectory = rollout.trajectory
    reused = sum(turn.reused_tokens for turn in trajectory.turns)
    return {
        "rollout": rollout.index,
        "status": rollout.status,
        "branch": rollout.branch.to_dict() if rollout.branch else None,
        "turns": len(trajectory.turns),
        "generated_tokens": trajectory.generated_tokens - reused,
        "reused_tokens": reused,
        "scored_tokens": trajectory.scored_tokens,
        "coverage": trajectory.coverage,
        "phases": trajectory.phases(phases),
        "centroid": trajectory.centroid(phases),
        "mean_entropy": trajectory.mean_entropy,
        "outcome": rollout.vote_key,
        "seconds": rollout.seconds,
        "error": rollout.error,
    }


def _plain(result: RunResult) -> dict[str, Any]:
    return {
        "task": result.task,
        "model": result.model,
        **_plain_round(result.rounds[-1], result.phases),
        "rounds": [_plain_round(each, result.phases) for each in result.rounds],
        "committed": {"changes": result.changes, "calls": result.calls},
        "answer": result.answer,
        "usage": result.spent.to_dict(),
        "seconds": result.seconds,
        "first_token_seconds": result.first_token_seconds,
    }


def _plain_round(each: Round, phases: PhaseConfig) -> dict[str, Any]:
    return {"rollouts": [_measures(rollout, phases) for rollout in each.rollouts], "selection": each.selection}


def _table(each: Round, title: str, phases: PhaseConfig) -> Table:
    table = Table(box=None, pad_edge=False, title_justify="left", title=title)
    branched = any(rollout.branch for rollout in each.rollouts)
    names = ("coverage", "scored", "phases", "centroid", "mean H", "s")
    for name in ("#", "status", "turns", "tokens", *(("reused", "of") if branched else ()), *names):
        table.add_column(name, justify="left" if name == "status" else "right")
    for rollout in each.rollouts:
        seen = _measures(rollout, phases)
        won = rollout.index == each.selection["winner"]
        table.add_row(
            f"{'→ ' if won else ''}{rollout.index}",
            rollout.status,
            str(seen["turns"]),
            str(seen["generated_tokens"]),
            *((str(seen["reused_tokens"]), str(rollout.branch.parent) if rollout.branch else "-") if branched else ()),
            f"{seen['coverage']:.3f}",
            str(seen["scored_tokens"]),
            str(seen["phases"]),
            _number(seen["centroid"]),
            _number(seen["mean_entropy"]),
            f"{rollout.seconds:.0f}",
            style="bold green" if won else "" if rollout.status in ("finished", "held") else "dim",
        )
    errors = [f"{rollout.index}: {rollout.error}" for rollout in each.rollouts if rollout.error]
    if errors:
        table.caption, table.caption_justify = Text("\n".join(errors)), "left"
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _reason(selection: dict[str, Any]) -> Text:
    text = Text(f"selected rollout {selection['winner']} by {selection['selector']}: {selection['reason']}", "bold")
    for step in selection["steps"]:
        if step["winner"] is None:
            text.append(f"\n  {step['selector']} abstained: {step['reason']}", "dim")
    return text


def _print_committed(console: Console, result: RunResult) -> None:
    changes, calls = result.changes, result.calls
    if not changes and not calls:
        console.print("committed: nothing; the rollout changed nothing")
    _print_changes(console, changes)
    for call in calls:
        told = call["error"] or call["reason"] or (readable(call["result"]) if call["state"] == "done" else "")
        by = f" (says {call['answered_by']})" if call["answered_by"] else ""
        arguments = json.dumps(call["arguments"], ensure_ascii=False)
        line = f"{_CALLED[State(call['state'])]}: {call['tool']} {arguments}{f': {told}' if told else ''}{by}"
        console.print(Text(printable(" ".join(line.split()))))


def _print_changes(console: Console, changes: list[dict[str, Any]]) -> None:
    for change in changes:
        what = f"committed: {change['kind']} {change['subject']} in {change['target']} {change['what']}"
        console.print(Text(what))
        lines = change["text"].splitlines()
        for line in lines[:SHOWN_LINES]:
            style = "green" if line.startswith("+") else "red" if line.startswith("-") else "dim"
            console.print(Text(f"  {line}", style, no_wrap=True, overflow="ellipsis"))
        if len(lines) > SHOWN_LINES:
            console.print(Text(f"  … more, with --json: {len(lines) - SHOWN_LINES} lines", "dim"))
