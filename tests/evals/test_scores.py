"""Figures are what they are said to be; parameters are never chosen on the tasks they are tested on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from entcent_agents.errors import ConfigurationError
from entcent_agents.segments import SegmentKind
from entcent_agents.selection import named_selectors
from entcent_agents.signals import SignalSettings
from entcent_agents.statistics import auroc, pass_all_k, pass_at_k
from entcent_agents.testing import scripted_logprobs
from entcent_agents.trajectory import Rollout, Trajectory, Turn, Usage
from evals.__main__ import app
from evals.errors import SplitError
from evals.scoring.calibration import parameters, split_by_share, split_by_tasks
from evals.scoring.candidates import TaskRollouts, tasks_of
from evals.scoring.chains import candidate_chains
from evals.scoring.choosing import Resampling, choices, choose, most_common
from evals.scoring.report import report_on
from evals.store import DATABASE, TABLE, RolloutStore, StoredRollout, StoredRun, compact

FINISHED = "finished"


def stored(
    task: str,
    index: int,
    right: bool | None,
    *,
    entropy: Sequence[float] = (0.5, 0.5),
    outcome: str | None = "a",
    status: str = FINISHED,
) -> StoredRollout:
    turn = Turn(message_id="", generated_tokens=len(entropy), logprobs=scripted_logprobs(entropy))
    return StoredRollout(
        suite="s",
        category="c",
        task=task,
        rollout=Rollout(
            index=index,
            thread_id=f"{task}:{index}",
            status=status,  # type: ignore[arg-type]
            trajectory=Trajectory(turns=(turn,)),
            usage=Usage(prompt_tokens=3, generated_tokens=len(entropy), model_calls=1),
            seconds=2.0,
            vote_key=outcome,
        ),
        reward=None if right is None else float(right),
    )


def task_of(*rollouts: StoredRollout) -> TaskRollouts:
    run = StoredRun(path=Path(), settings={}, tasks={rollouts[0].key: rollouts})
    (task,) = tasks_of([run]).tasks
    return task


def telling(name: str, rights: Sequence[bool], rng: np.random.Generator | None = None) -> TaskRollouts:
    """A task in which right rollouts have the lower mean entropy, or (with `rng`) any."""
    return task_of(
        *(
            stored(name, i, right, entropy=[rng.random() if rng else 0.2 + 0.6 * (not right)] * 8, outcome=str(right))
            for i, right in enumerate(rights)
        )
    )


@settings(deadline=None)  # it would measure the machine
@given(st.lists(st.booleans(), min_size=1, max_size=7), st.data())
def test_pass_at_k_and_pass_all_k_are_means_over_all_draws(passed: list[bool], data: st.DataObject):
    k = data.draw(st.integers(1, len(passed)))
    draws = list(combinations(passed, k))
    assert pass_at_k(len(passed), sum(passed), k) == pytest.approx(np.mean([any(drawn) for drawn in draws]))
    assert pass_all_k(len(passed), sum(passed), k) == pytest.approx(np.mean([all(drawn) for drawn in draws]))


@pytest.mark.parametrize("counts", [(3, 4, 1), (3, 1, 4), (3, 1, 0), (0, 0, 1)])
def test_impossible_counts_are_refused(counts: tuple[int, int, int]):
    with pytest.raises(ConfigurationError):
        pass_at_k(*counts)
    with pytest.raises(ConfigurationError):
        pass_all_k(*counts)


@settings(deadline=None)  # it would measure the machine
@given(st.lists(st.integers(0, 5), max_size=6), st.lists(st.integers(0, 5), max_size=6))
def test_auroc_counts_pairs(right: list[int], wrong: list[int]):
    pairs = [(a > b) + 0.5 * (a == b) for a in right for b in wrong]
    assert auroc(right, wrong) == (pytest.approx(np.mean(pairs)) if pairs else None)


def test_auroc_of_a_signal_is_high_where_its_good_end_is_right():
    task = telling("t", [True, False, True])
    assert task.auroc("mean_entropy", SignalSettings()) == 1.0
    assert task.auroc("mean_confidence", SignalSettings()) == 0.0  # scripted: confidence is the entropy
    assert telling("t", [True, True]).auroc("mean_entropy", SignalSettings()) is None


def test_what_did_not_finish_is_no_candidate_and_counts_in_pass():
    task = task_of(
        stored("t", 0, False, entropy=[0.0, 0.0], status="unfinished"), stored("t", 1, True, entropy=[0.9, 0.9])
    )
    assert choose(named_selectors()["lowest mean entropy"], task, range(2)) == (1.0, True)
    assert task.random == 1.0
    assert task.passed == (False, True)
    failed = task_of(stored("t", 0, False, status="failed"))
    assert choose(named_selectors()["first"], failed, range(1)) == (0.0, False)


def test_the_most_common_outcome_is_drawn_where_votes_are_equal():
    task = task_of(
        stored("t", 0, True, outcome="x"),
        stored("t", 1, False, outcome="y"),
        stored("t", 2, False, outcome=None),
        stored("t", 3, False, outcome=None),
    )
    assert most_common(task, [0, 1]) == 0.5
    assert most_common(task, [0, 2, 3]) == pytest.approx(1 / 3), "no outcome is nobody's outcome"
    assert most_common(task_of(*task.stored, stored("t", 4, True, outcome="x")), range(5)) == 1.0


def test_one_rollout_is_as_good_as_chance_and_all_are_the_selection():
    task = telling("t", [True, False, False, False])
    found = choices(task, named_selectors(), Resampling(draws=200, shuffles=0))
    assert set(found.sizes) == {1, 2, 4}
    assert found.sizes[1]["lowest mean entropy"] == pytest.approx(0.25, abs=0.1)
    assert found.sizes[2]["lowest mean entropy"] == pytest.approx(0.5, abs=0.1)
    assert found.sizes[4]["lowest mean entropy"] == found.full["lowest mean entropy"].accuracy == 1.0


def test_the_null_control_takes_away_what_the_trajectories_told():
    task = telling("t", [True, False, False, False])
    found = choices(task, named_selectors(), Resampling(draws=1, shuffles=200))
    assert found.full["lowest mean entropy"].accuracy == 1.0
    assert found.null["lowest mean entropy"] == pytest.approx(0.25, abs=0.1)


def test_scores_are_the_same_each_time_and_whatever_else_is_scored():
    rng = np.random.default_rng(5)
    tasks = [telling(str(i), rng.random(6) < 0.5, rng) for i in range(4)]
    alone = choices(tasks[2], named_selectors(), Resampling())
    assert choices(tasks[2], named_selectors(), Resampling()) == alone
    signals, few = SignalSettings(), Resampling(draws=2, shuffles=2)
    one, other = (report_on(tasks, named_selectors(), signals, few, settings={}) for _ in range(2))
    assert repr(one) == repr(other)


def test_tasks_on_which_the_checker_broke_are_left_out_and_counted():
    good, bad = stored("good", 0, True), stored("bad", 0, None)
    run = StoredRun(path=Path(), settings={}, tasks={good.key: (good,), bad.key: (bad,)})
    known = tasks_of([run])
    assert [task.task for task in known.tasks] == ["good"]
    assert known.unjudged == 1


def test_equal_votes_are_drawn_in_the_baseline_and_not_decided_by_entropy():
    task = task_of(
        stored("t", 0, True, entropy=(0.1, 0.1), outcome="right"),
        stored("t", 1, True, entropy=(0.1, 0.1), outcome="right"),
        stored("t", 2, False, entropy=(0.9, 0.9), outcome="wrong"),
        stored("t", 3, False, entropy=(0.9, 0.9), outcome="wrong"),
    )
    selectors = named_selectors()
    assert choose(selectors["majority vote"], task, range(4)).accuracy == most_common(task, range(4)) == 0.5
    assert choose(selectors["vote weighted by mean entropy"], task, range(4)).accuracy == 1.0


def test_tasks_with_missing_rollouts_are_left_out_and_those_of_several_runs_count_once():
    whole, again = [stored("whole", i, True) for i in range(2)], [stored("whole", i, False) for i in range(2)]
    part = stored("part", 0, True)
    first = StoredRun(path=Path("a"), settings={}, tasks={whole[0].key: tuple(whole), part.key: (part,)})
    second = StoredRun(path=Path("b"), settings={}, tasks={again[0].key: tuple(again)})
    known = tasks_of([first, second])
    assert [(task.task, task.passed) for task in known.tasks] == [("whole", (True, True))]
    assert (known.incomplete, known.repeated) == (1, 1)


def test_selectors_see_the_part_that_is_asked_for():
    first, last = (
        Turn(message_id=str(i), generated_tokens=2, logprobs=scripted_logprobs([float(i), float(i)])) for i in range(2)
    )
    one = stored("t", 0, True)
    rollout = Rollout(index=0, thread_id="", status="finished", trajectory=Trajectory(turns=(first, last)))
    run = StoredRun(path=Path(), settings={}, tasks={one.key: (StoredRollout(**_fields(one) | {"rollout": rollout}),)})
    assert tasks_of([run]).tasks[0].rollouts[0].trajectory.entropy.tolist() == [0, 0, 1, 1]
    assert tasks_of([run], part="last-turn").tasks[0].rollouts[0].trajectory.entropy.tolist() == [1, 1]
    (cut,) = tasks_of([run], kinds={SegmentKind.TOOL_ARGUMENT}).tasks
    assert cut.rollouts[0].trajectory.scored_tokens == 0


def _fields(one: StoredRollout) -> dict[str, object]:
    return {name: getattr(one, name) for name in StoredRollout.__dataclass_fields__}


def test_choosing_without_a_calibration_split_is_refused():
    with pytest.raises(SplitError, match="needs --calibration-split"):
        parameters(["phases"], SignalSettings(), None)


def test_a_split_that_shares_a_task_with_the_test_is_refused():
    tasks = [telling(str(i), [True, False]) for i in range(3)]
    with pytest.raises(SplitError, match=r"1 tasks are in the calibration split and in the test too \(s/2\)"):
        split_by_tasks(tasks[2:], tasks)
    assert len(split_by_tasks(tasks[2:], tasks[:2]).test) == 2


@settings(deadline=None)  # it would measure the machine
@given(st.floats(0.01, 0.99), st.integers(2, 60))
def test_a_split_by_share_is_disjoint_and_whole(share: float, number: int):
    tasks = [telling(str(i), [True]) for i in range(number)]
    try:
        split = split_by_share(tasks, share)
    except SplitError:
        return
    names = [task.task for part in split for task in part]
    assert sorted(names) == sorted(task.task for task in tasks)


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0, float("nan")])
def test_a_share_that_leaves_nothing_is_refused(share: float):
    with pytest.raises(SplitError):
        split_by_share([telling("t", [True])], share)


def test_what_is_chosen_depends_on_the_calibration_tasks_alone():
    rng = np.random.default_rng(11)
    apart = [telling(f"a{i}", [True, False, False]) for i in range(5)]
    for _ in range(3):
        test = [telling(f"t{i}", rng.random(4) < 0.5, rng) for i in range(6)]
        found = parameters(["selector"], SignalSettings(), split_by_tasks(apart, test))
        (chosen,) = found.chosen
        assert (chosen.parameter, chosen.figure, [*chosen.tried]) == ("selector", 1.0, [*named_selectors()])
    with pytest.raises(SplitError, match="no calibration task is mixed"):
        parameters(["window"], SignalSettings(), split_by_tasks([telling("x", [True, True])], apart))


def test_phases_windows_and_floors_that_were_chosen_are_used():
    rng = np.random.default_rng(3)
    apart = [_long(f"a{i}", rng) for i in range(4)]
    found = parameters(["phases", "window", "floor"], SignalSettings(), split_by_tasks(apart, [_long("t", rng)]))
    assert [one.parameter for one in found.chosen] == ["phases", "window", "floor"]
    assert found.signals.window == float(found.chosen[1].value)
    assert f"default chain, floor {found.chosen[2].value}" in found.selectors


def test_the_chain_is_chosen_from_a_printed_list_and_every_suite_weighs_the_same():
    # In the large suite the likeliest rollout is right and the most common outcome wrong; in the small one the reverse.
    def task(suite: str, name: str) -> TaskRollouts:
        likely, common = (suite == "large", suite == "small")
        rollouts = [
            stored(name, 0, likely, entropy=[0.1] * 8, outcome="alone"),
            *(stored(name, i, common, entropy=[0.9] * 8, outcome="many") for i in (1, 2, 3)),
        ]
        return task_of(*(StoredRollout(**_fields(one) | {"suite": suite}) for one in rollouts))

    apart = [*(task("large", f"l{i}") for i in range(4)), task("small", "s")]
    found = parameters(["chain"], SignalSettings(), split_by_tasks(apart, [task("small", "t")]))
    (chosen,) = found.chosen
    assert [*chosen.tried] == [*candidate_chains(SignalSettings())]
    assert chosen.tried["majority"] == 0.5, "not 1 in 5 tasks"
    assert chosen.tried["centroid vote from 200, else likelihood"] == 0.5
    assert chosen.value == "majority", "of equal chains the first, which is the simplest"
    assert next(iter(found.selectors)) == "chosen chain: majority"
    one_suite = parameters(["chain"], SignalSettings(), split_by_tasks(apart[:4], [task("small", "t")]))
    assert one_suite.chosen[0].figure == 1.0 and "likelihood" in one_suite.chosen[0].value


def _long(name: str, rng: np.random.Generator) -> TaskRollouts:
    return task_of(*(stored(name, i, i % 2 == 0, entropy=rng.random(300).tolist()) for i in range(4)))


def test_a_choice_is_confirmed_by_paired_differences_on_the_tasks_that_are_reported():
    tasks = [telling(str(i), [True, False]) for i in range(4)]
    few, name = Resampling(draws=1, shuffles=0), "lowest mean entropy"
    found = report_on(tasks, named_selectors(), SignalSettings(), few, settings={}, chosen=[name])
    assert found.confirmed[name]["highest mean confidence"] == (1.0, 1.0, 1.0)
    assert found.confirmed[name]["highest log-probability"].mean == 0.0
    assert name not in found.confirmed[name]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with six mixed tasks, in both forms."""
    rng = np.random.default_rng(1)
    with RolloutStore.create(tmp_path / DATABASE, {"model": "m", "seed": 0}) as store:
        for number in range(6):
            for index in range(4):
                right = (index + number) % 3 == 0
                entropy = (rng.random(40) + 0.2 * (not right)).tolist()
                store.append(stored(f"t{number}", index, right, entropy=entropy, outcome=str(right)))
        if _has_pyarrow():
            compact(store, tmp_path / TABLE)
    return tmp_path


def _has_pyarrow() -> bool:
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        return False
    return True


def ask(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_table_is_reproduced_to_the_digit_from_the_compact_form(run: Path):
    pytest.importorskip("pyarrow")
    options = ("--draws", 3, "--null-shuffles", 3, "--json")
    first, again = (json.loads(ask("score", run / name, *options)) for name in (DATABASE, TABLE))
    assert first.pop("settings").keys() != again.pop("settings").keys()  # each names its file
    assert first == again
    line = next(one for one in first["selectors"] if one["selector"] == "lowest mean entropy")
    assert line["sizes"].keys() == {"1", "2", "4"}


def test_the_page_has_every_table_and_says_what_was_chosen(run: Path, tmp_path: Path):
    page = tmp_path / "pages" / "report.md"
    ask("report", run, "--out", page, "--draws", 2, "--calibration-split", 0.5, "--choose", "selector")
    text = page.read_text()
    for title in (
        "What was run",
        "The model by itself",
        "Selectors over",
        "Accuracy by number",
        "Signals: AUROC",
    ):
        assert f"## {title}" in text
    assert "chosen selector:" in text
    assert "tried for selector:" in text
    assert ", against others" in text
    assert "tasks set apart" in text


def test_comparing_a_run_with_itself_shows_no_difference(run: Path):
    said = ask("compare", run, run)
    assert "6 tasks in all runs" in " ".join(said.split())
    assert "+0.000" in said
    assert "settings that differ: none" in " ".join(said.split())


def test_a_choice_on_the_tested_tasks_is_refused_by_the_command(run: Path):
    with pytest.raises(SplitError, match="needs --calibration-split"):
        ask("score", run, "--choose", "phases")
    with pytest.raises(SplitError, match="in the test too"):
        ask("score", run, "--choose", "phases", "--calibration-split", run)
    with pytest.raises(ConfigurationError, match="cannot be chosen"):
        ask("score", run, "--choose", "seed", "--calibration-split", 0.5)
