"""Guards: every way in which a graph may reach a tool."""

from __future__ import annotations

import asyncio
import operator
from pathlib import Path
from typing import Annotated, Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import ToolRetryMiddleware, wrap_tool_call
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.messages.tool import tool_call
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import InjectedState, ToolNode, ToolRuntime, tools_condition
from langgraph.types import Command

from entcent_agents.effects import EXTERNAL, READ, WRITE, ToolEffect
from entcent_agents.environments import DirectoryEnvironment, current_environment
from entcent_agents.errors import EffectError, RolloutsFailedError
from entcent_agents.ledger import LedgerSettings, MemoryLedger
from entcent_agents.nodes import Retries, guarded
from entcent_agents.prebuilt import entropy_centroid_graph
from entcent_agents.rollouts.calls import Call, stored
from entcent_agents.rollouts.guard import Guard, Rules
from entcent_agents.selection import First
from entcent_agents.testing import ScriptedChat, ScriptedTurn
from tests.rollouts.worlds import ASK, World, turn


def tool_node_graph(world: World, scripts: list[list[ScriptedTurn]], **settings: Any):
    """One tool node that makes all calls of a turn in one task."""
    model = ScriptedChat(scripts=scripts)

    async def call_model(state: MessagesState):
        return {"messages": [await model.ainvoke(state["messages"])]}

    builder = StateGraph(MessagesState)
    builder.add_node("model", call_model)
    builder.add_node("tools", ToolNode(world.tools, **settings))
    builder.add_edge(START, "model")
    builder.add_conditional_edges("model", tools_condition)
    builder.add_edge("tools", "model")
    return builder.compile()


async def test_in_one_task_what_ran_before_the_hold_does_not_run_again(world: World):
    calls = [("send", {"to": "a"}), ("look", {"x": 1}), ("send", {"to": "b"})]
    scripts = [[turn("", *calls), turn(f"done {i}")] for i in range(3)]
    graph = entropy_centroid_graph(tool_node_graph(world, scripts), n=3, effects={"look": READ, "confirm": READ})
    result = await graph.ainvoke(ASK)
    assert sorted(world.sent) == ["a", "b"]
    assert world.looks == 1  # three rollouts looked at the same thing at the same time, and nobody looked again
    assert [message.content for message in result["messages"][2:5]] == ["sent to a", "seen 1", "sent to b"]


async def test_a_tool_that_a_node_calls_itself_is_held_if_it_is_guarded(world: World):
    send = guarded(world.tools[0])
    model = ScriptedChat(scripts=[[turn(f"done {i}", early=i == 1)] for i in range(3)])

    async def act(state: MessagesState):
        await send.ainvoke({"to": "x"})
        await send.ainvoke({"to": "x"})
        return {"messages": [await model.ainvoke(state["messages"])]}

    builder = StateGraph(MessagesState)
    builder.add_node("act", act)
    builder.add_edge(START, "act")
    result = await entropy_centroid_graph(builder.compile(), n=3).ainvoke(ASK)
    assert world.sent == ["x", "x"]
    assert result["messages"][-1].text.startswith("done")


async def test_a_tool_that_a_node_calls_itself_is_refused_if_it_is_not(world: World):
    async def act(state: MessagesState):
        return {"messages": [AIMessage(str(await world.tools[0].ainvoke({"to": "x"})))]}

    builder = StateGraph(MessagesState)
    builder.add_node("act", act)
    builder.add_edge(START, "act")
    with pytest.raises(EffectError, match=r"a node called the tool 'send'.*guarded\(tool\).*effects=\{'send': READ\}"):
        await entropy_centroid_graph(builder.compile(), n=2).ainvoke(ASK)
    assert world.sent == []


async def test_a_sync_tool_that_runs_an_agent_of_its_own_is_guarded_all_the_way(world: World):
    seen: list[int] = []

    @tool
    def peek(x: int) -> str:
        """Look, synchronously."""
        seen.append(x)
        return f"peeked at {x}"

    inner = create_agent(ScriptedChat(scripts=[[turn("", ("peek", {"x": 7})), turn("inner")]]), [peek])

    @tool
    def ask_inner(question: str) -> str:
        """Ask another agent."""
        return inner.invoke({"messages": [HumanMessage(question)]})["messages"][-1].text

    scripts = [[turn("", ("ask_inner", {"question": "?"})), turn(f"done {i}")] for i in range(2)]
    agent = create_agent(ScriptedChat(scripts=scripts), [ask_inner])
    result = await entropy_centroid_graph(agent, n=2, effects={"ask_inner": READ}).ainvoke(ASK)
    assert result["messages"][2].content == "inner"
    assert seen == [7]


async def test_one_declared_external_inside_a_tool_that_reads_is_not_run(world: World):
    @tool
    async def outer(to: str) -> str:
        """Call another tool."""
        return str(await world.tools[0].ainvoke({"to": to}))

    scripts = [[turn("", ("outer", {"to": "x"})), turn("done")]]
    agent = create_agent(ScriptedChat(scripts=scripts), [outer, *world.tools])
    effects = {"outer": READ, "send": EXTERNAL, "look": READ, "confirm": READ}
    with pytest.raises(EffectError, match="a node called the tool 'send'"):
        await entropy_centroid_graph(agent, n=1, effects=effects).ainvoke(ASK)
    assert world.sent == []


async def test_middleware_that_swallows_the_hold_is_said_to(world: World):
    @wrap_tool_call
    async def swallow(request: Any, handler: Any):
        try:
            return await handler(request)
        except Exception as error:
            return ToolMessage(f"failed: {error!r}", tool_call_id=request.tool_call["id"])

    scripts = [[turn("", ("send", {"to": "x"})), turn("done")]]
    agent = create_agent(ScriptedChat(scripts=scripts), world.tools, middleware=[swallow])
    with pytest.raises(RolloutsFailedError, match="let langgraph.errors.GraphBubbleUp pass"):
        await entropy_centroid_graph(agent, n=1).ainvoke(ASK)
    assert world.sent == []


async def test_retries_of_middleware_do_not_repeat_an_external_call():
    attempts: list[str] = []

    @tool
    async def pay(amount: int) -> str:
        """Pay."""
        attempts.append("pay")
        raise ValueError("declined")

    scripts = [[turn("", ("pay", {"amount": 5})), turn(f"done {i}")] for i in range(2)]
    middleware = [ToolRetryMiddleware(max_retries=3, initial_delay=0.0, jitter=False)]
    agent = create_agent(ScriptedChat(scripts=scripts), [pay], middleware=middleware)
    result = await entropy_centroid_graph(agent, n=2).ainvoke(ASK)
    assert attempts == ["pay"]
    assert "declined" in result["messages"][2].content


async def test_commands_and_injected_state_go_through(world: World):
    class State(MessagesState):
        notes: Annotated[list[str], operator.add]

    @tool
    async def note(text: str, runtime: ToolRuntime, state: Annotated[dict, InjectedState]) -> Command:
        """Note something."""
        said = f"{text} after {len(state['messages'])}"
        return Command(update={"notes": [said], "messages": [ToolMessage("noted", tool_call_id=runtime.tool_call_id)]})

    scripts = [[turn("", ("note", {"text": f"{i}"}), early=i == 1), turn(f"done {i}")] for i in range(2)]
    agent = create_agent(ScriptedChat(scripts=scripts), [note], state_schema=State)
    result = await entropy_centroid_graph(agent, n=2).ainvoke({**ASK, "notes": ["first"]})
    assert result["notes"] == ["first", "1 after 2"]


async def test_a_read_that_fails_is_not_shared():
    tries: list[int] = []

    @tool
    async def flaky(x: int) -> str:
        """Fail the first time."""
        tries.append(x)
        await asyncio.sleep(0.01)
        if len(tries) == 1:
            raise ValueError("once")
        return "fine"

    scripts = [[turn("", ("flaky", {"x": 1})), turn(f"done {i}")] for i in range(3)]
    graph = entropy_centroid_graph(create_agent(ScriptedChat(scripts=scripts), [flaky]), n=3, effects={"flaky": READ})
    result = await graph.ainvoke(ASK)
    assert len(tries) == 2  # the second attempt was shared by those that waited
    assert result["messages"][2].content == "fine"


async def test_a_call_that_a_failed_task_left_behind_is_cancelled_and_an_external_one_is_finished(world: World):
    ended: list[str] = []

    @tool
    async def slow(x: int) -> str:
        """Read for a long time."""
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        return "late"

    @tool
    async def pay(x: int) -> str:
        """Pay."""
        await asyncio.sleep(0.2)
        ended.append("paid")
        return "paid"

    @tool
    async def broken(x: int) -> str:
        """Fail."""
        raise ValueError("broken")

    world.tools[:] = [slow, pay, broken]
    calls = [("slow", {"x": 1}), ("pay", {"x": 1}), ("broken", {"x": 1})]
    first = [[turn("", ("pay", {"x": 0})), turn("", *calls), turn("done")]]
    graph = entropy_centroid_graph(
        tool_node_graph(world, first, handle_tool_errors=False),
        n=1,
        effects={"slow": READ, "broken": READ},
        checkpointer=InMemorySaver(),
    )
    with pytest.raises(RolloutsFailedError, match="ValueError: broken"):
        await asyncio.wait_for(graph.ainvoke(ASK, {"configurable": {"thread_id": "t"}}), 60)
    assert ended == ["paid", "cancelled"]  # the payment of the second turn was never approved


async def test_an_approved_call_beside_one_that_fails_is_finished_and_not_in_doubt(world: World):
    paid: list[int] = []
    failures = iter([True])

    @tool
    async def pay(x: int) -> str:
        """Pay."""
        await asyncio.sleep(0.2)
        paid.append(x)
        return "paid"

    @tool
    async def book(x: int) -> str:
        """Book."""
        await asyncio.sleep(0.05)
        if next(failures, False):
            raise ValueError("full")
        return "booked"

    scripts = [[turn("", ("pay", {"x": 1}), ("book", {"x": 1})), turn("done")]]
    agent = create_agent(ScriptedChat(scripts=scripts), [pay, book])
    ledger = MemoryLedger()
    graph = entropy_centroid_graph(agent, n=1, ledger=ledger, checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "t"}}
    with pytest.raises(RolloutsFailedError, match="ValueError: full"):
        await graph.ainvoke(ASK, config)
    assert paid == [1]
    assert await ledger.unsettled() == []


async def test_a_write_inside_a_write_is_part_of_it(tmp_path: Path):
    @tool
    async def note(text: str) -> str:
        """Write a file."""
        current_environment("notes").resolve(text).write_text(text)
        return f"noted {text}"

    noted = guarded(note)

    @tool
    async def note_both(text: str) -> str:
        """Write two files."""
        return f"{await noted.ainvoke({'text': text})}, {await noted.ainvoke({'text': text * 2})}"

    folder = tmp_path / "notes"
    folder.mkdir()
    scripts = [[turn("", ("note_both", {"text": f"{i}"}), early=i == 1), turn(f"done {i}")] for i in range(2)]
    agent = create_agent(ScriptedChat(scripts=scripts), [note, note_both])
    environments = [DirectoryEnvironment(folder, name="notes")]
    effects = {"note": WRITE, "note_both": WRITE}
    graph = entropy_centroid_graph(agent, n=2, effects=effects, environments=environments)
    result = await asyncio.wait_for(graph.ainvoke(ASK), 60)
    assert result["messages"][2].content == "noted 1, noted 11"
    assert sorted(path.name for path in folder.iterdir()) == ["1", "11"]


@pytest.mark.parametrize("known", [{}, {"send": EXTERNAL}])
async def test_a_guarded_tool_inside_one_that_reads_is_held_and_the_outer_one_runs_again(world: World, known: Any):
    send = guarded(world.tools[0])
    began: list[str] = []

    @tool
    async def outer(to: str) -> str:
        """Call another tool."""
        began.append(to)
        return f"outer: {await send.ainvoke({'to': to})}"

    scripts = [[turn("", ("outer", {"to": f"{i}"}), early=i == 1), turn(f"done {i}")] for i in range(2)]
    agent = create_agent(ScriptedChat(scripts=scripts), [outer, *world.tools])
    effects = {"outer": READ, "look": READ, "confirm": READ, **known}
    result = await asyncio.wait_for(entropy_centroid_graph(agent, n=2, effects=effects).ainvoke(ASK), 60)
    assert world.sent == ["1"]
    assert result["messages"][2].content == "outer: sent to 1"
    assert sorted(began) == ["0", "1", "1"]


async def test_a_read_that_is_given_the_state_is_not_shared():
    @tool
    async def recall(topic: str, state: Annotated[dict, InjectedState]) -> str:
        """Say what was said."""
        await asyncio.sleep(0.01)
        return f"{topic}: {state['messages'][-1].text}"

    scripts = [[turn(f"I am {i}", ("recall", {"topic": "x"}), early=i == 2), turn("done")] for i in range(3)]
    agent = create_agent(ScriptedChat(scripts=scripts), [recall])
    result = await entropy_centroid_graph(agent, n=3, effects={"recall": READ}).ainvoke(ASK)
    assert [message.text for message in result["messages"][1:3]] == ["I am 2", "x: I am 2"]


async def test_approved_calls_that_come_again_in_another_order_with_new_ids_are_the_same(world: World):
    send = guarded(world.tools[0])
    orders = [["a", "b"], ["b", "a"]]
    runs: list[list[str]] = []

    async def act(state: MessagesState):
        order = orders[len(runs)]
        runs.append(order)
        calls = [tool_call(name="send", args={"to": to}, id=f"{len(runs)}-{i}") for i, to in enumerate(order)]
        heard = await asyncio.gather(*(send.ainvoke(call) for call in calls))
        return {"messages": [AIMessage(", ".join(message.text for message in heard))]}

    builder = StateGraph(MessagesState)
    builder.add_node("act", act)
    builder.add_edge(START, "act")
    graph = entropy_centroid_graph(builder.compile(), n=1, selector=First(), on_unscorable="fallback")
    result = await graph.ainvoke(ASK)
    assert runs == orders
    assert sorted(world.sent) == ["a", "b"]
    assert result["messages"][-1].text == "sent to b, sent to a"


async def test_an_external_tool_may_call_another_which_was_approved_with_it(world: World):
    send = guarded(world.tools[0])
    began: list[str] = []

    @tool
    async def announce(to: str) -> str:
        """Send two mails."""
        began.append(to)
        return f"{await send.ainvoke({'to': to})}, {await send.ainvoke({'to': to + to})}"

    scripts = [[turn("", ("announce", {"to": f"{i}"}), early=i == 1), turn("done")] for i in range(2)]
    agent = create_agent(ScriptedChat(scripts=scripts), [announce, *world.tools])
    effects = {"announce": EXTERNAL, "send": EXTERNAL, "look": READ, "confirm": READ}
    result = await entropy_centroid_graph(agent, n=2, effects=effects).ainvoke(ASK)
    assert began == ["1"]  # and was not held in its middle
    assert world.sent == ["1", "11"]
    assert result["messages"][2].content == "sent to 1, sent to 11"


async def test_a_node_that_runs_again_after_its_external_call_does_not_make_it_again(world: World):
    """A call without an id is told from equal ones by its number, which begins anew with each execution."""
    send = guarded(world.tools[0])
    asked: list[str] = []
    runs: list[str] = []

    def answer(messages: Any) -> ScriptedTurn:
        asked.append("asked")
        return ScriptedTurn(error=ConnectionError("passing")) if len(asked) == 1 else turn("done")

    model = ScriptedChat(scripts=[answer])

    async def act(state: MessagesState):
        runs.append("run")
        heard = await send.ainvoke({"to": "x"})
        said = await model.ainvoke(state["messages"])
        return {"messages": [AIMessage(heard), said]}

    builder = StateGraph(MessagesState)
    builder.add_node("act", act)
    builder.add_edge(START, "act")
    result = await entropy_centroid_graph(builder.compile(), n=1, retries=Retries(first_seconds=0.01)).ainvoke(ASK)
    assert (len(runs), len(asked)) == (3, 2)  # held, failed, and done: not held again
    assert world.sent == ["x"]
    assert [message.text for message in result["messages"][1:]] == ["sent to x", "done"]


async def test_a_guarded_external_tool_inside_a_write_is_refused(world: World, tmp_path: Path):
    send = guarded(world.tools[0])

    @tool
    async def outer(to: str) -> str:
        """Call another tool."""
        return str(await send.ainvoke({"to": to}))

    agent = create_agent(ScriptedChat(scripts=[[turn("", ("outer", {"to": "x"})), turn("done")]]), [outer])
    graph = entropy_centroid_graph(
        agent, n=2, effects={"outer": WRITE}, environments=[DirectoryEnvironment(tmp_path, name="notes")]
    )
    with pytest.raises(EffectError, match="declare the outer tool EXTERNAL"):
        await graph.ainvoke(ASK)
    assert world.sent == []


async def test_a_result_is_packed_once_however_many_branches_take_it_along():
    async def look() -> ToolMessage:
        return ToolMessage("far away", name="look", tool_call_id="first")

    known = ToolEffect(tool="look", effect=READ, idempotent=False, environment=None, shareable=False, source="test")
    guard = Guard(Rules(effects={"look": known}, ledger=MemoryLedger(), settings=LedgerSettings(), request="request"))
    call = Call(namespace="tools:task", id="first", tool="look", arguments={"x": 1})
    result = await guard.call(call, look, shareable=False)
    first, second = guard.results, guard.results
    assert first == {call.key: stored(result)}
    assert first[call.key] is second[call.key]
    assert await guard.call(call, look, shareable=False) is result
