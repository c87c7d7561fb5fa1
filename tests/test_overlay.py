"""The store as a rollout sees it."""

from __future__ import annotations

from langgraph.store.memory import InMemoryStore

from entcent_agents.rollouts.overlay import OverlayStore, apply_writes


def filled() -> InMemoryStore:
    base = InMemoryStore()
    base.put(("a",), "old", {"v": 1})
    base.put(("a",), "gone", {"v": 2})
    return base


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


def test_it_works_from_synchronous_code():
    overlay = OverlayStore(filled())
    overlay.put(("a",), "k", {"v": 1})
    assert overlay.get(("a",), "k").value == {"v": 1}
