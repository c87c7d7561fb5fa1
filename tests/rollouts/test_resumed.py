"""Durable rollouts: a request that was cut off goes on where it was, also in another process."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import wrap_tool_call
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command
from pydantic import Field

from entcent_agents.effects import READ, WRITE
from entcent_agents.environments import SqliteEnvironment, current_environment
from entcent_agents.errors import ConfigurationError, EffectError, RolloutError, RolloutsFailedError
from entcent_agents.ledger import LedgerSettings, SqliteLedger
from entcent_agents.nodes import EntropyCentroidSelector, guarded
from entcent_agents.prebuilt import entropy_centroid_graph
from entcent_agents.selection import First, Selection
from entcent_agents.testing import ScriptedChat, ScriptedTurn
from tests.passing_time import Clock
from tests.rollouts.worlds import ASK, World, turn
from tests.table import new_table, rows

CONFIG: Any = {"configurable": {"thread_id": "t"}}


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return new_table(tmp_path / "world.db")


@asynccontextmanager
async def durable(tmp_path: Path) -> AsyncIterator[dict[str, Any]]:
    """Settings of a graph whose everything outlives the process."""
    async with AsyncExitStack() as stack:
        parent = await stack.enter_async_context(AsyncSqliteSaver.from_conn_string(str(tmp_path / "parent.db")))
        rollouts = await stack.enter_async_context(AsyncSqliteSaver.from_conn_string(str(tmp_path / "rollouts.db")))
        ledger = SqliteLedger(tmp_path / "ledger.db")
        stack.push_async_callback(ledger.aclose)
        yield {
            "checkpointer": parent,
            "rollout_checkpointer": rollouts,
            "ledger": ledger,
            "ledger_settings": LedgerSettings(lease_seconds=0.3),
        }


class Counted(ScriptedChat):
    """Counts what it is asked."""

    asked: list[str] = Field(default_factory=list)

    async def _play(self, messages: Any, run_manager: Any) -> Any:
        self.asked.append(str(run_manager.metadata.get("thread_id")))
        return await super()._play(messages, run_manager)


async def cut_off(graph: Any, model: Counted, *, asked: int) -> None:
    """Run a request, and cancel it once the model was asked so often."""
    run = asyncio.create_task(graph.ainvoke(ASK, CONFIG))
    while len(model.asked) < asked:  # noqa: ASYNC110  nothing tells
        await asyncio.sleep(0.02)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run


@tool
async def add(x: int) -> str:
    """Add a row."""
    path = current_environment().path
    with sqlite3.connect(path) as connection:
        connection.execute("INSERT INTO t VALUES (?)", (x,))
    connection.close()
    return f"added {x}"


async def test_a_cancelled_request_goes_on_without_sampling_a_turn_again(clock: Clock, tmp_path: Path, database: Path):
    slow = [
        turn("", ("add", {"x": 1})),
        turn("", ("add", {"x": 2})),
        ScriptedTurn(text="done", entropy=[0.1] * 300, delay_seconds=30.0),
    ]
    model = Counted(scripts=[slow])
    agent = create_agent(model, [add])
    for attempt in range(2):
        async with durable(tmp_path) as settings:
            graph = entropy_centroid_graph(
                agent, n=2, effects={"add": WRITE}, environments=[SqliteEnvironment(database)], **settings
            )
            if attempt == 0:
                await cut_off(graph, model, asked=6)
                assert rows(database) == []
            else:
                state = await clock.soon(graph.ainvoke(None, CONFIG))
                left = [found async for found in settings["rollout_checkpointer"].alist(None)]
    assert [message.type for message in state["messages"]] == ["human", "ai", "tool", "ai", "tool", "ai"]
    assert rows(database) == [1, 2]
    assert len(model.asked) == 8  # the two turns that were under way were asked for again
    assert left == []


async def test_what_a_failed_write_had_written_is_not_undone_at_resumption(
    clock: Clock, tmp_path: Path, database: Path
):
    @tool
    async def add_and_fail(x: int) -> str:
        """Add a row, and fail."""
        raise ValueError(await add.ainvoke({"x": x}))

    @wrap_tool_call
    async def told(request: Any, handler: Any):
        try:
            return await handler(request)
        except ValueError as error:
            return ToolMessage(f"failed: {error}", tool_call_id=request.tool_call["id"])

    slow = [turn("", ("add_and_fail", {"x": 1})), ScriptedTurn(text="done", entropy=[0.1] * 30, delay_seconds=30.0)]
    model = Counted(scripts=[slow])
    agent = create_agent(model, [add_and_fail], middleware=[told])
    for attempt in range(2):
        async with durable(tmp_path) as settings:
            graph = entropy_centroid_graph(
                agent, n=1, effects={"add_and_fail": WRITE}, environments=[SqliteEnvironment(database)], **settings
            )
            if attempt == 0:
                await cut_off(graph, model, asked=2)
            else:
                state = await clock.soon(graph.ainvoke(None, CONFIG))
    assert state["messages"][2].content == "failed: added 1"
    assert rows(database) == [1]


async def test_a_held_winner_with_forks_is_committed_goes_on_and_leaves_no_thread(
    tmp_path: Path, database: Path, world: World
):
    async def seen(to: str) -> str:
        sent_at.append((to, rows(database)))
        return await world.tools[0].ainvoke({"to": to})

    sent_at: list[tuple[str, list[int]]] = []
    send = tool("send", description="Send a mail.")(seen)
    script = [turn("", ("add", {"x": 1})), turn("", ("send", {"to": "a"})), turn("", ("add", {"x": 2})), turn("done")]
    agent = create_agent(ScriptedChat(scripts=[script]), [add, send])
    async with durable(tmp_path) as settings:
        graph = entropy_centroid_graph(
            agent, n=2, effects={"add": WRITE}, environments=[SqliteEnvironment(database)], **settings
        )
        result = await graph.ainvoke(ASK, CONFIG)
        assert [found async for found in settings["rollout_checkpointer"].alist(None)] == []
    assert sent_at == [("a", [1])]  # what led to the call was real before it
    assert rows(database) == [1, 2]
    assert result["messages"][-1].text == "done"


async def test_a_held_winner_stays_held_while_the_process_is_away(tmp_path: Path, world: World):
    scripts = [[turn("", ("confirm", {"question": f"{i}?"}), early=i == 1), turn(f"done {i}")] for i in range(3)]
    model = Counted(scripts=scripts)
    agent = create_agent(model, world.tools)
    async with durable(tmp_path) as settings:
        graph = entropy_centroid_graph(agent, n=3, effects={"confirm": READ, "look": READ}, **settings)
        asked = await graph.ainvoke(ASK, CONFIG)
        assert asked["__interrupt__"][0].value == "1?"
    async with durable(tmp_path) as settings:
        graph = entropy_centroid_graph(agent, n=3, effects={"confirm": READ, "look": READ}, **settings)
        result = await graph.ainvoke(Command(resume="yes"), CONFIG)
    assert result["messages"][2].content == "the person says yes"
    assert len(model.asked) == 6


async def test_a_call_in_doubt_is_put_to_a_person_and_not_repeated(tmp_path: Path):
    sent: list[int] = []

    @tool
    async def send(x: int) -> str:
        """Send."""
        sent.append(x)
        raise TimeoutError("no answer")

    scripts = [[turn("", ("send", {"x": i}), early=i == 1), turn(f"done {i}")] for i in range(3)]
    agent = create_agent(ScriptedChat(scripts=scripts), [send])
    async with durable(tmp_path) as settings:
        graph = entropy_centroid_graph(agent, n=3, **settings)
        asked = await graph.ainvoke(ASK, CONFIG)
        (interrupt,) = asked["__interrupt__"]
        assert interrupt.value["kind"] == "effects in doubt"
        (question,) = interrupt.value["questions"]
        assert (question["tool"], question["arguments"]) == ("send", {"x": 1})
        again = await graph.ainvoke(Command(resume="what?"), CONFIG)
        assert "must be a mapping" in again["__interrupt__"][0].value["not understood"]
        answer = {"doubt_id": question["doubt_id"], "decision": "happened", "result": "sent"}
        result = await graph.ainvoke(Command(resume=answer), CONFIG)
        assert await settings["ledger"].unsettled() == []
    assert sent == [1]
    assert result["messages"][2].content == "sent"


async def test_a_durable_graph_with_stores_in_memory_is_refused_before_a_model_call(tmp_path: Path, world: World):
    model = Counted(scripts=[[turn("", ("send", {"to": "x"})), turn("done")]])
    agent = create_agent(model, world.tools)
    async with durable(tmp_path) as settings:
        for missing in ("rollout_checkpointer", "ledger"):
            some = {key: value for key, value in settings.items() if key != missing}
            with pytest.raises(EffectError, match=f"need a {missing} that does too"):
                await entropy_centroid_graph(agent, n=2, **some).ainvoke(ASK, CONFIG)
    assert model.asked == []


async def test_a_question_that_would_not_outlive_the_process_is_not_put(tmp_path: Path, world: World):
    agent = create_agent(ScriptedChat(scripts=[[turn("", ("confirm", {"question": "?"}))]]), world.tools[1:])
    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "parent.db")) as parent:
        graph = entropy_centroid_graph(agent, n=2, effects={"confirm": READ, "look": READ}, checkpointer=parent)
        with pytest.raises(ConfigurationError, match=r"pass rollout_checkpointer=AsyncSqliteSaver"):
            await graph.ainvoke(ASK, CONFIG)


async def test_a_new_message_leaves_a_held_rollout_behind(world: World):
    scripts = [[turn("", ("confirm", {"question": f"{i}?"})), turn(f"done {i}")] for i in range(2)]
    saver = InMemorySaver()
    graph = entropy_centroid_graph(
        create_agent(ScriptedChat(scripts=scripts), world.tools[1:]),
        n=2,
        effects={"confirm": READ, "look": READ},
        checkpointer=InMemorySaver(),
        rollout_checkpointer=saver,
    )
    await graph.ainvoke(ASK, CONFIG)
    result = await graph.ainvoke({"messages": [HumanMessage("never mind")]}, CONFIG)
    assert "__interrupt__" not in result
    assert result["messages"][-1].text == "done 0"
    assert [found async for found in saver.alist(None)] == []


async def test_a_held_rollout_that_went_on_cannot_go_on_again(world: World):
    scripts = [[turn("", ("send", {"to": "x"})), turn("done")]]
    graph = entropy_centroid_graph(
        create_agent(ScriptedChat(scripts=scripts), world.tools[:2]),
        n=2,
        effects={"look": READ},
        checkpointer=InMemorySaver(),
    )
    await graph.ainvoke(ASK, CONFIG)
    history = [state async for state in graph.aget_state_history(CONFIG)]
    held = next(state for state in history if state.next == ("rollouts",) and state.values.get("rollouts"))
    with pytest.raises(RolloutError, match="went on already"):
        await graph.ainvoke(None, held.config)
    again = next(state for state in history if state.next == ("rollouts",) and not state.values.get("rollouts"))
    await graph.ainvoke(None, again.config)
    assert world.sent == ["x", "x"]  # time travel is a new history, as without rollouts


async def test_other_arguments_in_the_place_of_a_call_that_was_made_are_in_doubt(world: World):
    """One node asks the model and calls the tool: when it runs again, the model may say something else."""
    send = guarded(world.tools[0])
    said = iter(["a", "a", "b", "b"])
    broken = iter([True])

    async def act(state: MessagesState):
        to = next(said)
        heard = await send.ainvoke({"to": to})
        if next(broken, False):
            raise RuntimeError("after the call")
        return {"messages": [AIMessage(f"wrote to {to}: {heard}")]}

    builder = StateGraph(MessagesState)
    builder.add_node("act", act)
    builder.add_edge(START, "act")
    graph = entropy_centroid_graph(builder.compile(), n=1, checkpointer=InMemorySaver())
    with pytest.raises(RolloutsFailedError, match="but send was called, which stays on record: RuntimeError: after"):
        await graph.ainvoke(ASK, CONFIG)
    asked = await graph.ainvoke(None, CONFIG)
    (question,) = asked["__interrupt__"][0].value["questions"]
    assert question["arguments"] == {"to": "b"}
    assert question["reason"] == "a call with another name or other arguments is on record at the same position"
    assert [other["state"] for other in question["others"]] == ["done"]
    result = await graph.ainvoke(Command(resume={"doubt_id": question["doubt_id"], "decision": "give up"}), CONFIG)
    assert world.sent == ["a"]
    assert result["messages"][-1].text == "wrote to b: This call was not made: a person decided against it"


async def test_what_was_committed_stays_selected_whatever_the_selector_says_the_second_time(
    tmp_path: Path, database: Path, monkeypatch: pytest.MonkeyPatch
):
    class Fickle:
        name = "fickle"
        chosen = iter([1, 0])

        def select(self, rollouts: Any) -> Selection:
            return replace(First().select(rollouts), winner=rollouts[min(next(self.chosen), len(rollouts) - 1)].index)

    scripts = [[turn("", ("add", {"x": i})), turn(f"done {i}")] for i in range(2)]
    async with durable(tmp_path) as settings:
        graph = entropy_centroid_graph(
            create_agent(ScriptedChat(scripts=scripts), [add]),
            n=2,
            effects={"add": WRITE},
            environments=[SqliteEnvironment(database)],
            selector=Fickle(),
            **settings,
        )

        async def dies(self: Any, *args: Any) -> None:
            raise RuntimeError("died")

        with monkeypatch.context() as patched, pytest.raises(RuntimeError, match="died"):
            patched.setattr(EntropyCentroidSelector, "_clean_up", dies)
            await graph.ainvoke(ASK, CONFIG)
        assert rows(database) == [1]
        result = await graph.ainvoke(None, CONFIG)
    assert rows(database) == [1]
    assert result["messages"][-1].text == "done 1"


async def test_a_programming_error_in_one_rollout_leaves_no_fork_of_the_others(tmp_path: Path, database: Path):
    slow = [turn("", ("add", {"x": 1})), ScriptedTurn(text="done", entropy=[0.1] * 300, delay_seconds=30.0)]
    wrong = [turn("", ("add", {"x": 2})), ScriptedTurn(error=NameError("oops"), delay_seconds=0.3)]
    async with durable(tmp_path) as settings:
        graph = entropy_centroid_graph(
            create_agent(ScriptedChat(scripts=[slow, wrong]), [add]),
            n=2,
            effects={"add": WRITE},
            environments=[SqliteEnvironment(database)],
            **settings,
        )
        with pytest.raises(NameError, match="oops"):
            await graph.ainvoke(ASK, CONFIG)
        assert [found async for found in settings["rollout_checkpointer"].alist(None)] == []
    assert list(tmp_path.glob(".entcent-*/forks/*")) == []
    assert rows(database) == []
