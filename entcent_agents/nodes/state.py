"""What the two nodes share: the channels they write, and how they are called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.messages import AnyMessage
from langchain_core.runnables import Runnable, RunnableConfig
from typing_extensions import TypedDict

from entcent_agents.blocking import run_sync


class RolloutsState(TypedDict, total=False):
    """The channels that the two nodes share; they add themselves to any graph with `messages`."""

    messages: list[AnyMessage]  # without a reducer, so that the graph's own stands
    rollouts: list[dict[str, Any]]
    selection: dict[str, Any]


def unfinished(state: Mapping[str, Any]) -> bool:
    """Whether the selected rollout is held, so that the rollouts have to go on from it.

    Example:
        >>> from entcent_agents import EntropyCentroidSelector, ParallelRollouts, ScriptedChat, ScriptedTurn, unfinished
        >>> from langchain.agents import create_agent
        >>> from langgraph.graph import END, START, MessagesState, StateGraph
        >>> model = ScriptedChat(scripts=[[ScriptedTurn(text="Gentoo.", entropy=[0.1] * 9)]])
        >>> rollouts = ParallelRollouts(create_agent(model), n=2)
        >>> steps = [("rollouts", rollouts), ("select", EntropyCentroidSelector(rollouts))]
        >>> builder = StateGraph(MessagesState).add_sequence(steps).add_edge(START, "rollouts")
        >>> graph = builder.add_conditional_edges("select", unfinished, {True: "rollouts", False: END}).compile()
        >>> graph.invoke({"messages": [("user", "Which are the heaviest?")]})["messages"][-1].text
        'Gentoo.'
    """
    return bool(state.get("rollouts"))


class Node(Runnable[RolloutsState, Any]):
    """A node that awaits, and may be called from synchronous code all the same."""

    def __call__(self, state: RolloutsState, config: RunnableConfig) -> Any:
        """As `invoke`; LangGraph reads the node's channels from this signature."""
        return self.invoke(state, config)

    def invoke(self, input: RolloutsState, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """As `ainvoke`, from synchronous code."""
        return run_sync(self.ainvoke(input, config, **kwargs))
