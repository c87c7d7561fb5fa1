"""Every way to stream a graph: its turns are captured once and whole, and neither stream nor checkpoint has arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langchain_core.runnables import Runnable
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

from entcent_agents.capture import with_logprobs
from entcent_agents.capture.recorder import TurnRecorder
from entcent_agents.testing import ScriptedChat, ScriptedTurn
from tests.chat_server import Reply, Request
from tests.test_streaming import (
    ASK,
    BETA,
    SCRIPTS,
    Everything,
    aevents_v3,
    bound,
    check_message,
    check_nothing_leaks,
    events_v3,
    heard,
    search,
    whole,
)

pytestmark = pytest.mark.filterwarnings(BETA)


def agent(model: Runnable[Any, AIMessage], node: str = "ainvoke", checkpointer: Any = None):
    """A model and its tools, as a subgraph of another graph."""

    async def asynchronous(state: MessagesState):
        if node == "ainvoke":
            return {"messages": [await model.ainvoke(state["messages"])]}
        if node == "astream":
            return {"messages": [whole([chunk async for chunk in model.astream(state["messages"])])]}
        return {"messages": [await (await model.astream_events(state["messages"], version="v3"))]}

    def synchronous(state: MessagesState):
        if node == "invoke":
            return {"messages": [model.invoke(state["messages"])]}
        return {"messages": [whole(list(model.stream(state["messages"])))]}

    inner = StateGraph(MessagesState)
    inner.add_node("model", asynchronous if node.startswith("a") else synchronous)
    inner.add_node("tools", ToolNode([search]))
    inner.add_edge(START, "model").add_conditional_edges("model", tools_condition).add_edge("tools", "model")
    outer = StateGraph(MessagesState).add_node("agent", inner.compile()).add_edge(START, "agent")
    return outer.compile(checkpointer=checkpointer)


def in_turn(script: str) -> Callable[[Request], list[Reply]]:
    """First the script's call, then words."""
    served = iter([SCRIPTS[script], SCRIPTS["words"]])
    return lambda request: [next(served)]


def amode(*args: Any, **kwargs: Any) -> Callable[..., Any]:
    async def way(graph, config, seen) -> None:
        seen += [part async for part in graph.astream({"messages": ASK}, config, *args, **kwargs)]

    return way


def mode(*args: Any, **kwargs: Any) -> Callable[..., Any]:
    def way(graph, config, seen) -> None:
        seen += graph.stream({"messages": ASK}, config, *args, **kwargs)

    return way


def agraph_events(version: str) -> Callable[..., Any]:
    async def way(graph, config, seen) -> None:
        seen += [event async for event in graph.astream_events({"messages": ASK}, config, version=version)]

    return way


async def agraph_events_v3(graph, config, seen) -> None:
    run = await graph.astream_events({"messages": ASK}, config, version="v3")
    seen += [event async for event in run]


def graph_events_v3(graph, config, seen) -> None:
    seen += graph.stream_events({"messages": ASK}, config, version="v3")


async def agraph_invoke(graph, config, seen) -> None:
    seen.append(await graph.ainvoke({"messages": ASK}, config))


MODES = ("values", "updates", "messages", "custom", "debug", "tasks", "checkpoints", ["messages", "updates", "values"])
SHAPES = ({"subgraphs": False, "version": "v1"}, {"subgraphs": True, "version": "v2"})
EVENTS = {"events v1": agraph_events("v1"), "events v2": agraph_events("v2"), "events v3": agraph_events_v3}
RUNS: dict[str, tuple[str, Callable[..., Any]]] = {
    **{f"ainvoke: {kind} {shape}": ("ainvoke", amode(stream_mode=kind, **shape)) for kind in MODES for shape in SHAPES},
    **{f"astream: {kind}": ("astream", amode(stream_mode=kind, subgraphs=True)) for kind in MODES},
    **{f"invoke: {kind}": ("invoke", mode(stream_mode=kind, subgraphs=True)) for kind in MODES},
    **{f"{node}: {name}": (node, run) for node in ("ainvoke", "astream", "aevents") for name, run in EVENTS.items()},
    **{f"{node}: events v3": (node, graph_events_v3) for node in ("invoke", "stream")},
    **{f"{node}: {kind}": (node, amode(stream_mode=kind)) for node in ("aevents",) for kind in ("messages", "values")},
    "stream: messages": ("stream", mode(stream_mode="messages")),
    "ainvoke: invoke": ("ainvoke", agraph_invoke),
}


@pytest.mark.parametrize("script", ["native", "text"])
@pytest.mark.parametrize("node, run", RUNS.values(), ids=RUNS)
async def test_every_way_to_stream_a_graph_is_captured_once_and_whole(serve, script, node, run):
    saver, recorder, tracer, seen = InMemorySaver(), TurnRecorder(), Everything(), []
    server = serve(in_turn(script))
    graph = agent(bound(server, script), node, saver)
    config = {"callbacks": [recorder, tracer], "configurable": {"thread_id": "1"}}
    await heard(run, graph, config, seen)
    check_turns(graph.get_state(config).values["messages"], recorder, script)
    assert server.requests[1].body["messages"][-2]["content"].startswith(SCRIPTS[script].text)
    check_nothing_leaks(*map(repr, seen), repr(saver.storage), repr(saver.blobs), repr(saver.writes), *tracer.told)


def check_turns(messages: list[AnyMessage], recorder: TurnRecorder, script: str) -> None:
    """A turn for each of the two answers, with the tokens of the script."""
    assert [type(message) for message in messages] == [HumanMessage, AIMessage, ToolMessage, AIMessage]
    assert messages[2].text == "all about bees"
    for message, script_said in ((messages[1], script), (messages[3], "words")):
        check_message(message, script_said)
        turn = recorder.turn_of(message)
        assert turn is not None and turn.logprobs is not None
        words = [turn.logprobs.token(i).decode() for i in range(len(turn.logprobs))]
        assert words == [token.says for token in SCRIPTS[script_said].tokens]
        assert turn.generated_tokens == turn.scored_tokens == len(words)
    assert len(recorder.turns) == recorder.usage.model_calls == 2


SCRIPT = [
    ScriptedTurn(tool_calls=[("search", {"query": "bees"})], entropy=[0.1, 0.2]),
    ScriptedTurn(text="A bee.", entropy=[0.3]),
]


@pytest.mark.parametrize("node, run", [("ainvoke", run) for run in EVENTS.values()], ids=EVENTS)
async def test_the_scripted_model_is_captured_as_a_real_one(node, run):
    recorder = TurnRecorder()
    await heard(run, agent(ScriptedChat(scripts=[SCRIPT]), node), {"callbacks": [recorder]}, [])
    assert [turn.scored_tokens for turn in recorder.turns.values()] == [2, 1]


# Other people's models


def openai(server: Any) -> Runnable[Any, AIMessage]:
    model = ChatOpenAI(model="scripted", base_url=server.base_url, api_key="none", max_retries=0)
    return with_logprobs(model).bind_tools([search])


CAPTURED = {name: run for name, run in RUNS.items() if run[0] != "aevents"}


@pytest.mark.parametrize("node, run", CAPTURED.values(), ids=CAPTURED)
async def test_graphs_with_other_peoples_models_are_captured_however_they_are_streamed(serve, node, run):
    saver, recorder, seen = InMemorySaver(), TurnRecorder(), []
    graph = agent(openai(serve(in_turn("native"))), node, saver)
    config = {"callbacks": [recorder], "configurable": {"thread_id": "1"}}
    await heard(run, graph, config, seen)
    check_turns(graph.get_state(config).values["messages"], recorder, "native")
    check_nothing_leaks(repr(saver.storage), repr(saver.blobs), repr(saver.writes))


@pytest.mark.parametrize("sync", [False, True])
async def test_events_of_another_model_itself_lose_logprobs_and_coverage_tells(serve, sync):
    recorder = TurnRecorder()
    model, config = openai(serve([SCRIPTS["words"]])), {"callbacks": [recorder]}
    await heard(events_v3 if sync else aevents_v3, model.bound, config, [])
    (turn,) = recorder.turns.values()
    assert turn.generated_tokens == len(SCRIPTS["words"].tokens)
    assert turn.scored_tokens <= 1
