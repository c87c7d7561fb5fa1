"""OpenTelemetry spans over real graphs: names, parents, what is marked, what is left out, and that all of them end."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command, interrupt
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from entcent_agents.budget import Budget
from entcent_agents.chat.model import ChatLogprobs
from entcent_agents.effects import EXTERNAL, READ
from entcent_agents.errors import RolloutsFailedError
from entcent_agents.nodes import EntropyCentroidSelector, ParallelRollouts, Retries, RolloutsState
from entcent_agents.prebuilt import entropy_centroid_graph
from entcent_agents.recordings import Records
from entcent_agents.selection import First
from entcent_agents.telemetry import Spans
from entcent_agents.telemetry.waiting import Waiting
from entcent_agents.testing import ScriptedChat, ScriptedTurn
from tests.chat_server import ChatServer, Reply, Request, says
from tests.passing_time import Clock
from tests.whole_graphs.comparing import Chosen
from tests.whole_graphs.comparing import says as turn

ASK = {"messages": [HumanMessage("the secret question")]}


class Begun(SpanProcessor):
    """What was started, ended or not."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def on_start(self, span: Span, parent_context: Any = None) -> None:
        self.spans.append(span)


@dataclass
class Seen:
    """What an operator's exporter got."""

    provider: TracerProvider
    exporter: InMemorySpanExporter
    begun: Begun

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())

    @property
    def open(self) -> list[str]:
        return [span.name for span in self.begun.spans if span.end_time is None]

    def of(self, operation: str) -> list[ReadableSpan]:
        return [span for span in self.spans if told(span).get("gen_ai.operation.name") == operation]

    def parent(self, span: ReadableSpan) -> ReadableSpan | None:
        found = [each for each in self.spans if span.parent and each.context.span_id == span.parent.span_id]
        return found[0] if found else None


def told(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


@pytest.fixture
def seen() -> Iterator[Seen]:
    provider, exporter, begun = TracerProvider(), InMemorySpanExporter(), Begun()
    provider.add_span_processor(begun)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield Seen(provider, exporter, begun)
    provider.shutdown()


def answering(request: Request) -> list[Reply]:
    """A call of each tool, then an answer; a choice of its own for each rollout."""
    results = sum(message["role"] == "tool" for message in request.body["messages"])
    if results == 0:
        calls = [("look", '{"x": "secret"}'), ("wait", '{"x": "secret"}')]
        return [says(f"secret {i}", tool_calls=calls, call_id=f"c{i}-") for i in range(request.n)]
    return [says(f"the secret answer {i}") for i in range(request.n)]


def tools_of(provider: TracerProvider) -> list[Any]:
    tracer = trace.get_tracer("users", tracer_provider=provider)

    @tool
    def look(x: str) -> str:
        """Look, in a thread."""
        with tracer.start_as_current_span("in look"):
            time.sleep(0.002)
        return f"seen {x}"

    @tool
    async def wait(x: str) -> str:
        """Wait, on the loop."""
        with tracer.start_as_current_span("in wait"):
            await asyncio.sleep(0.002)
        return f"waited for {x}"

    return [look, wait]


def graph_on(server: ChatServer, seen: Seen, n: int = 8, losers: bool = True, **settings: Any) -> Any:
    model = ChatLogprobs(model="small", base_url=server.base_url, temperature=0.5, max_tokens=64)
    agent = create_agent(model, tools_of(seen.provider), name="analyst")
    spans = Spans(tracer_provider=seen.provider, losers=losers)
    return entropy_centroid_graph(
        agent, n=n, effects={"look": READ, "wait": READ}, selector=Chosen(n - 1), spans=spans, **settings
    )


@pytest.mark.parametrize("synchronous", [False, True])
async def test_every_call_hangs_below_its_own_rollout_and_tools_spans_below_their_tool(seen: Seen, synchronous: bool):
    with ChatServer(answering) as server:
        graph = graph_on(server, seen)
        config: Any = {"configurable": {"thread_id": "conversation"}}
        with trace.get_tracer("users", tracer_provider=seen.provider).start_as_current_span("http request") as outer:
            if synchronous:
                await asyncio.to_thread(graph.invoke, ASK, config)
            else:
                await graph.ainvoke(ASK, config)
        port = int(server.base_url.split(":")[2].partition("/")[0])
    assert seen.open == []
    (workflow,) = seen.of("invoke_workflow")
    assert workflow.name == "invoke_workflow analyst"
    assert workflow.parent is not None and workflow.parent.span_id == outer.get_span_context().span_id
    agents = seen.of("invoke_agent")
    assert sorted(told(span)["entcent.rollout"] for span in agents) == [*range(8)]
    assert {seen.parent(span) for span in agents} == {workflow}
    chats, calls = seen.of("chat"), seen.of("execute_tool")
    assert len(chats) == 16 and 2 <= len(calls) <= 16  # equal calls that run at the same time are made once
    for span in [*chats, *calls]:
        around = seen.parent(span)
        assert around in agents
        assert told(around)["entcent.rollout"] == told(span)["entcent.rollout"]
        assert around.start_time <= span.start_time <= span.end_time <= around.end_time
    inner = [span for span in seen.spans if span.name.startswith("in ")]
    assert len(inner) == len(calls)
    assert {(span.name, seen.parent(span).name) for span in inner} == {
        ("in look", "execute_tool look"),
        ("in wait", "execute_tool wait"),
    }
    chat = chats[0]
    assert (chat.name, chat.kind, workflow.kind) == ("chat small", SpanKind.CLIENT, SpanKind.INTERNAL)
    expected = {
        "gen_ai.provider.name": "openai",
        "gen_ai.conversation.id": "conversation",
        "gen_ai.request.model": "small",
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.max_tokens": 64,
        "gen_ai.response.model": "scripted",
        "server.address": "127.0.0.1",
        "server.port": port,
    }
    assert expected.items() <= told(chat).items()
    assert told(chat)["gen_ai.response.finish_reasons"] in (("stop",), ("tool_calls",))
    for tokens in ("gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens"):
        assert sum(told(span)[tokens] for span in chats) == sum(told(span)[tokens] for span in agents) > 0
    assert {told(span)["gen_ai.tool.name"] for span in calls} == {"look", "wait"}
    assert all(told(span)["gen_ai.tool.call.id"].startswith("c") for span in calls)


async def test_the_winner_is_marked_and_measures_are_those_of_the_rollouts(seen: Seen):
    with ChatServer(answering) as server:
        result = await graph_on(server, seen, n=3).ainvoke(ASK)
    (workflow,) = seen.of("invoke_workflow")
    assert (told(workflow)["entcent.winner"], told(workflow)["entcent.selector"]) == (2, "chosen")
    marks = [(told(span)["entcent.rollout"], told(span)["entcent.selected"]) for span in seen.of("invoke_agent")]
    assert sorted(marks) == [(0, False), (1, False), (2, True)]
    for span in [*seen.of("chat"), *seen.of("execute_tool")]:
        assert told(span)["entcent.selected"] == (told(span)["entcent.rollout"] == 2)
    best = next(span for span in seen.of("invoke_agent") if told(span)["entcent.selected"])
    scored, generated = 2 + 4, told(best)["gen_ai.usage.output_tokens"]  # words; the server counts calls besides
    assert (told(best)["entcent.status"], told(best)["entcent.coverage"]) == ("finished", scored / generated)
    assert told(best)["entcent.mean_entropy"] == pytest.approx(0.6931, abs=1e-4)
    assert result["selection"]["winner"] == 2


async def test_spans_have_no_word_of_the_content(seen: Seen):
    with ChatServer(answering) as server:
        await graph_on(server, seen, n=2).ainvoke(ASK)
    assert "secret" not in "".join(span.to_json() for span in seen.spans)


async def test_losers_can_be_left_out(seen: Seen):
    with ChatServer(answering) as server:
        await graph_on(server, seen, n=4, losers=False).ainvoke(ASK)
    ours = [span for span in seen.spans if span.name != "in look" and span.name != "in wait"]
    assert {told(span).get("entcent.rollout") for span in ours} == {None, 3}
    assert len(seen.of("invoke_agent")) == 1 and len(seen.of("chat")) == 2


@pytest.mark.parametrize("losers", [True, False])
async def test_calls_and_rollouts_that_fail_are_errors_by_name(seen: Seen, losers: bool):
    @tool
    def broken(x: int) -> str:
        """Fail."""
        raise ValueError("secret")

    scripts = [
        [ScriptedTurn(error=RuntimeError("secret"))],
        [ScriptedTurn(tool_calls=[("broken", {"x": 1})]), ScriptedTurn(text="never")],
    ]
    agent = create_agent(ScriptedChat(scripts=scripts), [broken])
    spans = Spans(tracer_provider=seen.provider, losers=losers)
    with pytest.raises(RolloutsFailedError):
        await entropy_centroid_graph(agent, n=2, effects={"broken": READ}, spans=spans).ainvoke(ASK)
    assert seen.open == []
    failed = {
        (span.name.partition(" ")[0], told(span).get("error.type"))
        for span in seen.spans
        if span.status.status_code is StatusCode.ERROR
    }
    assert failed == {
        ("invoke_workflow", "RolloutsFailedError"),
        ("invoke_agent", "RuntimeError"),
        ("invoke_agent", "ValueError"),
        ("chat", "RuntimeError"),
        ("execute_tool", "ValueError"),
    }
    assert "secret" not in "".join(span.to_json() for span in seen.spans)


async def test_spans_of_cancelled_calls_end(seen: Seen):
    with ChatServer([Reply(delay_seconds=5.0)]) as server:
        request = asyncio.create_task(graph_on(server, seen, n=4).ainvoke(ASK))
        await asyncio.to_thread(server.asked.wait, 5.0)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
    assert seen.open == []
    assert len(seen.of("chat")) == 4
    assert {told(span).get("error.type") for span in seen.spans} == {"CancelledError"}


async def test_a_call_that_is_made_again_has_a_span_each_time(seen: Seen):
    with ChatServer([Reply(status=503), says("fine")]) as server:
        model = ChatLogprobs(model="small", base_url=server.base_url, max_retries=0)
        spans = Spans(tracer_provider=seen.provider)
        retries = Retries(attempts=2, first_seconds=0.01)
        await entropy_centroid_graph(create_agent(model, []), n=1, spans=spans, retries=retries).ainvoke(ASK)
    assert [told(span).get("error.type") for span in seen.of("chat")] == ["ModelServerError", None]
    assert [span.status.status_code for span in seen.of("invoke_agent")] == [StatusCode.UNSET]


async def test_a_model_that_a_tool_asks_hangs_below_the_tool(seen: Seen):
    inner = create_agent(ScriptedChat(scripts=[[turn("inner")]]), [], name="inner")

    @tool
    async def ask(x: int) -> str:
        """Ask another agent."""
        return (await inner.ainvoke({"messages": [("user", "?")]}))["messages"][-1].text

    agent = create_agent(ScriptedChat(scripts=[[turn("", ("ask", {"x": 1})), turn("done")]]), [ask])
    spans = Spans(tracer_provider=seen.provider)
    await entropy_centroid_graph(agent, n=1, effects={"ask": READ}, selector=First(), spans=spans).ainvoke(ASK)
    assert sorted(seen.parent(span).name for span in seen.of("chat")) == [
        "execute_tool ask",
        "invoke_agent LangGraph",
        "invoke_agent LangGraph",
    ]


async def test_to_be_held_or_to_ask_is_no_error_and_each_round_has_its_span(seen: Seen):
    @tool
    def send(x: int) -> str:
        """Send something."""
        return "sent"

    @tool
    def confirm(x: int) -> str:
        """Ask a person."""
        return interrupt("really?")

    scripts = [[turn("", ("send", {"x": 1}), ("confirm", {"x": 1})), turn("done")]] * 2
    agent = create_agent(ScriptedChat(scripts=scripts), [send, confirm])
    graph = entropy_centroid_graph(
        agent,
        n=2,
        effects={"send": EXTERNAL, "confirm": READ},
        selector=First(),
        spans=Spans(tracer_provider=seen.provider),
        checkpointer=InMemorySaver(),
    )
    config: Any = {"configurable": {"thread_id": "t"}}
    await graph.ainvoke(ASK, config)
    assert seen.open == [] and len(seen.of("invoke_workflow")) == 1
    await graph.ainvoke(Command(resume="yes"), config)
    assert seen.open == []
    rounds = seen.of("invoke_workflow")
    assert [told(span)["entcent.round"] for span in rounds] == [1, 2]
    assert len({told(span)["entcent.request"] for span in rounds}) == 1
    assert [span.name for span in seen.spans if span.status.status_code is StatusCode.ERROR] == []
    statuses = [told(span)["entcent.status"] for span in seen.of("invoke_agent")]
    assert sorted(statuses) == ["finished", "finished", "held", "held"]
    assert {span.name for span in seen.of("execute_tool")} == {"execute_tool send", "execute_tool confirm"}


async def test_without_a_selector_the_spans_end_unmarked(seen: Seen):
    agent = create_agent(ScriptedChat(scripts=[[ScriptedTurn(text="fine")]]), [])
    node = ParallelRollouts(agent, n=1, spans=Spans(tracer_provider=seen.provider))
    await as_graph(node).ainvoke(ASK)
    assert seen.open == []
    assert "entcent.selected" not in told(seen.of("invoke_agent")[0])


async def test_spans_end_where_nobody_listens_until_the_selection(seen: Seen, tmp_path: Path):
    agent = create_agent(ScriptedChat(scripts=[[turn("one")]]), [])
    graph = entropy_centroid_graph(
        agent, n=2, spans=Spans(tracer_provider=seen.provider), records=Records(tmp_path, text=True)
    )
    async with aclosing(graph.astream(ASK, stream_mode="updates")) as stream:
        async for _ in stream:
            break
    assert seen.open == []
    assert len(seen.of("invoke_agent")) == 2
    node = graph.nodes["rollouts"].bound
    assert (len(node.said), len(node.spans.waiting)) == (0, 0)


def test_what_waits_is_given_up_where_another_value_takes_its_place():
    given_up: list[str] = []
    waiting = Waiting[str](8, given_up.append)
    waiting.put("round", "first")
    waiting.put("round", "second")
    assert given_up == ["first"]
    assert waiting.take("round") == "second"


async def test_a_selector_that_never_comes_leaks_no_spans(seen: Seen, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("entcent_agents.telemetry.spans._MOST_WAITING", 2)
    agent = create_agent(ScriptedChat(scripts=[[ScriptedTurn(text="fine")]]), [])
    node = ParallelRollouts(agent, n=1, spans=Spans(tracer_provider=seen.provider))
    EntropyCentroidSelector(node)
    for _ in range(5):
        await as_graph(node).ainvoke(ASK)
    assert len(seen.of("invoke_workflow")) == 3
    assert len(seen.open) == 2 * 3


def as_graph(node: ParallelRollouts) -> Any:
    builder = StateGraph(RolloutsState)
    builder.add_node("rollouts", node)
    builder.add_edge(START, "rollouts")
    builder.add_edge("rollouts", END)
    return builder.compile()


def test_without_opentelemetry_the_extra_is_named_and_graphs_run():
    code = """
import sys

sys.modules["opentelemetry"] = None

from langchain.agents import create_agent

from entcent_agents.errors import MissingExtraError
from entcent_agents.prebuilt import entropy_centroid_graph
from entcent_agents.testing import ScriptedChat, ScriptedTurn

agent = create_agent(ScriptedChat(scripts=[[ScriptedTurn(text="fine", entropy=[0.1] * 9)]]), [])
print(entropy_centroid_graph(agent, n=1).invoke({"messages": [("user", "go")]})["messages"][-1].text)
try:
    from entcent_agents.telemetry import Spans
except MissingExtraError as error:
    print(error)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    answer, refusal = ran.stdout.splitlines()
    assert answer == "fine"
    assert refusal.endswith("pip install 'entcent-agents[otel]'")


async def test_a_span_of_the_users_own_around_calls_keeps_its_place(seen: Seen):
    tracer = trace.get_tracer("users", tracer_provider=seen.provider)
    model = ScriptedChat(scripts=[[turn("fine")]])

    @tool
    async def look(x: int) -> str:
        """Look."""
        return "seen"

    async def answer(state: MessagesState) -> dict[str, Any]:
        with tracer.start_as_current_span("in node"):
            await look.ainvoke({"x": 1})
            with tracer.start_as_current_span("after look"):
                return {"messages": [await model.ainvoke(state["messages"])]}

    agent = StateGraph(MessagesState).add_node(answer).add_edge(START, "answer").compile()
    await entropy_centroid_graph(
        agent, n=1, effects={"look": READ}, spans=Spans(tracer_provider=seen.provider)
    ).ainvoke(ASK)
    parents = {span.name: seen.parent(span).name for span in seen.spans if span.parent}
    assert parents == {
        "execute_tool look": "in node",
        "after look": "in node",
        "chat scripted": "after look",
        "in node": "invoke_agent LangGraph",
        "invoke_agent LangGraph": "invoke_workflow LangGraph",
    }


async def test_a_rollout_that_ends_after_its_round_was_settled_ends_its_spans(seen: Seen):
    spans = Spans(tracer_provider=seen.provider).begin(request="r", round=1, agent="a", thread=None)
    with spans.rollout(0) as calls:
        calls.on_chat_model_start(None, [], run_id=uuid4())
        spans.settle((), {"winner": 1, "selector": "s"})
        assert seen.open == ["invoke_agent a", "chat"]
    assert seen.open == []
    assert {told(span).get("entcent.selected") for span in seen.of("chat")} == {False}


async def test_a_processor_that_fails_fails_no_request(seen: Seen, caplog: pytest.LogCaptureFixture):
    class Failing(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            raise RuntimeError("the exporter is down")

    seen.provider.add_span_processor(Failing())
    agent = create_agent(ScriptedChat(scripts=[[turn("fine")]]), [])
    spans = Spans(tracer_provider=seen.provider)
    result = await entropy_centroid_graph(agent, n=1, spans=spans).ainvoke(ASK)
    assert result["messages"][-1].text == "fine"
    assert "spans were not ended" in caplog.text


async def test_rollouts_that_a_deadline_cuts_off_have_spans_that_end_and_say_so(
    flying: Clock, seen: Seen, caplog: pytest.LogCaptureFixture
):
    slow = ScriptedTurn(text="secret", delay_seconds=3600.0)
    agent = create_agent(ScriptedChat(scripts=[[turn("fine")], [slow]]), [])
    graph = entropy_centroid_graph(
        agent, n=2, spans=Spans(tracer_provider=seen.provider), budget=Budget(max_seconds_per_rollout=100)
    )
    with caplog.at_level(logging.INFO, "entcent_agents.round"):
        result = await graph.ainvoke(ASK)
    assert result["messages"][-1].text == "fine"
    assert seen.open == []
    cut = next(span for span in seen.of("invoke_agent") if told(span)["entcent.rollout"] == 1)
    assert told(cut)["entcent.status"] == "unfinished"
    assert "max_seconds_per_rollout=100" in told(cut)["entcent.error"]
    assert {told(span).get("error.type") for span in seen.of("chat")} == {None, "CancelledError"}
    (record,) = [record for record in caplog.records if record.name == "entcent_agents.round"]
    assert record.round["rollouts"] == {"finished": 1, "unfinished": 1}
    ((error, times),) = record.round["errors"].items()
    assert "max_seconds_per_rollout=100" in error and times == 1
