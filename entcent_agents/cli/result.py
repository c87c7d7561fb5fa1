"""What `entcent run` prints in the end: as tables for people, or as one JSON object."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from typing import Any, Final

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from entcent_agents.trajectory import Rollout, Usage

SHOWN_LINES: Final = 20
"""Of each change that was committed; the selection of `--json` has up to 60."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """Everything there is to say of a run.

    Attributes:
        task: What was asked.
        model: Who was asked.
        rollouts: All of them, the failed ones too.
        selection: The selector's result and the changes that were committed, as plain data.
        answer: The winner's last words.
        seconds: From the first model call to the end of the commit.
        first_token_seconds: From the start of the command to the first generated token; None where none was seen.
    """

    task: str
    model: str
    rollouts: list[Rollout]
    selection: dict[str, Any]
    answer: str
    seconds: float
    first_token_seconds: float | None

    @property
    def usage(self) -> Usage:
        """Tokens of all rollouts."""
        return sum((rollout.usage for rollout in self.rollouts), Usage())


def print_result(result: RunResult, *, as_json: bool) -> None:
    """Print it to standard output."""
    if as_json:
        sys.stdout.write(json.dumps(_plain(result)) + "\n")
        return
    console = Console(highlight=False)
    console.print(_table(result))
    console.print(_reason(result.selection))
    console.print(Panel(Text(result.answer), title="answer", title_align="left"))
    _print_changes(console, result.selection["changes"])
    usage = result.usage
    first = f", first token after {result.first_token_seconds:.1f} s" if result.first_token_seconds else ""
    console.print(
        f"tokens: {usage.prompt_tokens:,} prompt, {usage.generated_tokens:,} generated, in {usage.model_calls} model "
        f"calls; {result.seconds:.1f} s{first}"
    )


def _measures(rollout: Rollout) -> dict[str, Any]:
    trajectory = rollout.trajectory
    return {
        "rollout": rollout.index,
        "status": rollout.status,
        "turns": len(trajectory.turns),
        "generated_tokens": trajectory.generated_tokens,
        "scored_tokens": trajectory.scored_tokens,
        "coverage": trajectory.coverage,
        "phases": trajectory.phases(),
        "centroid": trajectory.centroid(),
        "mean_entropy": trajectory.mean_entropy,
        "outcome": rollout.vote_key,
        "seconds": rollout.seconds,
        "error": rollout.error,
    }


def _plain(result: RunResult) -> dict[str, Any]:
    return {
        "task": result.task,
        "model": result.model,
        "rollouts": [_measures(rollout) for rollout in result.rollouts],
        "selection": result.selection,
        "answer": result.answer,
        "usage": asdict(result.usage),
        "seconds": result.seconds,
        "first_token_seconds": result.first_token_seconds,
    }


def _table(result: RunResult) -> Table:
    table = Table(box=None, pad_edge=False, title_justify="left", title="rollouts")
    names = ("#", "status", "turns", "tokens", "coverage", "scored", "phases", "centroid", "mean H", "s")
    for name in names:
        table.add_column(name, justify="left" if name == "status" else "right")
    for rollout in result.rollouts:
        seen = _measures(rollout)
        won = rollout.index == result.selection["winner"]
        table.add_row(
            f"{'→ ' if won else ''}{rollout.index}",
            rollout.status,
            str(seen["turns"]),
            str(seen["generated_tokens"]),
            f"{seen['coverage']:.3f}",
            str(seen["scored_tokens"]),
            str(seen["phases"]),
            _number(seen["centroid"]),
            _number(seen["mean_entropy"]),
            f"{rollout.seconds:.0f}",
            style="bold green" if won else "dim" if rollout.status != "finished" else "",
        )
    errors = [f"{rollout.index}: {rollout.error}" for rollout in result.rollouts if rollout.error]
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


def _print_changes(console: Console, changes: list[dict[str, Any]]) -> None:
    if not changes:
        console.print("committed: nothing; the rollout changed nothing")
    for change in changes:
        what = f"committed: {change['kind']} {change['subject']} in {change['target']} {change['what']}"
        console.print(Text(what))
        lines = change["text"].splitlines()
        for line in lines[:SHOWN_LINES]:
            style = "green" if line.startswith("+") else "red" if line.startswith("-") else "dim"
            console.print(Text(f"  {line}", style, no_wrap=True, overflow="ellipsis"))
        if len(lines) > SHOWN_LINES:
            console.print(Text(f"  … more, with --json: {len(lines) - SHOWN_LINES} lines", "dim"))
