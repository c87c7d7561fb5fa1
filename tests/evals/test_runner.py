"""Runs are whole, however often they are killed; what breaks is said, and what is stored stays."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evals.errors import RunBrokenOffError
from evals.store import DATABASE, RolloutStore, read_run
from tests.chat_server import ChatServer, Reply, Request
from tests.evals.lives import FULL, N, go, run_sums, run_sums_within
from tests.evals.sums import Sums, choices
from tests.forks import FORKS

SIZE = 4
TIMES = {"seconds", "ended_at"}

Serve = Callable[..., ChatServer]


def content(folder: Path) -> list[dict[str, Any]]:
    """Everything in a store but times, by task and rollout."""
    with closing(RolloutStore.open(folder / DATABASE)) as store:
        return [
            {
                name: value.tobytes() if isinstance(value, np.ndarray) else value
                for name, value in row.items()
                if name not in TIMES
            }
            for row in store.rows()
        ]


async def test_ten_kills_leave_the_store_of_a_run_that_was_left_alone(serve: Serve, tmp_path: Path):
    server = serve(choices)
    await go(tmp_path / "alone", server.base_url, SIZE)
    asked_alone = len(server.answered)
    expected = content(tmp_path / "alone")
    assert len(expected) == 2 * SIZE * N

    kills, drawn, lengths = 0, random.Random(7), []
    while kills < 10:
        process = FORKS.Process(target=run_sums, args=(tmp_path / "killed", server.base_url, SIZE), daemon=True)
        process.start()
        asked = len(server.answered) + drawn.randrange(1, 5)
        assert server.comes_to(lambda asked=asked: len(server.answered) >= asked, 30)
        await asyncio.sleep(drawn.random() * 0.06)
        process.kill()
        process.join()
        if process.exitcode == 0:  # it was done already
            break
        assert process.exitcode == -signal.SIGKILL
        kills += 1
        lengths.append(len(content(tmp_path / "killed")) if (tmp_path / "killed" / DATABASE).exists() else 0)
    assert kills == 10, f"the run ended after {kills} kills; {asked_alone} requests in all"
    assert lengths == sorted(lengths)
    await go(tmp_path / "killed", server.base_url, SIZE)
    assert content(tmp_path / "killed") == expected
    assert 0 < lengths[-1] < len(expected), lengths


async def test_rollouts_that_share_a_prompt_share_a_request(serve: Serve, tmp_path: Path):
    server = serve(choices)
    await go(tmp_path, server.base_url, 1)
    sizes = [request.n for request in server.answered if "Task once" in str(request.body["messages"])]
    assert sizes == [N]
    assert not any(request.body["stream"] for request in server.answered[1:]), "line breaks would go unscored"
    told = [request for request in server.answered if "Task told" in str(request.body["messages"])]
    assert told[0].n == N
    assert len({str(request.body["messages"]) for request in told}) == len(told), "one request a prompt"


async def test_a_group_with_a_hole_is_asked_for_whole_and_keeps_what_it_had(serve: Serve, tmp_path: Path):
    server = serve(choices)
    await go(tmp_path, server.base_url, 1)
    expected = content(tmp_path)
    with closing(RolloutStore.open(tmp_path / DATABASE)) as store:
        with store._connection:
            store._connection.execute("DELETE FROM rollouts WHERE task = 'once_0' AND rollout IN (1, 4)")
            store._connection.execute("UPDATE rollouts SET reason = 'kept' WHERE task = 'once_0' AND rollout = 0")
    before = len(server.answered)
    await go(tmp_path, server.base_url, 1)
    assert [request.n for request in server.answered[before:] if "Task" in str(request.body)] == [N]
    expected[0]["reason"] = "kept"
    assert content(tmp_path) == expected


async def test_a_run_that_is_done_asks_nothing(serve: Serve, tmp_path: Path):
    server = serve(choices)
    await go(tmp_path, server.base_url, 1)
    before = [request for request in server.answered if "Task" in str(request.body)]
    await go(tmp_path, server.base_url, 1)
    assert [request for request in server.answered if "Task" in str(request.body)] == before


async def test_rewards_and_signals_are_those_of_what_was_written(serve: Serve, tmp_path: Path):
    await go(tmp_path, serve(choices).base_url, SIZE)
    stored = [one for task in read_run(tmp_path).tasks.values() for one in task]
    once = [one for one in stored if one.category == "once"]
    assert {one.reward for one in once} == {0.0, 1.0}
    for one in once:
        assert one.reward == float(int(one.replies[-1]["text"][-1]) % 2 == 0)
        assert one.rollout.trajectory.coverage == 1.0
        assert one.rollout.usage.generated_tokens == one.rollout.trajectory.generated_tokens
        assert one.rollout.trajectory.top_k == 5
    told = [one for one in stored if one.category == "told"]
    assert max(len(one.rollout.trajectory.turns) for one in told) > 2
    assert {one.rollout.status for one in told} == {"finished", "unfinished"}
    for one in told:
        calls = [call for reply in one.replies for call in reply["calls"]]
        cut = one.rollout.status == "unfinished" and one.replies[-1]["calls"]
        run = calls[:-1] if cut else calls  # the one too many is not run
        total = sum(call[1]["number"] for call in run)
        assert (one.derived["total"], one.reward) == (total, float(total % 2 == 0))


async def test_an_endpoint_that_dies_half_way_is_named_and_the_run_goes_on_later(serve: Serve, tmp_path: Path):
    dead_after = 12

    def dying(request: Request) -> list[Reply]:
        if len(server.answered) > dead_after:
            return [Reply(status=503, error="the engine died", headers={"retry-after": "0"})]
        return choices(request)

    server = serve(dying)
    with pytest.raises(RunBrokenOffError, match=r"stopped answering with \d+ of 48 rollouts.*the engine died"):
        await go(tmp_path, server.base_url, SIZE)
    kept = content(tmp_path)
    assert 0 < len(kept) < 48
    alive = serve(choices)
    await go(tmp_path, alive.base_url, SIZE)
    whole = content(tmp_path)
    assert len(whole) == 48
    assert [row for row in whole if row in kept] == kept
    await go(tmp_path / "alone", alive.base_url, SIZE)
    assert whole == content(tmp_path / "alone")


async def test_a_refused_prompt_fails_its_rollouts_alone(serve: Serve, tmp_path: Path):
    def refusing(request: Request) -> list[Reply]:
        if "Task told 1" in str(request.body["messages"]):
            return [Reply(status=400, error="the prompt is longer than the context")]
        return choices(request)

    await go(tmp_path, serve(refusing).base_url, 2)
    tasks = read_run(tmp_path).tasks
    assert {one.rollout.status for one in tasks["sums", "told_1"]} == {"failed"}
    assert all("longer than the context" in (one.rollout.error or "") for one in tasks["sums", "told_1"])
    assert all(one.reward == 0.0 for one in tasks["sums", "told_1"])
    assert {one.rollout.status for one in tasks["sums", "once_1"]} == {"finished"}


async def test_a_server_that_refuses_everything_is_no_data(serve: Serve, tmp_path: Path):
    def refusing(request: Request) -> list[Reply]:
        refused = "Task" in str(request.body["messages"])
        return [Reply(status=400, error="no tools here")] if refused else choices(request)

    with pytest.raises(RunBrokenOffError, match="no tools here"):
        await go(tmp_path, serve(refusing).base_url, 1)
    assert content(tmp_path) == []


async def test_a_checker_that_breaks_leaves_the_reward_unknown(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def broken(*_: object) -> None:
        raise KeyError("truth")

    monkeypatch.setattr(Sums, "score", broken)
    await go(tmp_path, serve(choices).base_url, 1)
    stored = [one for task in read_run(tmp_path).tasks.values() for one in task]
    assert {one.reward for one in stored} == {None}
    assert all("the checker failed: KeyError" in (one.rollout.error or "") for one in stored)


def test_a_full_disk_is_named_and_loses_nothing(serve: Serve, tmp_path: Path):
    server = serve(choices)
    arguments = (tmp_path, server.base_url, SIZE)
    process = FORKS.Process(target=run_sums_within, args=(*arguments, 40_000), daemon=True)
    process.start()
    process.join(60)
    assert process.exitcode == FULL
    assert "what is stored stays" in (tmp_path / "said").read_text()
    kept = content(tmp_path)
    assert 0 < len(kept) < 48
    process = FORKS.Process(target=run_sums, args=arguments, daemon=True)
    process.start()
    process.join(60)
    assert process.exitcode == 0
    whole = content(tmp_path)
    assert len(whole) == 48
    assert [row for row in whole if row in kept] == kept
