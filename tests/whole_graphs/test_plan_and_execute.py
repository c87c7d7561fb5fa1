"""Plan, execute step by step, and plan again: several channels, one of them with a reducer, and a loop."""

from __future__ import annotations

import operator
from typing import Annotated, Any

from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from langgraph.graph import END, START, MessagesState, StateGraph

from entcent_agents.effects import EXTERNAL, Effect
from entcent_agents.testing import ScriptedChat
from tests.whole_graphs.comparing import LIVE_OR_HELD, ROLLOUTS, assert_same_as_alone, says, scripts, winner_of


class Planning(MessagesState):
    plan: list[str]
    past: Annotated[list[tuple[str, str]], operator.add]
    response: str


def planning_graph(done: list[str]):
    @tool
    def look_up(what: str) -> str:
        """Look something up."""
        done.append(what)
        return f"{what} is known"

    planner = ScriptedChat(scripts=scripts(lambda i: lambda messages: says(f"find {i}; check {i}")))
    replanner = ScriptedChat(
        scripts=scripts(lambda i: lambda messages: says("find more" if "2 done" in messages[-1].text else f"end {i}"))
    )

    def works(index: int):
        return lambda messages: (
            says(f"{messages[-1].text}!")
            if messages[-1].type == "tool"
            else says("hm", ("look_up", {"what": messages[-1].text}))
        )

    executor = create_agent(ScriptedChat(scripts=scripts(works)), [look_up], name="executor")

    async def plan(state: Planning) -> dict[str, Any]:
        said = await planner.ainvoke(state["messages"])
        return {"plan": said.text.split("; "), "response": ""}

    async def execute(state: Planning) -> dict[str, Any]:
        step = state["plan"][0]
        done = await executor.ainvoke({"messages": [HumanMessage(step)]})
        return {"past": [(step, done["messages"][-1].text)], "plan": state["plan"][1:]}

    async def replan(state: Planning) -> dict[str, Any]:
        if state["plan"]:
            return {}
        said = await replanner.ainvoke([HumanMessage(f"{len(state['past'])} done")])
        if said.text.startswith("end"):
            return {"response": said.text, "messages": [AIMessage(said.text)]}
        return {"plan": [said.text]}

    builder = StateGraph(Planning)
    builder.add_node("plan", plan)
    builder.add_node("execute", execute)
    builder.add_node("replan", replan)
    builder.add_edge(START, "plan")
    builder.add_edge("plan", "execute")
    builder.add_edge("execute", "replan")
    builder.add_conditional_edges("replan", lambda state: END if state.get("response") else "execute")
    return builder.compile()


@ROLLOUTS
@LIVE_OR_HELD
async def test_a_plan_is_made_carried_out_and_made_again(n: int, effect: Effect):
    looked_up: list[str] = []
    requests = [{"messages": [HumanMessage("first")]}, {"messages": [HumanMessage("second")]}]
    state = await assert_same_as_alone(planning_graph(looked_up), requests, n, effects={"look_up": effect})
    winner = winner_of(n)
    assert [step for step, _ in state["past"]][:3] == [f"find {winner}", f"check {winner}", "find more"]
    if effect is EXTERNAL:
        first = [f"find {winner}", f"check {winner}", "find more"]
        assert looked_up == [*first, *first, *first[:2], *first[:2]]  # each request alone, then as rollouts
    assert len(state["past"]) == 5 and state["response"] == f"end {winner}"
