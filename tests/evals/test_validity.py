"""What is said of a signal's validity is said of the tasks that it is about, and of no fewer than can carry it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from entcent_agents.logprobs import TokenLogprobs
from entcent_agents.segments import SegmentKind
from entcent_agents.selection import BySignal, First, Selector
from entcent_agents.signals import SignalSettings
from entcent_agents.trajectory import Rollout, Trajectory, Turn
from evals.__main__ import app
from evals.errors import EvaluationError
from evals.scoring.cells import Cell, SelectorFigure
from evals.scoring.choosing import Resampling
from evals.scoring.tables import Table
from evals.scoring.validity import Validity, validity_of
from evals.scoring.validity_tables import validity_tables
from evals.scoring.views import viewed
from evals.store import DATABASE, RolloutStore, StoredRollout, StoredRun

ENTROPY = "lowest mean entropy"
SELECTORS: dict[str, Selector] = {ENTROPY: BySignal("mean_entropy"), "first": First()}
FEW = Resampling(shuffles=3)


def turn(words: Sequence[float] = (), arguments: Sequence[float] = ()) -> Turn:
    """Entropies of prose, then of tool arguments."""
    column = np.array([*words, *arguments], np.float32)
    kinds = [SegmentKind.ANSWER] * len(words) + [SegmentKind.TOOL_ARGUMENT] * len(arguments)
    logprobs = TokenLogprobs(
        text=b"",
        offsets=np.zeros(len(column) + 1, np.int32),
        logprob=-column,
        entropy=column,
        residual=np.zeros_like(column),
        confidence=column + 1,
        kind=np.array(kinds, np.uint8),
        top_k=4,
    )
    return Turn(message_id="", generated_tokens=len(column), logprobs=logprobs)


def rollouts(
    task: str, right: Sequence[Turn], wrong: Sequence[Turn], *, suite: str = "s", category: str = "c"
) -> tuple[StoredRollout, ...]:
    """The wrong one first: whoever abstains from looking takes it."""
    return tuple(
        StoredRollout(
            suite=suite,
            category=category,
            task=task,
            rollout=Rollout(
                index=index, thread_id=f"{task}:{index}", status="finished", trajectory=Trajectory(turns=tuple(turns))
            ),
            reward=float(index),
        )
        for index, turns in enumerate((wrong, right))
    )


def run_of(*tasks: tuple[StoredRollout, ...], name: str = "run") -> StoredRun:
    return StoredRun(path=Path(name) / DATABASE, settings={}, tasks={one[0].key: one for one in tasks})


def validity(*runs: StoredRun) -> Validity:
    return validity_of(viewed(runs)[0], SELECTORS, SignalSettings(), FEW, settings={})


def cell(found: Validity, axis: str, name: str) -> Cell:
    return next(cell for one in found.axes if one.name == axis for cell in one.cells if cell.name == name)


def figure(of: Cell, view: str = "whole trajectory", selector: str = ENTROPY) -> SelectorFigure:
    return next(one for one in of.selectors if (one.view, one.selector) == (view, selector))


def short(number: int, *, sure: bool = True) -> tuple[StoredRollout, ...]:
    """Ten tokens; the right one has the lower entropy, or (not `sure`) the higher."""
    low, high = turn([0.1] * 10), turn([0.9] * 10)
    return rollouts(f"short {number}", [low if sure else high], [high if sure else low])


def test_a_signal_is_right_where_trajectories_are_short_and_wrong_where_they_are_long():
    long = [rollouts(f"long {i}", [turn([0.9] * 60)], [turn([0.1] * 60)]) for i in range(6)]
    found = validity(run_of(*(short(i) for i in range(5)), *long))
    first, second = (cell(found, "scored tokens", name) for name in ("0 to 49", "50 to 99"))
    assert (first.tasks, second.tasks) == (5, 6)
    assert figure(first).gain == (0.5, 0.5, 0.5)
    assert figure(second).gain == (-0.5, -0.5, -0.5)
    aurocs = [next(one.auroc.mean for one in part.signals if one.signal == "mean_entropy") for part in (first, second)]
    assert aurocs == [1.0, 0.0]
    everything = figure(cell(found, "suite", "all"))
    assert everything.gain.mean == pytest.approx((5 * 0.5 - 6 * 0.5) / 11)
    assert everything.gain.low < everything.gain.mean < everything.gain.high


def test_the_null_control_of_a_signal_that_knows_everything_is_near_chance():
    tasks = viewed([run_of(*(short(i) for i in range(40)))])[0]
    found = validity_of(tasks, SELECTORS, SignalSettings(), Resampling(shuffles=10), settings={})
    of_all = figure(cell(found, "suite", "all"))
    assert of_all.gain.mean == 0.5
    assert of_all.null == pytest.approx(0.0, abs=0.1)


def test_the_last_turn_and_the_arguments_are_looked_at_beside_the_whole():
    # Over the whole trajectory the wrong one is surer, in its last turn and its arguments the right one is.
    tasks = [
        rollouts(
            f"t{i}",
            [turn([3.0] * 9, [0.1] * 2), turn([0.1] * 9)],
            [turn([0.1] * 9, [2.0] * 2), turn([2.0] * 9)],
        )
        for i in range(5)
    ]
    of_all = cell(validity(run_of(*tasks)), "suite", "all")
    gains = {one.view: one.gain.mean for one in of_all.selectors if one.selector == ENTROPY}
    assert gains == {"whole trajectory": -0.5, "last turn": 0.5, "tool arguments": 0.5}


def test_what_has_no_tool_arguments_is_not_counted_for_them():
    calls = [rollouts(f"call {i}", [turn([], [0.1] * 5)], [turn([], [0.9] * 5)]) for i in range(6)]
    found = validity(run_of(*calls, *(short(i) for i in range(7))))
    of_all = cell(found, "suite", "all")
    assert of_all.tasks == 13
    arguments = figure(of_all, "tool arguments")
    assert (arguments.tasks, arguments.decided) == (6, 6)
    rationale = [cell.tasks for cell in found.axes[2].cells]
    assert rationale == [6], "prose counts where tools are called"


def test_fewer_than_five_tasks_are_counted_and_nothing_is_said_of_them():
    found = validity(run_of(*(short(i) for i in range(4))))
    of_all = cell(found, "suite", "all")
    assert (of_all.tasks, of_all.selectors, of_all.signals) == (4, (), ())
    tables = list(validity_tables(found))
    assert [table.title for table in tables] == [
        "What was run",
        *(f"By {axis.name}" for axis in found.axes if axis.cells),
    ]
    assert all("Too few to say anything" in table.note for table in tables[1:])


def test_tasks_that_are_not_mixed_say_nothing():
    unmixed = tuple(StoredRollout(**_fields(one) | {"reward": 1.0, "task": "easy"}) for one in short(0))
    found = validity(run_of(unmixed, *(short(i) for i in range(5))))
    assert (found.groups[0].tasks, found.groups[0].mixed) == (6, 5)
    assert cell(found, "suite", "all").tasks == 5


def _fields(one: StoredRollout) -> dict[str, object]:
    return {name: getattr(one, name) for name in StoredRollout.__dataclass_fields__}


def test_a_task_of_two_runs_is_looked_at_in_both_and_counts_once_where_they_are_together():
    plain = run_of(*(short(i) for i in range(5)), name="plain")
    reasoned = run_of(*(short(i, sure=False) for i in range(5)), name="reasoned")
    found = validity(plain, reasoned)
    assert [group.name for group in found.groups] == ["s/c, plain", "s/c, reasoned"]
    together = cell(found, "suite", "all")
    assert together.tasks == 5
    assert figure(together).gain.mean == 0.0
    assert figure(cell(found, "suite", "s/c, plain")).gain.mean == 0.5
    assert figure(cell(found, "suite", "s/c, reasoned")).gain.mean == -0.5


def test_a_view_is_said_once_where_it_is_the_whole_trajectory():
    found = validity(run_of(*(short(i) for i in range(5))))
    gains = _table(found, "What selectors gain over a random candidate, by suite")
    assert [row[:2] for row in gains.rows] == [[ENTROPY, "whole trajectory"]]
    assert gains.head[2] == "all\n(5 mixed tasks)"
    assert "<br>" in gains.to_markdown() and "\n+0.500" not in gains.to_markdown()


def _table(found: Validity, title: str) -> Table:
    return next(table for table in validity_tables(found) if table.title == title)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with RolloutStore.create(tmp_path / "stored" / DATABASE, {"model": "m"}) as store:
        for number in range(6):
            for one in short(number):
                store.append(one)
    return tmp_path / "stored"


def ask(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["validity", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_command_prints_writes_a_page_and_gives_json(folder: Path):
    page = folder / "pages" / "validity.md"
    assert "by scored tokens" in ask(folder, "--null-shuffles", 2)
    found = json.loads(ask(folder, "--null-shuffles", 2, "--json", "--out", page))
    assert found["axes"][0]["cells"][0]["tasks"] == 6
    assert found["settings"][f"run {folder / DATABASE}"] == "model m"
    text = page.read_text()
    assert text.startswith("# Where each signal is valid")
    assert "| highest log-probability | whole trajectory | +0.500" in text
    with pytest.raises(EvaluationError, match="no task with judged rollouts"):
        ask(folder, "--only", "elsewhere")
