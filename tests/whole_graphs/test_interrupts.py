"""Graphs that ask a person: `interrupt()` in nodes, tools and subgraphs, and breakpoints; for the winner alone."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command, interrupt

from entcent_agents.effects import EXTERNAL, READ
from entcent_agents.errors import RolloutError
from entcent_agents.prebuilt import entropy_centroid_graph
from entcent_agents.rollouts.isolation import Graph
from entcent_agents.testing import ScriptedChat
from tests.whole_graphs.comparing import (
    ROLLOUTS,
    Chosen,
    assert_asks_the_same,
    says,
    scripts,
    since_human,
    winner_of,
)


def asking_graph() -> Graph:
    model = ScriptedChat(scripts=scripts(lambda i: lambda messages: says(f"draft {i}, {len(messages)}")))

    async def draft(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    async def review(state: MessagesState) -> Command[Any]:
        verdict = interrupt({"draft": state["messages"][-1].text})
        if verdict == "good":
            return Command(goto=END, update={"messages": [AIMessage("approved")]})
        return Command(goto="draft", update={"messages": [AIMessage(f"not yet: {verdict}")]})

    builder = StateGraph(MessagesState)
    builder.add_node("draft", draft)
    builder.add_node("review", review, destinations=("draft", END))
    builder.add_edge(START, "draft")
    builder.add_edge("draft", "review")
    return builder.compile()


@ROLLOUTS
async def test_a_node_asks_once_for_the_winner_and_goes_on_from_the_answer(n: int):
    state, asked = await assert_asks_the_same(asking_graph(), ["shorter", "good"], n)
    winner = winner_of(n)
    assert asked[:3] == [[{"draft": f"draft {winner}, 1"}], [{"draft": f"draft {winner}, 3"}], []]
    assert state["messages"][-1].text == "approved"


@ROLLOUTS
async def test_a_subgraph_and_a_tool_ask_as_well(n: int):
    @tool
    def confirm(what: str) -> str:
        """Ask a person."""
        return f"{what}: {interrupt(f'really {what}?')}"

    def asks(index: int):
        turns = [says(f"hm {index}", ("confirm", {"what": f"plan {index}"})), says(f"done {index}")]
        return lambda messages: turns[since_human(messages)]

    builder = StateGraph(MessagesState)
    builder.add_node("inner", create_agent(ScriptedChat(scripts=scripts(asks)), [confirm]))
    builder.add_node("end", lambda state: {"messages": [AIMessage("end")]})
    builder.add_edge(START, "inner")
    builder.add_edge("inner", "end")
    agent = builder.compile()
    winner = winner_of(n)
    state, asked = await assert_asks_the_same(agent, ["yes"], n, effects={"confirm": READ})
    assert asked == [[f"really plan {winner}?"], []] * 2
    assert [message.text for message in state["messages"]][-3:] == [f"plan {winner}: yes", f"done {winner}", "end"]


@ROLLOUTS
async def test_two_questions_at_once_are_both_put_and_both_answered(n: int):
    class Both(MessagesState):
        said: Annotated[list[str], lambda old, new: sorted([*old, *new])]

    model = ScriptedChat(scripts=scripts(lambda i: lambda messages: says(f"answer {i}")))

    async def think(state: Both) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    builder = StateGraph(Both)
    builder.add_node("think", think)
    builder.add_edge(START, "think")
    for name in ("left", "right"):

        async def asks(state: Both, name: str = name) -> dict[str, Any]:
            return {"said": [f"{name} {interrupt(name)}"]}

        builder.add_node(name, asks)
        builder.add_edge("think", name)
    graph = entropy_centroid_graph(builder.compile(), n=n, selector=Chosen(winner_of(n)), checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "one"}}
    state = await graph.ainvoke({"messages": [HumanMessage("go")]}, config)
    asked = []
    while "__interrupt__" in state:
        asked += [each.value for each in state["__interrupt__"]]
        answers = {each.id: f"answered {each.value}" for each in state["__interrupt__"]}
        state = await graph.ainvoke(Command(resume=answers), config)
    assert sorted(asked) == ["left", "right"]
    assert state["said"] == ["left answered left", "right answered right"]


@ROLLOUTS
@pytest.mark.parametrize("where", ["interrupt_before", "interrupt_after"])
async def test_a_breakpoint_stops_once_and_goes_on_when_it_is_resumed(n: int, where: str):
    def looks(index: int):
        turns = [says(f"hm {index}", ("look", {"x": index})), says(f"answer {index}")]
        return lambda messages: turns[since_human(messages)]

    @tool
    def look(x: int) -> str:
        """Look."""
        return f"seen {x}"

    agent = create_agent(ScriptedChat(scripts=scripts(looks)), [look], **{where: ["tools"]})
    graph = entropy_centroid_graph(
        agent, n=n, selector=Chosen(winner_of(n)), checkpointer=InMemorySaver(), effects={"look": READ}
    )
    config: Any = {"configurable": {"thread_id": "one"}}
    state = await graph.ainvoke({"messages": [HumanMessage("go")]}, config)
    assert len(state["__interrupt__"]) == 1
    state = await graph.ainvoke(Command(resume=True), config)
    assert [message.text for message in state["messages"]][1:] == [
        f"hm {winner_of(n)}",
        f"seen {winner_of(n)}",
        f"answer {winner_of(n)}",
    ]
    assert "__interrupt__" not in state


@ROLLOUTS
async def test_an_approval_in_a_tool_and_its_effect_happen_once(n: int):
    paid: list[int] = []

    @tool
    def pay(amount: int) -> str:
        """Pay, if a person agrees."""
        if interrupt({"pay": amount}) != "yes":
            return "refused"
        paid.append(amount)
        return "paid"

    def pays(index: int):
        turns = [says(f"hm {index}", ("pay", {"amount": index})), says(f"done {index}")]
        return lambda messages: turns[since_human(messages)]

    agent = create_agent(ScriptedChat(scripts=scripts(pays)), [pay])
    graph = entropy_centroid_graph(
        agent, n=n, selector=Chosen(winner_of(n)), checkpointer=InMemorySaver(), effects={"pay": EXTERNAL}
    )
    config: Any = {"configurable": {"thread_id": "one"}}
    state = await graph.ainvoke({"messages": [HumanMessage("go")]}, config)
    assert [each.value for each in state["__interrupt__"]] == [{"pay": winner_of(n)}] and not paid
    state = await graph.ainvoke(Command(resume="yes"), config)
    assert paid == [winner_of(n)]
    assert [message.text for message in state["messages"]][-2:] == ["paid", f"done {winner_of(n)}"]


@ROLLOUTS
async def test_a_new_message_in_the_place_of_an_answer_leaves_the_question_behind(n: int):
    graph = entropy_centroid_graph(asking_graph(), n=n, selector=Chosen(winner_of(n)), checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "one"}}
    await graph.ainvoke({"messages": [HumanMessage("go")]}, config)
    state = await graph.ainvoke({"messages": [HumanMessage("something else")]}, config)
    winner = winner_of(n)
    assert [each.value for each in state["__interrupt__"]] == [{"draft": f"draft {winner}, 3"}]
    state = await graph.ainvoke(Command(resume="good"), config)
    assert [message.text for message in state["messages"]][-2:] == [f"draft {winner}, 3", "approved"]


@ROLLOUTS
async def test_a_call_that_is_edited_in_the_state_while_it_is_held_is_not_made_as_it_was(n: int):
    sent: list[str] = []

    @tool
    def send_mail(to: str) -> str:
        """Send a mail."""
        sent.append(to)
        return f"sent to {to}"

    def mails(index: int):
        turns = [says("hm", ("send_mail", {"to": f"ann{index}"})), says("done")]
        return lambda messages: turns[since_human(messages)]

    agent = create_agent(ScriptedChat(scripts=scripts(mails)), [send_mail], interrupt_before=["tools"])
    graph = entropy_centroid_graph(agent, n=n, selector=Chosen(winner_of(n)), checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "one"}}
    state = await graph.ainvoke({"messages": [HumanMessage("go")]}, config)
    held = state["messages"][-1]
    edited = held.model_copy(update={"tool_calls": [{**held.tool_calls[0], "args": {"to": "carl"}}]})
    await graph.aupdate_state(config, {"messages": [edited]}, as_node="select")
    with pytest.raises(RolloutError, match="was changed while the rollout that ends with it is held"):
        await graph.ainvoke(Command(resume=True), config)
    assert sent == []
