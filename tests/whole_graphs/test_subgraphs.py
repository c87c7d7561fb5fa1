"""Subgraphs: with the same state, with shared keys and private ones, called in a node, and with context and keys."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Annotated, Any, NotRequired

from langchain.agents import AgentState, create_agent
from langchain.agents.middleware import ModelCallLimitMiddleware
from langchain.agents.middleware.types import PrivateStateAttr
from langchain.agents.structured_output import ToolStrategy
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.managed import RemainingSteps
from langgraph.prebuilt import ToolRuntime
from langgraph.runtime import Runtime
from pydantic import BaseModel
from typing_extensions import TypedDict

from entcent_agents.effects import READ
from entcent_agents.prebuilt import entropy_centroid_graph
from entcent_agents.testing import ScriptedChat
from tests.whole_graphs.comparing import ROLLOUTS, assert_same_as_alone, says, scripts, since_human, winner_of

REQUESTS = [{"messages": [HumanMessage("first")]}, {"messages": [HumanMessage("second")]}]


class Shared(MessagesState):
    facts: Annotated[list[str], operator.add]
    last: str


class Inner(TypedDict):
    facts: Annotated[list[str], operator.add]
    scratch: str


class Apart(TypedDict):
    text: str
    steps: Annotated[list[str], operator.add]


def nested_graph():
    model = ScriptedChat(scripts=scripts(lambda i: lambda messages: says(f"{messages[-1].text} by {i}")))

    async def sketch(state: Inner) -> dict[str, Any]:
        return {"scratch": (await model.ainvoke([HumanMessage("sketch")])).text}

    async def state_fact(state: Inner) -> dict[str, Any]:
        return {"facts": [state["scratch"]]}

    async def shout(state: Apart) -> dict[str, Any]:
        return {"text": state["text"].upper(), "steps": ["shouted"]}

    inner = StateGraph(Inner)
    inner.add_node("sketch", sketch)
    inner.add_node("state_fact", state_fact)
    inner.add_edge(START, "sketch")
    inner.add_edge("sketch", "state_fact")
    apart = StateGraph(Apart)
    apart.add_node("shout", shout)
    apart.add_edge(START, "shout")
    apart_graph = apart.compile()

    async def call_apart(state: Shared) -> dict[str, Any]:
        done = await apart_graph.ainvoke({"text": state["facts"][-1], "steps": []})
        return {"last": done["text"], "messages": [AIMessage(done["text"])]}

    builder = StateGraph(Shared)
    builder.add_node("inner", inner.compile())
    builder.add_node("call_apart", call_apart)
    builder.add_edge(START, "inner")
    builder.add_edge("inner", "call_apart")
    builder.add_edge("call_apart", END)
    return builder.compile()


@ROLLOUTS
async def test_subgraphs_with_shared_keys_private_keys_and_a_state_of_their_own(n: int):
    state = await assert_same_as_alone(nested_graph(), REQUESTS, n, on_unscorable="fallback")
    assert state["last"] == f"SKETCH BY {winner_of(n)}"
    assert "scratch" not in state and len(state["facts"]) > 1


@dataclass
class Person:
    name: str


@ROLLOUTS
async def test_context_and_configurable_keys_reach_nodes_tools_and_subgraphs(n: int):
    @tool
    def who(runtime: ToolRuntime[Person, Any]) -> str:
        """Who asks."""
        return f"{runtime.context.name} in {runtime.config['configurable']['tenant']}"

    model = ScriptedChat(
        scripts=scripts(lambda i: lambda messages: [says("a", ("who", {})), says(f"b {i}")][since_human(messages)])
    )
    agent = create_agent(model, [who], context_schema=Person)

    async def sign(state: MessagesState, config: RunnableConfig, runtime: Runtime[Person]) -> dict[str, Any]:
        text = f"{state['messages'][-1].text}, {runtime.context.name}, {config['configurable']['tenant']}"
        return {"messages": [AIMessage(text)]}

    builder = StateGraph(MessagesState, context_schema=Person)
    builder.add_node("agent", agent)
    builder.add_node("sign", sign)
    builder.add_edge(START, "agent")
    builder.add_edge("agent", "sign")
    state = await assert_same_as_alone(
        builder.compile(),
        [{"messages": [HumanMessage("first")]}],
        n,
        config={"configurable": {"tenant": "north"}},
        context=Person("ann"),
        effects={"who": READ},
    )
    texts = [message.text for message in state["messages"]]
    assert texts[2] == "ann in north" and texts[-1] == f"b {winner_of(n)}, ann, north"


class Asked(TypedDict):
    question: str
    limit: int


class Answered(TypedDict):
    answer: str
    sources: list[str]


class Working(MessagesState):
    question: str
    limit: int
    answer: str
    sources: Annotated[list[str], lambda old, new: sorted({*old, *new})]
    visits: Annotated[int, lambda old, new: old + 1]


@ROLLOUTS
async def test_an_input_and_an_output_schema_of_other_channels_than_the_state(n: int):
    model = ScriptedChat(scripts=scripts(lambda i: lambda messages: says(f"{messages[-1].text} by {i}")))

    async def think(state: Working) -> dict[str, Any]:
        said = await model.ainvoke([HumanMessage(f"{state['question']} {state['limit']}")])
        return {"messages": [said], "answer": said.text, "sources": ["b", said.text], "visits": 1}

    builder = StateGraph(Working, input_schema=Asked, output_schema=Answered)
    builder.add_node("think", think)
    builder.add_edge(START, "think")
    requests = [{"question": "why", "limit": 3}, {"question": "how"}]
    state = await assert_same_as_alone(builder.compile(), requests, n)
    assert state["answer"] == f"how 3 by {winner_of(n)}" and state["sources"][0] == "b"
    assert set(state) == {"answer", "sources", "selection"}


class Counting(AgentState):
    noted: NotRequired[Annotated[list[str], PrivateStateAttr]]


@ROLLOUTS
async def test_private_state_of_middleware_lasts_from_request_to_request(n: int):
    model = ScriptedChat(scripts=scripts(lambda i: lambda messages: says(f"answer {i}")))
    limit = ModelCallLimitMiddleware(thread_limit=2, exit_behavior="end")
    agent = create_agent(model, [], middleware=[limit], state_schema=Counting)
    state = await assert_same_as_alone(agent, [*REQUESTS, {"messages": [HumanMessage("third")]}], n)
    assert "limit" in state["messages"][-1].text
    assert "thread_model_call_count" not in state


class Verdict(BaseModel):
    right: bool
    why: str


@ROLLOUTS
async def test_a_structured_response_that_ends_in_a_tool_message(n: int):
    model = ScriptedChat(
        scripts=scripts(lambda i: lambda messages: says("", ("Verdict", {"right": True, "why": f"w{i}"})))
    )
    agent = create_agent(model, [], response_format=ToolStrategy(Verdict))
    state = await assert_same_as_alone(agent, [{"messages": [HumanMessage("first")]}], n)
    assert state["structured_response"] == Verdict(right=True, why=f"w{winner_of(n)}")


@ROLLOUTS
async def test_a_tool_whose_result_is_the_answer(n: int):
    @tool(return_direct=True)
    def say(what: str) -> str:
        """Say it."""
        return what

    model = ScriptedChat(scripts=scripts(lambda i: lambda messages: says("", ("say", {"what": f"w{i}"}))))
    state = await assert_same_as_alone(create_agent(model, [say]), REQUESTS, n, effects={"say": READ})
    assert state["messages"][-1].text == f"w{winner_of(n)}"


class Strict(BaseModel):
    messages: list[Any] = []
    level: int = 0


@ROLLOUTS
async def test_a_pydantic_state(n: int):
    model = ScriptedChat(scripts=scripts(lambda i: lambda messages: says(f"answer {i}")))

    async def think(state: Strict) -> dict[str, Any]:
        said = await model.ainvoke(state.messages)
        return {"messages": [*state.messages, said], "level": state.level + 1}

    builder = StateGraph(Strict)
    builder.add_node("think", think)
    builder.add_edge(START, "think")
    state = await assert_same_as_alone(builder.compile(), [{"messages": [HumanMessage("first")]}], n)
    assert state["level"] == 1 and state["messages"][-1].text == f"answer {winner_of(n)}"


class Stepping(MessagesState):
    remaining_steps: RemainingSteps
    noted: Annotated[list[int], operator.add]


@ROLLOUTS
async def test_values_that_langgraph_works_out_for_a_run_are_not_taken_for_channels(n: int):
    model = ScriptedChat(scripts=scripts(lambda i: lambda messages: says(f"{messages[-1].text} by {i}")))

    async def think(state: Stepping) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])], "noted": [state["remaining_steps"]]}

    builder = StateGraph(Stepping)
    builder.add_node("think", think)
    builder.add_edge(START, "think")
    settings = {"config": {"recursion_limit": 50}, "recursion_limit": 50}
    state = await assert_same_as_alone(builder.compile(), REQUESTS, n, **settings)
    assert len(state["noted"]) == 2 and "remaining_steps" not in state


def test_schemas_can_be_shown_and_are_those_of_the_agent():
    agent = nested_graph()
    graph = entropy_centroid_graph(agent)
    assert graph.get_input_jsonschema()["properties"].keys() == agent.get_input_jsonschema()["properties"].keys()
    shown = graph.get_output_jsonschema()["properties"].keys() - agent.get_output_jsonschema()["properties"].keys()
    assert shown == {"selection"}
