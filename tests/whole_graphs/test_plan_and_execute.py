"""Plan, execute step by step, and plan again: several channels, one of them with a reducer, and a loop."""

from __future__ import annotations

import operator
from typing import Annotated, Any

from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from langgraph.graph import END, START, MessagesState, StateGraph

from entcent_agents.effects import READ
from entcent_agents.testing import ScriptedChat
from tests.whole_graphs.comparing import ROLLOUTS, assert_same_as_alone, says, scripts, winner_of


class Planning(MessagesState):
    plan: list[str]
    past: Annotated[list[tuple[str, str]], operator.add]
    response: str


@tool
def look_up(what: str) -> str:
    """Look something up."""
    return f"{what} is known"


def planning_graph():
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
async def test_a_plan_is_made_carried_out_and_made_again(n: int):
    requests = [{"messages": [HumanMessage("first")]}, {"messages": [HumanMessage("second")]}]
    state = await assert_same_as_alone(planning_graph(), requests, n, effects={"look_up": READ})
    winner = winner_of(n)
    assert [step for step, _ in state["past"]][:3] == [f"find {winner}", f"check {winner}", "find more"]
    assert len(state["past"]) == 5 and state["response"] == f"end {winner}"
