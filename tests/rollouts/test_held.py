"""Rollouts are held before external calls; what is selected happens once, and speculation goes on from there."""

from __future__ import annotations

from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command, interrupt

from entcent_agents.effects import EXTERNAL, READ
from entcent_agents.errors import ConfigurationError
from entcent_agents.nodes import EntropyCentroidSelector, ParallelRollouts
from entcent_agents.prebuilt import entropy_centroid_graph
from entcent_agents.testing import ScriptedChat, ScriptedTurn
from tests.rollouts.worlds import ASK, World, turn


def agent_of(world: World, scripts: list[list[ScriptedTurn]], **settings: Any):
    return create_agent(ScriptedChat(scripts=scripts), world.tools, **settings)


async def test_a_held_winners_call_runs_once_and_no_losers_call_ever(world: World):
    scripts = [[turn("", ("send", {"to": f"{i}"}), early=i == 2), turn(f"done {i}", early=i == 1)] for i in range(4)]
    graph = entropy_centroid_graph(agent_of(world, scripts), n=4, effects={"look": READ, "confirm": READ})
    result = await graph.ainvoke(ASK)
    assert world.sent == ["2"]
    assert [type(message) for message in result["messages"]] == [HumanMessage, AIMessage, ToolMessage, AIMessage]
    assert result["messages"][2].content == "sent to 2"
    assert result["messages"][-1].text == "done 1"
    assert result["selection"]["winner"] == 1


async def test_parallel_calls_of_mixed_effects_run_once_each(world: World):
    calls = [("look", {"x": 1}), ("send", {"to": "a"}), ("send", {"to": "b"}), ("send", {"to": "a"})]
    scripts = [[turn("", *calls), turn(f"done {i}")] for i in range(3)]
    graph = entropy_centroid_graph(agent_of(world, scripts), n=3, effects={"look": READ, "confirm": READ})
    result = await graph.ainvoke(ASK)
    assert sorted(world.sent) == ["a", "a", "b"]
    assert [message.content for message in result["messages"][2:6]] == ["seen 1", "sent to a", "sent to b", "sent to a"]


async def test_what_a_person_is_asked_surfaces_once_for_the_winner(world: World):
    scripts = [[turn("", ("confirm", {"question": f"{i}?"}), early=i == 1), turn(f"done {i}")] for i in range(3)]
    graph = entropy_centroid_graph(
        agent_of(world, scripts), n=3, effects={"confirm": READ, "look": READ}, checkpointer=InMemorySaver()
    )
    config: Any = {"configurable": {"thread_id": "t"}}
    asked = await graph.ainvoke(ASK, config)
    assert [each.value for each in asked["__interrupt__"]] == ["1?"]
    result = await graph.ainvoke(Command(resume="yes"), config)
    assert result["messages"][2].content == "the person says yes"
    assert "__interrupt__" not in result


@pytest.mark.parametrize("decision", ["approve", "reject", "edit"])
async def test_approval_by_middleware_leads_to_the_very_call_that_was_approved(world: World, decision: str):
    scripts = [[turn("", ("send", {"to": f"{i}"}), early=i == 1), turn(f"done {i}")] for i in range(3)]
    agent = agent_of(world, scripts, middleware=[HumanInTheLoopMiddleware(interrupt_on={"send": True})])
    graph = entropy_centroid_graph(
        agent, n=3, effects={"send": EXTERNAL, "look": READ, "confirm": READ}, checkpointer=InMemorySaver()
    )
    config: Any = {"configurable": {"thread_id": "t"}}
    asked = await graph.ainvoke(ASK, config)
    (request,) = asked["__interrupt__"]
    assert request.value["action_requests"][0]["args"] == {"to": "1"}
    answer: dict[str, Any] = {"type": decision}
    if decision == "edit":
        answer["edited_action"] = {"name": "send", "args": {"to": "somebody"}}
    result = await graph.ainvoke(Command(resume={"decisions": [answer]}), config)
    assert world.sent == {"approve": ["1"], "reject": [], "edit": ["somebody"]}[decision]
    assert result["messages"][-1].text.startswith("done")


async def test_events_tell_the_rounds_apart(world: World):
    scripts = [[turn("", ("send", {"to": f"{i}"}), early=i == 1), turn(f"done {i}")] for i in range(2)]
    graph = entropy_centroid_graph(agent_of(world, scripts), n=2, effects={"look": READ, "confirm": READ})
    events = [event async for event in graph.astream(ASK, stream_mode="custom")]
    ends = {(event["round"], event["rollout"]): event["state"] for event in events if "rollout" in event}
    assert ends == {(1, 0): "held", (1, 1): "held", (2, 0): "finished", (2, 1): "finished"}
    assert [event["round"] for event in events if event["type"] == "entcent.commit"] == [1, 2]


async def test_a_selector_that_was_not_given_its_rollouts_says_what_held_ones_need(world: World):
    script = [turn("", ("confirm", {"question": "?"})), turn("done")]
    effects = {"send": READ, "look": READ, "confirm": READ}
    builder = StateGraph(MessagesState)
    builder.add_node("rollouts", ParallelRollouts(agent_of(world, [script]), n=2, effects=effects))
    builder.add_node("select", EntropyCentroidSelector())
    builder.add_edge(START, "rollouts")
    builder.add_edge("rollouts", "select")
    with pytest.raises(ConfigurationError, match=r"none has finished.*EntropyCentroidSelector\(rollouts\)"):
        await builder.compile().ainvoke(ASK)


async def test_rollouts_of_a_later_round_have_the_turns_of_the_earlier_ones(world: World):
    scripts = [[turn("", ("send", {"to": f"{i}"}), early=i == 1), turn(f"done {i}")] for i in range(2)]
    graph = entropy_centroid_graph(agent_of(world, scripts), n=2, effects={"look": READ, "confirm": READ})
    updates = [update async for update in graph.astream(ASK, stream_mode="updates")]
    rounds = [update["rollouts"]["rollouts"] for update in updates if "rollouts" in update]
    turns = [[[each["message_id"] for each in record["turns"]] for record in records] for records in rounds]
    assert [len(each) for each in turns[0] + turns[1]] == [1, 1, 2, 2]
    assert [each[:1] for each in turns[1]] == [turns[0][1]] * 2  # of the one that was selected


async def test_a_turn_of_a_graph_far_inside_counts_while_it_waits_for_an_answer(world: World):
    model = ScriptedChat(scripts=[[turn("first"), turn("", ("confirm", {"question": "?"})), turn("done")]])

    async def first(state: MessagesState):
        return {"messages": [await model.ainvoke(state["messages"])]}

    middle = StateGraph(MessagesState)
    middle.add_sequence([("first", first), ("agent", create_agent(model, world.tools))])
    middle.add_edge(START, "first")
    outer = StateGraph(MessagesState)
    outer.add_node("middle", middle.compile())
    outer.add_edge(START, "middle")
    graph = entropy_centroid_graph(outer.compile(), n=1, effects={"send": READ, "look": READ, "confirm": READ})
    updates = [update async for update in graph.astream(ASK, stream_mode="updates")]
    (record,) = next(update["rollouts"]["rollouts"] for update in updates if "rollouts" in update)
    assert (record["status"], len(record["turns"])) == ("held", 2)


async def test_the_schema_of_an_answer_is_put_with_the_question(world: World):
    schema = {"type": "object", "properties": {"hour": {"type": "integer"}}}

    @tool
    def when() -> str:
        """Ask for the hour."""
        return f"at {interrupt('When?', response_schema=schema)['hour']}"

    agent = create_agent(ScriptedChat(scripts=[[turn("", ("when", {})), turn("done")]]), [when])
    graph = entropy_centroid_graph(agent, n=2, effects={"when": READ}, checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "t"}}
    (asked,) = (await graph.ainvoke(ASK, config))["__interrupt__"]
    assert (asked.value, asked.response_schema) == ("When?", schema)
    result = await graph.ainvoke(Command(resume={"hour": 7}), config)
    assert result["messages"][2].content == "at 7"


async def test_two_doubts_need_two_answers():
    paid: list[int] = []

    @tool
    async def pay(amount: int) -> str:
        """Pay."""
        paid.append(amount)
        raise TimeoutError("no answer")

    script = [turn("", ("pay", {"amount": 1}), ("pay", {"amount": 2})), turn("done")]
    agent = create_agent(ScriptedChat(scripts=[script]), [pay])
    graph = entropy_centroid_graph(agent, n=2, checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "t"}}
    asked = await graph.ainvoke(ASK, config)
    doubts = {each["arguments"]["amount"]: each["doubt_id"] for each in asked["__interrupt__"][0].value["questions"]}
    answers = [
        {"doubt_id": doubts[1], "decision": "happened", "result": "receipt"},
        {"doubt_id": doubts[2], "decision": "give up"},
    ]
    for short in (answers[0], [*answers, answers[0]], []):
        again = await graph.ainvoke(Command(resume=short), config)
        assert "one answer is needed for each of the doubts" in again["__interrupt__"][0].value["not understood"]
    result = await graph.ainvoke(Command(resume=answers), config)
    assert sorted(paid) == [1, 2]
    assert [message.text for message in result["messages"][2:4]] == [
        "receipt",
        "This call was not made: a person decided against it",
    ]
