"""Sub-agents behind tools: they are found, and what they may not do in a rollout is held inside of them."""

from __future__ import annotations

import functools
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import BaseTool, StructuredTool, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.pregel.remote import RemoteGraph
from langgraph.types import Command, interrupt

from entcent_agents.effects import EXTERNAL, READ, WRITE
from entcent_agents.environments import DirectoryEnvironment
from entcent_agents.errors import EffectError
from entcent_agents.nodes import guarded
from entcent_agents.prebuilt import entropy_centroid_graph
from entcent_agents.rollouts.isolation import tool_nodes_of, tools_of
from entcent_agents.rollouts.reach import graphs_behind
from entcent_agents.testing import ScriptedChat
from tests.rollouts import sub_agents
from tests.rollouts.sub_agents import ask_it
from tests.rollouts.worlds import ASK, World, turn

GLOBAL = create_agent(ScriptedChat(scripts=[[turn("found")]]), [], name="global")


def ask_global(question: str) -> str:
    return str(GLOBAL.invoke({"messages": [("user", question)]}))


class Team:
    def __init__(self, agents: dict[str, Any]) -> None:
        self.agents = agents

    def ask(self, name: str) -> str:
        """Ask one."""
        return str(self.agents[name].invoke(ASK))


class Asking(BaseTool):
    name: str = "asking"
    description: str = "Ask."
    agent: Any

    def _run(self, question: str) -> str:
        return str(self.agent.invoke(ASK))


def behind(agent: Any) -> dict[str, BaseTool]:
    """Ways in which tools come by an agent."""

    @tool
    def closed_over(question: str) -> str:
        """Ask."""
        return str(agent.invoke(ASK))

    named, sequence = {"a": [agent.with_config(tags=["x"])]}, RunnableLambda(str) | agent

    def later(question: str) -> str:
        return str(sequence.invoke(question))

    @tool
    def through_a_function(question: str) -> str:
        """Ask."""
        return later(question)

    @tool
    def in_a_container(question: str) -> str:
        """Ask."""
        return str([each.invoke(ASK) for each in named["a"]])

    def given(agent: Any, question: str) -> str:
        """Ask."""
        return str(agent.invoke(ASK))

    given_agent = functools.partial(given, agent)
    bound, fallbacks, office = agent.invoke, agent.with_fallbacks([agent]), sub_agents.Office(agent)
    before, zafter = [[str(i)] for i in range(6_000)], [str(i) for i in range(200_000)]

    def by_default(question: str, each: Any = agent) -> str:
        return str(each.invoke(ASK))

    def made(call: Any) -> BaseTool:
        return StructuredTool.from_function(lambda question: str(call(question)), name="made", description="Ask.")

    return {
        "closed over": closed_over,
        "through a function": through_a_function,
        "in a container": in_a_container,
        "a partial": StructuredTool.from_function(
            lambda question: given_agent(question), name="partial", description="Ask."
        ),
        "a method": StructuredTool.from_function(Team({"a": agent}).ask),
        "a class": Asking(agent=agent),
        "its method": made(lambda question: bound(ASK)),
        "fallbacks": made(lambda question: fallbacks.invoke(ASK)),
        "a default": made(lambda question: by_default(question)),
        "an object": made(lambda question: office.ask()),
        "beside much data": made(lambda question: [before, agent.invoke(ASK), zafter]),
        "a tool in a tool": guarded(closed_over),
        "a coroutine": StructuredTool.from_function(
            coroutine=functools.wraps(later)(lambda question: agent.ainvoke(ASK)), name="co", description="Ask."
        ),
    }


@pytest.mark.parametrize("way", behind(GLOBAL))
def test_a_graph_that_a_tool_calls_is_found(way: str):
    agent = create_agent(ScriptedChat(scripts=[]), [], name="inner")
    assert [graph.name for graph in graphs_behind(behind(agent)[way])] == ["inner"]


def test_a_graph_that_a_tool_names_is_found_through_functions_of_its_module():
    @tool
    def ask(question: str) -> str:
        """Ask."""
        return ask_global(question)

    assert graphs_behind(ask) == [GLOBAL]


def elsewhere() -> dict[str, Any]:
    """Ways in which code calls a graph of another module."""

    def imported() -> Any:
        from tests.rollouts.sub_agents import AGENT

        return AGENT.invoke(ASK)

    return {
        "a module": lambda: sub_agents.AGENT.invoke(ASK),
        "its function": lambda: ask_it(),
        "its object": lambda: sub_agents.OFFICE.ask(),
        "imported": imported,
    }


@pytest.mark.parametrize("way", elsewhere())
def test_a_graph_of_another_module_is_found(way: str):
    ask = StructuredTool.from_function(elsewhere()[way], name="ask", description="Ask.")
    assert graphs_behind(ask) == [sub_agents.AGENT]


def test_what_cannot_all_be_looked_into_is_said(caplog: pytest.LogCaptureFixture):
    much = [[i] for i in range(100_001)]
    ask = StructuredTool.from_function(lambda: str(much), name="ask", description="Ask.")
    assert graphs_behind(ask) == []
    assert "tool ask holds more than can be looked into" in caplog.text


def test_a_graph_on_another_server_behind_a_tool_is_a_matter_of_the_tool():
    builder = StateGraph(MessagesState).add_node("far", RemoteGraph("far", url="http://127.0.0.1:1"))
    inner = builder.add_edge(START, "far").compile()
    ask = StructuredTool.from_function(lambda: str(inner.invoke(ASK)), name="ask", description="Ask.")
    assert [each.name for each in tools_of(create_agent(ScriptedChat(scripts=[]), [ask]))] == ["ask"]


def test_a_tool_without_a_graph_has_none():
    @tool
    def look(x: int) -> str:
        """Look."""
        return str(json_of(x))

    def json_of(x: int) -> Any:
        return [x, look]

    assert graphs_behind(look) == []


def test_tools_of_sub_agents_of_sub_agents_are_found_once_even_where_agents_call_each_other(world: World):
    team: dict[str, Any] = {}

    @tool
    def ask(name: str) -> str:
        """Ask another."""
        return str(team[name].invoke(ASK))

    inner = create_agent(ScriptedChat(scripts=[]), [ask, *world.tools])
    team["inner"] = inner
    outer = create_agent(ScriptedChat(scripts=[]), [ask])
    assert [each.name for each in tools_of(outer)] == ["ask", "ask", *(each.name for each in world.tools)]
    assert len(tool_nodes_of(outer)) == 2


def with_sub_agent(world: World) -> Any:
    """An agent whose tool asks another, which sends; the second rollout is the best."""

    def works(index: int) -> Any:
        return [turn("I send.", ("send", {"to": f"{index}"})), turn(f"sent by {index}")]

    mailer = create_agent(ScriptedChat(scripts=[works(i) for i in range(3)]), world.tools, name="mailer")

    @tool
    async def delegate(what: str) -> str:
        """Have it done."""
        done = await mailer.ainvoke({"messages": [HumanMessage(what)]})
        return done["messages"][-1].text

    scripts = [[turn("", ("delegate", {"what": f"mail {i}"}), early=i == 1), turn(f"done {i}")] for i in range(3)]
    return create_agent(ScriptedChat(scripts=scripts), [delegate])


@pytest.mark.parametrize("said", [{}, {"send": EXTERNAL}])
async def test_an_external_tool_of_a_sub_agent_is_held_and_called_once_for_the_winner(world: World, said: Any):
    effects = {"delegate": READ, "look": READ, "confirm": READ, **said}
    graph = entropy_centroid_graph(with_sub_agent(world), n=3, effects=effects, checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "one"}}
    events = [each async for each in graph.astream(ASK, config, stream_mode=["updates", "messages"], subgraphs=True)]
    assert world.sent == ["1"]
    state = (await graph.aget_state(config)).values
    # The sub-agent goes on where it was held. Who of the copies is selected then, the scripts do not say.
    assert [message.text for message in state["messages"]][2].startswith("sent by")
    assert "mail 0" not in repr(events) and "mail 2" not in repr(events)


async def test_one_that_is_approved_as_a_whole_does_what_it_does(world: World):
    graph = entropy_centroid_graph(with_sub_agent(world), n=3)
    await graph.ainvoke(ASK)
    assert len(world.sent) == 1


async def test_inside_a_write_it_is_refused(world: World, tmp_path: Any):
    effects = {"delegate": WRITE, "look": READ, "confirm": READ}
    graph = entropy_centroid_graph(
        with_sub_agent(world), n=3, effects=effects, environments=[DirectoryEnvironment(tmp_path, name="notes")]
    )
    with pytest.raises(EffectError, match="declare the outer tool EXTERNAL"):
        await graph.ainvoke(ASK)
    assert world.sent == []


class StandsIn:
    """As what web frameworks have for the request of now: outside of one it raises whatever is asked of it."""

    __slots__ = ()

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(f"there is no request to ask for {name}")


NOW = StandsIn()


def test_what_stands_in_for_another_hides_no_sub_agent():
    captured = StandsIn()
    inside = create_agent(ScriptedChat(scripts=[[turn("found")]]), [], name="inside")
    held: list[Any] = [StandsIn(), inside]

    @tool
    def ask(question: str) -> str:
        """Ask."""
        return f"{NOW} {captured} {held} {GLOBAL.invoke(ASK)}"

    assert {graph.name for graph in graphs_behind(ask)} == {"global", "inside"}


async def test_a_question_of_a_sub_agent_is_put_once_for_the_winner():
    @tool
    async def ask(what: str) -> str:
        """Ask a person."""
        return str(interrupt(what))

    def works(index: int) -> Any:
        return [turn("", ("ask", {"what": f"may I, {index}?"})), turn(f"{index} was told")]

    asker = create_agent(ScriptedChat(scripts=[works(i) for i in range(3)]), [ask], name="asker")

    @tool
    async def delegate(what: str) -> str:
        """Have it done."""
        return (await asker.ainvoke({"messages": [HumanMessage(what)]}))["messages"][-2].text

    scripts = [[turn("", ("delegate", {"what": "it"}), early=i == 1), turn(f"done {i}")] for i in range(3)]
    agent = create_agent(ScriptedChat(scripts=scripts), [delegate])
    effects = {"delegate": READ, "ask": READ}
    graph = entropy_centroid_graph(agent, n=3, effects=effects, checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "one"}}
    state = await graph.ainvoke(ASK, config)
    assert [each.value for each in state["__interrupt__"]] == ["may I, 1?"]
    state = await graph.ainvoke(Command(resume="yes"), config)
    assert "__interrupt__" not in state and state["messages"][2].text == "yes"
