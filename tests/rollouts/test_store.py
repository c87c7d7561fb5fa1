"""What a rollout store keeps, what it refuses, and what it leaves alone."""

from __future__ import annotations

import asyncio
import inspect
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from entcent_agents.errors import ConfigurationError, RecordingError
from entcent_agents.rollouts import journal, store
from entcent_agents.rollouts.flushing import FlushingSaver
from entcent_agents.rollouts.journal import Entry, Journal
from entcent_agents.rollouts.store import RolloutStore
from entcent_agents.testing import scripted_logprobs
from entcent_agents.trajectory import Turn
from tests.rollouts.stopping import MESSAGES, SAID, mixed_calls, one_call, subgraph_in_a_thread

Saver = BaseCheckpointSaver[Any]
THREAD = "rollout"
PLAIN: list[Any] = [None, True, 1, -1.5, "text", b"\x00\xff", [1, [2]], {"a": {"b": [None]}}, 2**60]


def on(thread: str) -> dict[str, Any]:
    return {"configurable": {"thread_id": thread}}


def entries_of(found: Journal | None) -> list[tuple[str, Any]]:
    assert found is not None
    return [(entry.kind, entry.value) for entry in found.entries]


async def all_of(saver: Saver, thread: str) -> list[Any]:
    return [found async for found in saver.alist(on(thread))]


# The journal


async def test_what_was_never_begun_has_no_journal(saver: Saver):
    assert await RolloutStore(saver).read(THREAD) is None


async def test_plain_data_come_back_as_they_were_given(saver: Saver):
    kept = RolloutStore(saver)
    await kept.begin(THREAD, {"values": PLAIN})
    for value in PLAIN:
        await kept.append(THREAD, "value", value)
    read = await RolloutStore(saver).read(THREAD)
    assert read == Journal(start={"values": PLAIN}, entries=[Entry(kind="value", value=value) for value in PLAIN])


async def test_a_turn_comes_back_with_its_arrays(saver: Saver):
    turn = Turn(message_id="m", generated_tokens=3, logprobs=scripted_logprobs([0.5, 1.0, 0.1]))
    kept = RolloutStore(saver)
    await kept.begin(THREAD, {})
    await kept.append(THREAD, "turn", turn.to_dict())
    [(_, value)] = entries_of(await kept.read(THREAD))
    assert Turn.from_dict(value).to_dict() == turn.to_dict()


async def test_appends_at_once_keep_the_order_of_their_calls(saver: Saver):
    kept = RolloutStore(saver)
    await kept.begin(THREAD, {})
    await asyncio.gather(*(kept.append(THREAD, f"kind {i % 3}", i) for i in range(40)))
    assert [value for _, value in entries_of(await kept.read(THREAD))] == list(range(40))


async def test_a_store_made_later_goes_on_after_what_is_there(saver: Saver):
    await (first := RolloutStore(saver)).begin(THREAD, {})
    await asyncio.gather(*(first.append(THREAD, "first", i) for i in range(12)))
    second = RolloutStore(saver)
    await asyncio.gather(*(second.append(THREAD, "second", i) for i in range(3)))
    third = RolloutStore(saver)
    await third.read(THREAD)
    await third.append(THREAD, "third", 0)
    kinds = [kind for kind, _ in entries_of(await RolloutStore(saver).read(THREAD))]
    assert kinds == ["first"] * 12 + ["second"] * 3 + ["third"]


async def test_a_store_that_was_thought_dead_takes_no_entry_of_its_successor(saver: Saver):
    await (first := RolloutStore(saver)).begin(THREAD, {})
    await (second := RolloutStore(saver)).read(THREAD)
    await first.append(THREAD, "first", 0)
    await second.append(THREAD, "second", 0)
    await first.append(THREAD, "first", 1)
    await second.append(THREAD, "second", 1)
    entries = entries_of(await RolloutStore(saver).read(THREAD))
    assert Counter(entries) == Counter([("first", 0), ("second", 0), ("first", 1), ("second", 1)])


class SlowAtFirst(InMemorySaver):
    """Takes less time for each write than for the one before."""

    pause_seconds = 0.1

    async def aput_writes(self, *args: Any, **kwargs: Any) -> None:
        self.pause_seconds /= 2
        await asyncio.sleep(self.pause_seconds)
        await super().aput_writes(*args, **kwargs)


async def test_no_entry_is_on_record_before_those_that_were_appended_before_it():
    kept = RolloutStore(SlowAtFirst())
    await kept.begin(THREAD, {})
    appends = [asyncio.ensure_future(kept.append(THREAD, "n", i)) for i in range(4)]
    seen: list[list[int]] = []
    for append in asyncio.as_completed(appends):
        await append
        seen.append([value for _, value in entries_of(await kept.read(THREAD))])
    assert seen == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3]]


async def test_a_read_while_an_entry_is_being_written_costs_no_entry():
    kept = RolloutStore(SlowAtFirst())
    await kept.begin(THREAD, {})
    under_way = asyncio.ensure_future(kept.append(THREAD, "n", 0))
    await asyncio.sleep(0.01)
    assert entries_of(await kept.read(THREAD)) == []
    await kept.append(THREAD, "n", 1)
    await under_way
    assert [value for _, value in entries_of(await kept.read(THREAD))] == [0, 1]


async def test_reading_between_appends_moves_no_number(saver: Saver):
    kept = RolloutStore(saver)
    await kept.begin(THREAD, {})
    await asyncio.gather(*(each for i in range(10) for each in (kept.append(THREAD, "n", i), kept.read(THREAD))))
    assert [value for _, value in entries_of(await kept.read(THREAD))] == list(range(10))


async def test_what_langgraph_calls_its_own_writes_is_an_entry_like_any_other(saver: Saver):
    kept = RolloutStore(saver)
    await kept.begin(THREAD, {})
    for i, kind in enumerate(["__error__", "__interrupt__", "__resume__", "turn", "__error__"]):
        await kept.append(THREAD, kind, i)
    assert [value for _, value in entries_of(await kept.read(THREAD))] == [0, 1, 2, 3, 4]


async def test_beginning_again_forgets_what_was_there(saver: Saver):
    kept = RolloutStore(saver)
    await kept.begin(THREAD, {"try": 1})
    await kept.append(THREAD, "turn", 1)
    graph = one_call(saver, Counter())
    await graph.ainvoke(MESSAGES, on(THREAD))
    await kept.begin(THREAD, {"try": 2})
    assert await kept.read(THREAD) == Journal(start={"try": 2}, entries=[])
    assert (await graph.aget_state(on(THREAD))).values == {}
    await kept.append(THREAD, "turn", 2)
    assert entries_of(await kept.read(THREAD)) == [("turn", 2)]


async def test_beginning_again_elsewhere_is_noticed_by_a_read(saver: Saver):
    first, second = RolloutStore(saver), RolloutStore(saver)
    await first.begin(THREAD, {})
    await first.append(THREAD, "old", 0)
    await second.begin(THREAD, {})
    assert entries_of(await first.read(THREAD)) == []
    await first.append(THREAD, "new", 0)
    assert entries_of(await second.read(THREAD)) == [("new", 0)]


async def test_what_is_no_plain_data_is_refused_and_nothing_is_lost(saver: Saver):
    kept = RolloutStore(saver)
    await kept.begin(THREAD, {})
    await kept.append(THREAD, "turn", 1)
    with pytest.raises(TypeError):
        await kept.append(THREAD, "turn", object())
    with pytest.raises(TypeError):
        await kept.begin(THREAD, {"saver": saver})
    assert entries_of(await kept.read(THREAD)) == [("turn", 1)]


async def test_an_entry_needs_a_journal(saver: Saver):
    kept = RolloutStore(saver)
    with pytest.raises(RecordingError, match="no journal on thread rollout: it was never begun, or has been swept"):
        await kept.append(THREAD, "turn", 1)
    await kept.begin(THREAD, {})
    await kept.forget(THREAD)
    with pytest.raises(RecordingError, match="no journal"):
        await kept.append(THREAD, "turn", 1)


async def test_a_journal_of_another_version_is_refused_by_name(saver: Saver, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(journal, "JOURNAL_VERSION", 7)
    await RolloutStore(saver).begin(THREAD, {})
    monkeypatch.undo()
    for use in (RolloutStore(saver).read(THREAD), RolloutStore(saver).append(THREAD, "turn", 1)):
        with pytest.raises(RecordingError, match="of version 7; this release reads 1: resume the request with"):
            await use


async def test_a_journal_does_not_lean_on_what_the_savers_serialiser_may_read():
    strict = InMemorySaver(serde=JsonPlusSerializer(allowed_msgpack_modules=None))
    await (kept := RolloutStore(strict)).begin(THREAD, {"values": PLAIN})
    await kept.append(THREAD, "value", PLAIN)
    read = await kept.read(THREAD)
    assert read == Journal(start={"values": PLAIN}, entries=[Entry(kind="value", value=PLAIN)])


async def test_entries_are_on_disk_when_append_returns(tmp_path: Path):
    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "rollouts.db")) as saver:
        kept = RolloutStore(saver)
        await kept.begin(THREAD, {})
        for i in range(3):
            await kept.append(THREAD, "turn", i)
            async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "rollouts.db")) as other:
                assert len(entries_of(await RolloutStore(other).read(THREAD))) == i + 1


# Threads


async def test_the_journal_and_the_agents_checkpoints_share_a_thread_and_are_forgotten_together(saver: Saver):
    kept = RolloutStore(saver)
    await kept.begin(THREAD, {})
    graph = one_call(saver, Counter())
    await graph.ainvoke(MESSAGES, on(THREAD))
    await kept.append(THREAD, "turn", 1)
    assert entries_of(await kept.read(THREAD)) == [("turn", 1)]
    assert (await graph.aget_state(on(THREAD))).interrupts
    await kept.forget(THREAD)
    assert await kept.read(THREAD) is None
    assert await all_of(saver, THREAD) == []


async def test_a_graft_that_was_cut_off_was_never_begun(saver: Saver, monkeypatch: pytest.MonkeyPatch):
    kept = RolloutStore(saver)
    await kept.begin("source", {})
    await one_call(saver, Counter()).ainvoke(MESSAGES, on("source"))
    copy, copied = RolloutStore._copy, []

    async def cut_off(self: RolloutStore, found: Any, *rest: Any) -> None:
        if len(copied) == 3:
            raise ConnectionError("the process dies here")
        copied.append(found)
        await copy(self, found, *rest)

    monkeypatch.setattr(RolloutStore, "_copy", cut_off)
    with pytest.raises(ConnectionError):
        await kept.begin(THREAD, {}, source="source")
    assert len(await all_of(saver, THREAD)) == 4
    assert await RolloutStore(saver).read(THREAD) is None
    with pytest.raises(RecordingError):
        await RolloutStore(saver).append(THREAD, "turn", 1)
    assert THREAD in await RolloutStore(saver).sweep(0)
    assert await all_of(saver, THREAD) == []


async def test_a_graft_takes_the_agents_history_and_not_the_journal(saver: Saver):
    kept = RolloutStore(saver)
    await kept.begin("source", {"of": "source"})
    await kept.append("source", "turn", 1)
    await one_call(saver, Counter()).ainvoke(MESSAGES, on("source"))
    await kept.begin(THREAD, {"of": "target"}, source="source")
    assert await kept.read(THREAD) == Journal(start={"of": "target"}, entries=[])
    assert len(await all_of(saver, THREAD)) == len(await all_of(saver, "source"))


# Sweeping


async def test_a_sweep_takes_dead_rollouts_and_leaves_the_users_threads(saver: Saver, monkeypatch: pytest.MonkeyPatch):
    graph, kept = mixed_calls(saver, Counter()), RolloutStore(saver)
    await graph.ainvoke(MESSAGES, on("the user's"))
    for thread in ("dead", "alive", "running"):
        await kept.begin(thread, {})
    for thread in ("dead", "running"):
        await graph.ainvoke(MESSAGES, on(thread))
    now = store.time.time()
    monkeypatch.setattr(store.time, "time", lambda: now + 3600)
    await kept.append("alive", "turn", 1)  # an hour after it was begun
    assert await RolloutStore(saver).sweep(7200) == []
    assert sorted(await RolloutStore(saver).sweep(1800)) == ["dead", "running"]
    assert await kept.read("dead") is None and await all_of(saver, "dead") == []
    assert await kept.read("alive") is not None
    assert (await graph.aget_state(on("the user's"))).interrupts


async def test_a_sweep_goes_by_the_agents_checkpoints_too(saver: Saver):
    kept = RolloutStore(saver)
    await kept.begin(THREAD, {})
    began = store.time.time()
    await asyncio.sleep(0.2)
    await one_call(saver, Counter()).ainvoke(MESSAGES, on(THREAD))
    assert await kept.sweep(store.time.time() - began - 0.1) == []
    assert await kept.sweep(0) == [THREAD]


async def test_a_sweep_takes_journals_of_other_versions(saver: Saver, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(journal, "JOURNAL_VERSION", 7)
    await (kept := RolloutStore(saver)).begin(THREAD, {})
    await kept.append(THREAD, "turn", 1)
    monkeypatch.undo()
    assert await RolloutStore(saver).sweep(3600) == []
    assert await RolloutStore(saver).sweep(0) == [THREAD]


# Savers


async def test_only_a_saver_in_memory_does_not_outlive_the_process(saver: Saver):
    class Users(InMemorySaver):
        pass

    assert RolloutStore(saver).durable is not isinstance(saver, InMemorySaver)
    assert RolloutStore(Users()).durable is False


def test_a_saver_that_cannot_be_awaited_is_refused_and_the_other_is_named():
    class Own(BaseCheckpointSaver[Any]):
        async def aget_tuple(self, config: Any) -> Any:
            return None

    with sqlite3.connect(":memory:") as connection:
        synchronous = SqliteSaver(connection)
        with pytest.raises(ConfigurationError, match="=SqliteSaver cannot be awaited: use AsyncSqliteSaver"):
            RolloutStore(synchronous)
    connection.close()
    with pytest.raises(ConfigurationError, match="=Own cannot be awaited"):
        RolloutStore(Own())


def test_a_synchronous_postgres_saver_is_refused():
    postgres = pytest.importorskip("langgraph.checkpoint.postgres")
    with pytest.raises(ConfigurationError, match="=PostgresSaver cannot be awaited: use AsyncPostgresSaver"):
        RolloutStore(postgres.PostgresSaver.__new__(postgres.PostgresSaver))


# Flushing


@pytest.fixture
async def recorded(saver: Saver) -> AsyncIterator[tuple[RolloutStore, FlushingSaver, list[str]]]:
    """A store, its flushing saver, and in which order flushes and writes came."""
    kept, log = RolloutStore(saver), list[str]()

    async def flush() -> None:
        await asyncio.sleep(0)
        log.append("flush")

    def logged(write: Any) -> Any:
        async def awaited(*args: Any) -> Any:
            log.append("put")
            return await write(*args)

        def called(*args: Any) -> Any:
            log.append("put")
            return write(*args)

        return awaited if inspect.iscoroutinefunction(write) else called

    await kept.begin(THREAD, {})
    # Either kind of method of a saver ends in the other: what it does itself is logged, once.
    for name in ("put", "put_writes") if isinstance(saver, InMemorySaver) else ("aput", "aput_writes"):
        setattr(saver, name, logged(getattr(saver, name)))
    yield kept, kept.flushing(flush), log


async def test_nothing_is_written_before_a_flush(recorded: tuple[RolloutStore, FlushingSaver, list[str]]):
    _, flushing, log = recorded
    await mixed_calls(flushing, Counter()).ainvoke(MESSAGES, on(THREAD))
    _all_flushed(log)


async def test_nothing_is_written_before_a_flush_in_a_thread_either(
    recorded: tuple[RolloutStore, FlushingSaver, list[str]],
):
    _, flushing, log = recorded
    await subgraph_in_a_thread(flushing, Counter()).ainvoke(SAID, on(THREAD))
    _all_flushed(log)


def _all_flushed(log: list[str]) -> None:
    so_far = [Counter(log[: i + 1]) for i in range(len(log))]
    assert all(count["flush"] >= count["put"] for count in so_far)
    assert so_far[-1]["put"] == so_far[-1]["flush"] > 5


async def test_what_cannot_be_flushed_is_not_written(saver: Saver):
    async def flush() -> None:
        raise OSError("disk full")

    kept = RolloutStore(saver)
    await kept.begin(THREAD, {})
    before = len(await all_of(saver, THREAD))
    with pytest.raises(OSError, match="disk full"):
        await one_call(kept.flushing(flush), Counter()).ainvoke(MESSAGES, on(THREAD))
    assert len(await all_of(saver, THREAD)) == before


def test_a_flushing_saver_leaves_nothing_to_the_base_that_a_graph_may_call():
    left = {
        name
        for name, _ in inspect.getmembers(BaseCheckpointSaver, inspect.isfunction)
        if not name.startswith("_") and name not in vars(FlushingSaver)
    }
    # `get` and `aget` go through get_tuple; the others are for whoever looks after a saver, and no graph calls them.
    assert left == {
        *("get", "aget", "copy_thread", "acopy_thread", "prune", "aprune", "delete_for_runs", "adelete_for_runs")
    }
