"""The store overlay: a rollout's writes stay with it until they are applied."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any
from weakref import WeakSet

import pytest
from langgraph.store.memory import InMemoryStore
from langgraph.store.sqlite import SqliteStore

from entcent_agents.effects import Effect
from entcent_agents.rollouts.enclosing import enclosed
from entcent_agents.rollouts.overlay import OverlayStore, apply_writes


def filled() -> InMemoryStore:
    base = InMemoryStore()
    base.put(("a",), "old", {"v": 1})
    base.put(("a",), "gone", {"v": 2})
    return base


def embedded(texts: list[str]) -> list[list[float]]:
    return [[float(text.count("x")), float(text.count("y")), 0.1] for text in texts]


INDEX: Any = {"dims": 3, "embed": embedded, "fields": ["text"]}


async def test_a_rollout_sees_its_own_writes_and_the_base_sees_none():
    base = filled()
    overlay = OverlayStore(base)
    await overlay.aput(("a",), "new", {"v": 3})
    await overlay.aput(("a",), "old", {"v": 10})
    await overlay.adelete(("a",), "gone")
    assert {item.key: item.value["v"] for item in await overlay.asearch(("a",))} == {"new": 3, "old": 10}
    assert (await overlay.aget(("a",), "old")).value == {"v": 10}
    assert await overlay.aget(("a",), "gone") is None
    assert {item.key: item.value["v"] for item in base.search(("a",))} == {"old": 1, "gone": 2}


async def test_applying_the_writes_makes_them_real():
    base = filled()
    overlay = OverlayStore(base)
    await overlay.aput(("b", "c"), "new", {"v": 3})
    await overlay.adelete(("a",), "gone")
    await apply_writes(base, overlay.writes)
    assert base.get(("b", "c"), "new").value == {"v": 3}
    assert base.get(("a",), "gone") is None


async def test_pages_and_namespaces_join_both_layers():
    base = filled()
    overlay = OverlayStore(base)
    for i in range(5):
        await overlay.aput(("b",), str(i), {"v": i})
    pages = [item.key for offset in range(0, 8, 2) for item in await overlay.asearch((), limit=2, offset=offset)]
    assert sorted(pages) == ["0", "1", "2", "3", "4", "gone", "old"]
    assert await overlay.alist_namespaces() == [("a",), ("b",)]


async def test_namespaces_are_filtered_cut_and_paged_over_both_layers():
    base = filled()
    overlay = OverlayStore(base)
    for namespace in (("a", "x", "1"), ("b", "x"), ("c", "y")):
        await overlay.aput(namespace, "k", {})
    assert await overlay.alist_namespaces(prefix=("a",), max_depth=2) == [("a",), ("a", "x")]
    assert await overlay.alist_namespaces(suffix=("x",)) == [("b", "x")]
    assert await overlay.alist_namespaces(limit=2, offset=1) == [("a", "x", "1"), ("b", "x")]


async def test_a_filter_sees_what_the_rollout_made_of_an_item():
    base = filled()
    overlay = OverlayStore(base)
    await overlay.aput(("a",), "old", {"v": 10})
    await overlay.aput(("a",), "new", {"v": 11})
    assert {item.key for item in await overlay.asearch(("a",), filter={"v": {"$gte": 10}})} == {"old", "new"}
    assert {item.key for item in await overlay.asearch(("a",), filter={"v": 1})} == set()
    assert {item.key for item in await overlay.asearch(("a",), filter={"v": 2})} == {"gone"}


async def test_a_search_by_meaning_ranks_own_writes_among_the_others():
    base = InMemoryStore(index=INDEX)
    base.put(("a",), "some x", {"text": "xxy"})
    base.put(("a",), "only y", {"text": "yyy"})
    overlay = OverlayStore(base)
    await overlay.aput(("a",), "only x", {"text": "xxxx"})
    await overlay.aput(("a",), "hidden", {"text": "xxxxxx"}, index=False)
    await overlay.aput(("a",), "other", {"text": "y", "title": "xx"}, index=["title"])
    found = await overlay.asearch(("a",), query="x")
    assert [item.key for item in found] == ["other", "only x", "some x", "only y", "hidden"]
    assert found[-1].score is None
    assert [item.key for item in await overlay.asearch(("a",), query="x", limit=1, offset=1)] == ["only x"]
    await apply_writes(base, overlay.writes)
    assert [item.key for item in base.search(("a",), query="x")] == [item.key for item in found]


async def test_what_is_read_cannot_be_changed_in_place_and_what_is_written_is_kept_as_it_was():
    base = InMemoryStore()
    base.put(("a",), "k", {"list": [1]})
    overlay = OverlayStore(base)
    (await overlay.aget(("a",), "k")).value["list"].append(2)
    (await overlay.asearch(("a",)))[0].value["list"].append(3)
    assert base.get(("a",), "k").value == {"list": [1]}
    mine = {"list": [5]}
    await overlay.aput(("a",), "mine", mine)
    mine["list"].append(6)
    (await overlay.aget(("a",), "mine")).value["list"].append(7)
    assert overlay.writes == [(["a"], "mine", {"list": [5]}, None, None)]


def sqlite(path: Path) -> AbstractContextManager[Any]:
    return SqliteStore.from_conn_string(str(path / "store.db"), ttl={"default_ttl": 90, "refresh_on_read": False})


async def test_how_long_an_item_lives_goes_with_the_write(tmp_path: Path):
    with sqlite(tmp_path) as base:
        base.setup()
        overlay = OverlayStore(base)
        await overlay.aput(("a",), "short", {"v": 1}, ttl=5)
        await overlay.aput(("a",), "by default", {"v": 2})
        await apply_writes(base, overlay.writes)
        kept = dict(base.conn.execute("SELECT key, ttl_minutes FROM store").fetchall())
    assert kept == {"short": 5, "by default": 90}
    with pytest.raises(NotImplementedError, match="TTL"):
        await OverlayStore(InMemoryStore()).aput(("a",), "k", {}, ttl=5)


@pytest.mark.parametrize("durable", [False, True])
def test_it_works_from_synchronous_code(tmp_path: Path, durable: bool):
    with sqlite(tmp_path) if durable else nullcontext(InMemoryStore()) as base:
        if durable:
            base.setup()
        base.put(("a",), "old", {"v": 1})
        overlay = OverlayStore(base)
        overlay.put(("a",), "k", {"v": 1})
        overlay.delete(("a",), "old")
        assert overlay.get(("a",), "k").value == {"v": 1}
        assert [item.key for item in overlay.search(("a",))] == ["k"]
        assert base.get(("a",), "old").value == {"v": 1} and base.get(("a",), "k") is None


def test_writes_can_be_read_while_a_thread_writes():
    overlay, done = OverlayStore(filled()), threading.Event()

    def write() -> None:
        for number in range(2000):
            overlay.put(("new",), f"{number}", {"x": number})
        done.set()

    (writing := threading.Thread(target=write)).start()
    while not done.is_set():
        assert len(overlay.writes) <= 2000
    writing.join()
    assert len(overlay.writes) == 2000


async def test_only_external_calls_within_a_rollout_write_through_its_overlay():
    base = filled()

    async def rollout() -> OverlayStore:
        overlay = OverlayStore(base)
        await overlay.aput(("a",), "speculative", {"v": 3})

        async def call() -> None:
            await overlay.aput(("a",), "real", {"v": 4})

        await enclosed(call, "inner", Effect.EXTERNAL, WeakSet())()
        return overlay

    overlay = await enclosed(rollout, "outer", Effect.EXTERNAL, WeakSet())()
    assert {item.key for item in base.search(("a",))} == {"old", "gone", "real"}
    assert [key for _, key, *_ in overlay.writes] == ["speculative"]
