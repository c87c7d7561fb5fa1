"""Time travel on the outer thread: from an earlier checkpoint, after `update_state`, and on a branch of history."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph

from entcent_agents.prebuilt import entropy_centroid_graph
from entcent_agents.rollouts.isolation import Graph
from entcent_agents.testing import ScriptedChat
from tests.whole_graphs.comparing import ROLLOUTS, Chosen, says, scripts, since_human, winner_of


def asked(text: str) -> dict[str, Any]:
    return {"messages": [HumanMessage(text)]}


def echoing(n: int, saver: InMemorySaver, rollout_saver: InMemorySaver | None = None) -> Graph:
    def echoes(index: int):
        return lambda messages: says(f"{index} heard {messages[-1].text}, {len(messages)} messages")

    model = ScriptedChat(scripts=scripts(echoes))

    async def think(state: MessagesState) -> dict[str, Any]:
        assert since_human(state["messages"]) == 0
        return {"messages": [await model.ainvoke(state["messages"])]}

    builder = StateGraph(MessagesState)
    builder.add_node("think", think)
    builder.add_edge(START, "think")
    return entropy_centroid_graph(
        builder.compile(),
        n=n,
        selector=Chosen(winner_of(n)),
        checkpointer=saver,
        rollout_checkpointer=rollout_saver,
    )


def texts(state: dict[str, Any]) -> list[str]:
    return [message.text for message in state["messages"]]


@ROLLOUTS
async def test_a_request_goes_on_from_an_earlier_checkpoint(n: int):
    graph, winner = echoing(n, InMemorySaver()), winner_of(n)
    config: Any = {"configurable": {"thread_id": "one"}}
    await graph.ainvoke(asked("a"), config)
    earlier = (await graph.aget_state(config)).config
    await graph.ainvoke(asked("b"), config)
    state = await graph.ainvoke(asked("c"), earlier)
    first = f"{winner} heard a, 1 messages"
    assert texts(state) == ["a", first, "c", f"{winner} heard c, 3 messages"]
    state = await graph.ainvoke(asked("d"), config)
    assert texts(state)[2] == "c" and texts(state)[-1] == f"{winner} heard d, 5 messages"


@ROLLOUTS
async def test_rollouts_are_run_anew_from_the_checkpoint_before_them(n: int):
    rollout_saver = InMemorySaver()
    graph, winner = echoing(n, InMemorySaver(), rollout_saver), winner_of(n)
    config: Any = {"configurable": {"thread_id": "one"}}
    await graph.ainvoke(asked("a"), config)
    history = [snapshot async for snapshot in graph.aget_state_history(config)]
    before_rollouts = next(snapshot for snapshot in history if snapshot.next == ("rollouts",))
    before_selection = next(snapshot for snapshot in history if snapshot.next == ("select",))
    state = await graph.ainvoke(None, before_rollouts.config)
    assert texts(state) == ["a", f"{winner} heard a, 1 messages"]
    state = await graph.ainvoke(None, before_selection.config)
    assert texts(state) == ["a", f"{winner} heard a, 1 messages"]
    assert [saved async for saved in rollout_saver.alist(None)] == []


@ROLLOUTS
async def test_a_request_goes_on_from_a_state_that_was_updated_by_hand(n: int):
    graph, winner = echoing(n, InMemorySaver()), winner_of(n)
    config: Any = {"configurable": {"thread_id": "one"}}
    state = await graph.ainvoke(asked("a"), config)
    corrected = AIMessage("corrected", id=state["messages"][-1].id)
    await graph.aupdate_state(config, {"messages": [corrected]})
    state = await graph.ainvoke(asked("b"), config)
    assert texts(state) == ["a", "corrected", "b", f"{winner} heard b, 3 messages"]


@ROLLOUTS
async def test_a_state_that_was_updated_before_the_rollouts_is_what_they_start_from(n: int):
    graph, winner = echoing(n, InMemorySaver()), winner_of(n)
    config: Any = {"configurable": {"thread_id": "one"}}
    await graph.ainvoke(asked("a"), config, interrupt_before=["rollouts"])
    question = (await graph.aget_state(config)).values["messages"][0]
    await graph.aupdate_state(config, {"messages": [HumanMessage("better", id=question.id)]})
    state = await graph.ainvoke(None, config)
    assert texts(state) == ["better", f"{winner} heard better, 1 messages"]
