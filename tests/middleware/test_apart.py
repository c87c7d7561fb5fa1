"""What middleware further in changes for one candidate, in the request or in the store, and what becomes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import AgentState, create_agent
from langchain.agents.middleware import AgentMiddleware
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.config import get_store
from langgraph.store.memory import InMemoryStore
from langgraph.store.sqlite.aio import AsyncSqliteStore

from entcent_agents.middleware import EntropyCentroidMiddleware
from entcent_agents.testing import ScriptedTurn
from tests.middleware.stepping import GO, WAYS, Chosen, ask, chat, looking, said, texts, turns

N = 3
BEST = 1
ANSWERING = chat(lambda index: turns(said(f"answer{index}")), N)


def step(*further_in: Any) -> list[Any]:
    return [EntropyCentroidMiddleware(N, selector=Chosen(BEST)), *further_in]


class Notes(AgentState[Any]):
    """A state with a list that nobody reduces."""

    notes: list[str]


class Changing(AgentMiddleware[Any, Any, Any]):
    """Changes each request in place, and remembers how it looked before and after."""

    state_schema = Notes

    def __init__(self, change: Callable[[Any], Any], look: Callable[[Any], Any]) -> None:
        super().__init__()
        self.change, self.look = change, look
        self.before: list[Any] = []
        self.after: list[Any] = []

    def _changed(self, request: Any) -> Any:
        self.before.append(self.look(request))
        self.change(request)
        self.after.append(self.look(request))
        return request

    def wrap_model_call(self, request: Any, handler: Any) -> Any:
        return handler(self._changed(request))

    async def awrap_model_call(self, request: Any, handler: Any) -> Any:
        return await handler(self._changed(request))


def say_more(message: Any) -> None:
    message.content = f"{message.text} Now."


CHANGES: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "messages": (lambda r: r.messages.append(HumanMessage("A reminder.")), lambda r: len(r.messages)),
    "a message of the state": (lambda r: say_more(r.state["messages"][0]), lambda r: r.messages[0].text),
    "a message": (lambda r: say_more(r.messages[0]), lambda r: r.messages[0].text),
    "a call": (lambda r: r.messages[1].tool_calls[0]["args"].clear(), lambda r: str(r.messages[1].tool_calls)),
    "parts of a message": (lambda r: r.messages[3].content.append("and"), lambda r: len(r.messages[3].content)),
    "the system message": (lambda r: say_more(r.system_message), lambda r: r.system_message.text),
    "settings": (lambda r: r.model_settings.setdefault("stop", []).append("END"), lambda r: str(r.model_settings)),
    "tools": (lambda r: r.tools.clear(), lambda r: len(r.tools)),
    "state": (lambda r: r.state["notes"].append("seen"), lambda r: len(r.state["notes"])),
}


@WAYS
@pytest.mark.parametrize("name", CHANGES)
async def test_what_one_changes_in_its_request_no_other_sees(way: str, name: str):
    changing = Changing(*CHANGES[name])
    agent = create_agent(ANSWERING, [looking([])], middleware=step(changing), system_prompt="Be brief.")
    call: Any = {"name": "look", "args": {"at": "here"}, "id": "1"}
    asked: list[Any] = [
        HumanMessage("Look."),
        AIMessage("", tool_calls=[call]),
        ToolMessage("saw here", tool_call_id="1", artifact=[object()]),
        HumanMessage(["Well?"]),
    ]
    result = await ask(agent, way, {"messages": asked, "notes": []})
    assert len(set(changing.before)) == len(set(changing.after)) == 1
    assert changing.before[0] != changing.after[0]
    assert result["messages"][-1].text == f"answer{BEST}" and result["notes"] == []
    assert texts(result)[:-1] == ["Look.", "", "saw here", "Well?"] and result["messages"][1].tool_calls[0]["args"]


class Noting(AgentMiddleware[Any, Any, Any]):
    """Notes in the store what each candidate said, and reads its notes."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[Any] = []

    def wrap_model_call(self, request: Any, handler: Any) -> Any:
        response = handler(request)
        request.runtime.store.put(("said",), response.result[0].text, {"by": "runtime"})
        get_store().put(("last",), "one", {"text": response.result[0].text})
        self.read.append(request.runtime.store.get(("last",), "one").value["text"] == response.result[0].text)
        return response

    async def awrap_model_call(self, request: Any, handler: Any) -> Any:
        response = await handler(request)
        await request.runtime.store.aput(("said",), response.result[0].text, {"by": "runtime"})
        await get_store().aput(("last",), "one", {"text": response.result[0].text})
        found = await request.runtime.store.aget(("last",), "one")
        self.read.append(found.value["text"] == response.result[0].text)
        return response


@WAYS
async def test_what_losers_wrote_to_the_store_is_not_in_it(way: str):
    store, noting = InMemoryStore(), Noting()
    await ask(create_agent(ANSWERING, [], middleware=step(noting), store=store), way)
    assert [item.key for item in store.search(("said",))] == [f"answer{BEST}"]
    assert [item.value for item in store.search(("last",))] == [{"text": f"answer{BEST}"}]
    assert noting.read == [True] * N


@WAYS
async def test_where_all_fail_nothing_is_in_the_store(way: str):
    class Failing(Noting):
        def wrap_model_call(self, request: Any, handler: Any) -> Any:
            super().wrap_model_call(request, handler)
            raise OSError("gone")

        async def awrap_model_call(self, request: Any, handler: Any) -> Any:
            await super().awrap_model_call(request, handler)
            raise OSError("gone")

    store = InMemoryStore()
    with pytest.raises(OSError, match="gone"):
        await ask(create_agent(ANSWERING, [], middleware=step(Failing()), store=store), way)
    assert store.search(()) == []


async def test_a_store_of_another_loop_takes_what_the_selected_candidate_wrote(tmp_path: Path):
    async with AsyncSqliteStore.from_conn_string(str(tmp_path / "store.db")) as store:
        await store.setup()
        agent = create_agent(ANSWERING, [], middleware=step(Noting()), store=store)
        await asyncio.to_thread(agent.invoke, GO)
        assert [item.key for item in await store.asearch(("said",))] == [f"answer{BEST}"]


@WAYS
async def test_a_candidate_that_fails_leaves_nothing_in_the_store(way: str):
    def script(index: int) -> Any:
        return turns(ScriptedTurn(error=OSError("gone")) if index == BEST else said(f"answer{index}"))

    store = InMemoryStore()
    await ask(create_agent(chat(script, N), [], middleware=step(Noting()), store=store), way)
    assert [item.key for item in store.search(("said",))] == ["answer0"]
