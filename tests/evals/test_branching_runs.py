"""Rollouts that branch: few begin, children share what their parents generated, and kills change nothing of it."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from entcent_agents.errors import ConfigurationError
from evals.runner.settings import RunSettings, run_settings
from evals.store import DATABASE, RolloutStore, StoredRollout, read_run
from tests.chat_server import ChatServer
from tests.evals import hesitant
from tests.evals.lives import N, go, run_sums
from tests.evals.test_runner import content
from tests.forks import FORKS

SIZE = 4
INITIAL = 2

Serve = Callable[..., ChatServer]


async def stored(server: ChatServer, folder: Path, mode: str = "branching") -> list[Sequence[StoredRollout]]:
    await go(folder, server.base_url, SIZE, mode=mode)  # type: ignore[arg-type]
    return list(read_run(folder).tasks.values())


def generated_by(server: ChatServer) -> int:
    """What the server says that it generated for tasks."""
    asked = [request for request in server.answered if "Task" in str(request.body["messages"])]
    return sum(len(reply.tokens) for request in asked for reply in hesitant.choices(request))


async def test_few_begin_and_all_others_branch_from_them(serve: Serve, tmp_path: Path):
    server = serve(hesitant.choices)
    tasks = await stored(server, tmp_path)
    assert len(tasks) == 2 * SIZE
    for task in tasks:
        assert [one.rollout.index for one in task] == list(range(len(task)))
        assert INITIAL <= len(task) <= N
        assert [one.rollout.branch is None for one in task] == [i < INITIAL for i in range(len(task))]
        for one in task[INITIAL:]:
            branch = one.rollout.branch
            assert branch is not None
            assert branch.parent < one.rollout.index
            assert branch.method == "continued"
            assert branch.entropy > 0.5
    assert max(map(len, tasks)) == N
    assert min(map(len, tasks)) < N
    decisions = {one.rollout.branch.decision for task in tasks for one in task if one.rollout.branch}
    assert decisions == {"call", "argument"}


async def test_what_is_shared_is_the_parents_to_the_bit_and_counted_once(serve: Serve, tmp_path: Path):
    server = serve(hesitant.choices)
    tasks = await stored(server, tmp_path)
    branches = 0
    for task in tasks:
        for child in task:
            usage, turns = child.rollout.usage, child.rollout.trajectory.turns
            assert usage.generated_tokens + usage.reused_tokens == child.rollout.trajectory.generated_tokens
            assert usage.reused_tokens == sum(turn.reused_tokens for turn in turns)
            if child.rollout.branch is None:
                assert usage.reused_tokens == 0
                continue
            branches += 1
            branch, parent = child.rollout.branch, task[child.rollout.branch.parent]
            theirs = parent.rollout.trajectory.turns
            for turn in range(branch.turn):
                assert turns[turn].reused_tokens == turns[turn].generated_tokens == theirs[turn].generated_tokens
                assert child.replies[turn] == parent.replies[turn]
            shared = turns[branch.turn].logprobs, theirs[branch.turn].logprobs
            assert shared[0] is not None
            assert shared[1] is not None
            for column in ("logprob", "entropy", "residual", "confidence"):
                ours, parents = (getattr(logprobs, column)[: branch.token] for logprobs in shared)
                assert np.array_equal(ours, parents, equal_nan=True)
            assert turns[branch.turn].reused_tokens == branch.token + 1, "the alternative came with the parent's token"
            assert shared[0].entropy[branch.token] == shared[1].entropy[branch.token] == np.float32(branch.entropy)
            assert child.replies[branch.turn] != parent.replies[branch.turn]
            assert usage.model_calls == len(turns) - branch.turn
    assert branches
    assert generated_by(server) == sum(one.rollout.usage.generated_tokens for task in tasks for one in task)


async def test_a_branch_acts_on_a_world_of_its_own_as_its_parent_left_it(serve: Serve, tmp_path: Path):
    tasks = await stored(serve(hesitant.choices), tmp_path)
    later = 0
    for one in (one for task in tasks for one in task if one.category == "told"):
        calls = [call for reply in one.replies for call in reply["calls"]]
        cut = one.rollout.status == "unfinished" and one.replies[-1]["calls"]
        total = sum(call[1]["number"] for call in (calls[:-1] if cut else calls))
        assert (one.derived["total"], one.reward) == (total, float(total % 2 == 0))
        later += bool(one.rollout.branch and one.rollout.branch.turn)
    assert later, "no branch left its parent after a call"


async def test_a_server_that_does_not_go_on_is_asked_for_the_whole_turn(serve: Serve, tmp_path: Path):
    tasks = await stored(serve(hesitant.that_begins_anew), tmp_path)
    branched = [one.rollout for task in tasks for one in task if one.rollout.branch]
    assert branched
    for rollout in branched:
        assert rollout.branch is not None
        assert rollout.branch.method in ("forced", "resampled")
        assert rollout.trajectory.turns[rollout.branch.turn].reused_tokens == 0
    assert "resampled" in {rollout.branch.method for rollout in branched if rollout.branch}


@pytest.mark.timeout(600)  # eight runs of a task suite, most of them broken off
@pytest.mark.parametrize("mode", ["branching", "adaptive"])
async def test_kills_leave_the_store_of_a_run_that_was_left_alone(serve: Serve, tmp_path: Path, mode: str):
    server = serve(hesitant.choices)
    await stored(server, tmp_path / "alone", mode)
    expected = content(tmp_path / "alone")
    drawn, lengths = random.Random(11), []
    while len(lengths) < 6:
        arguments = (tmp_path / "killed", server.base_url, SIZE, mode)
        process = FORKS.Process(target=run_sums, args=arguments, daemon=True)
        process.start()
        asked = len(server.answered) + drawn.randrange(6, 14)
        assert server.comes_to(lambda asked=asked: len(server.answered) >= asked, 300)
        await asyncio.sleep(drawn.random() * 0.06)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        lengths.append(len(content(tmp_path / "killed")) if (tmp_path / "killed" / DATABASE).exists() else 0)
    assert lengths == sorted(lengths)
    assert 0 < lengths[-1] < len(expected), lengths
    await stored(server, tmp_path / "killed", mode)
    assert content(tmp_path / "killed") == expected


async def test_a_run_that_is_done_asks_nothing(serve: Serve, tmp_path: Path):
    server = serve(hesitant.choices)
    await stored(server, tmp_path, "adaptive")
    before = len([request for request in server.answered if "Task" in str(request.body)])
    await stored(server, tmp_path, "adaptive")
    assert len([request for request in server.answered if "Task" in str(request.body)]) == before


async def test_what_tasks_leave_over_goes_to_those_that_used_all_of_theirs(serve: Serve, tmp_path: Path):
    server = serve(hesitant.choices)
    first = {task[0].key: task for task in await stored(server, tmp_path / "branching")}
    tasks = {task[0].key: task for task in await stored(server, tmp_path / "adaptive", "adaptive")}
    saturated = {key for key, task in first.items() if len(task) == N}
    assert 0 < len(saturated) < len(first)
    grown = {key for key, task in tasks.items() if len(task) > len(first[key])}
    assert grown
    assert grown <= saturated
    assert sum(map(len, tasks.values())) <= N * len(tasks)
    assert max(map(len, tasks.values())) <= 2 * N
    for key in grown:
        again = [one for one in tasks[key] if one.rollout.index >= N]
        assert all(one.rollout.branch is None or one.rollout.branch.parent >= N for one in again)
        seeds = [one.seed for one in tasks[key] if one.rollout.branch is None]
        assert len(set(seeds)) == 2, "the second pass samples anew"


async def test_by_labels_it_goes_to_unsolved_tasks(serve: Serve, tmp_path: Path):
    server = serve(hesitant.choices)
    tasks = await stored(server, tmp_path, "adaptive-labels")
    solved = [any(one.reward == 1 for one in task if one.rollout.index < N) for task in tasks]
    grown = [any(one.rollout.index >= N for one in task) for task in tasks]
    assert any(grown)
    assert not any(more for more, done in zip(grown, solved, strict=True) if done)


async def test_a_store_of_the_first_schema_is_read_and_gone_on_with(serve: Serve, tmp_path: Path):
    server = serve(hesitant.choices)
    await go(tmp_path, server.base_url, 1)
    expected = content(tmp_path)
    with closing(RolloutStore.open(tmp_path / DATABASE)) as store, store._connection:
        store._connection.execute("ALTER TABLE rollouts DROP COLUMN branch")
        store._connection.execute("UPDATE facts SET value = '1' WHERE name = 'schema'")
        store._connection.execute("DELETE FROM rollouts WHERE task = 'once_0' AND rollout = 1")
    assert len(content(tmp_path)) == len(expected) - 1
    await go(tmp_path, server.base_url, 1)
    assert content(tmp_path) == expected


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"initial": 2}, "nothing branches in this mode"),
        ({"mode": "branching", "initial": 9}, "initial=9 is above n=8"),
    ],
)
def test_what_cannot_be_is_refused(asked: Mapping[str, object], said: str):
    with pytest.raises(ConfigurationError, match=said):
        run_settings(None, model="m", **asked)


def test_settings_of_runs_that_do_not_branch_are_what_they_were():
    assert {"n", "initial", "policy"}.isdisjoint(RunSettings(model="m").identity)
    assert {"n", "initial", "policy"} <= set(RunSettings(model="m", mode="branching").identity)
