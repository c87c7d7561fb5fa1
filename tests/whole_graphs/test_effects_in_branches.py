"""Branches that run at once, each with calls of every kind: what is held in one does not hold up or repeat another."""

from __future__ import annotations

import operator
from pathlib import Path
from typing import Annotated, Any

from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Send

from entcent_agents.effects import EXTERNAL, READ, WRITE
from entcent_agents.environments import DirectoryEnvironment, DirectoryFork, current_environment
from entcent_agents.prebuilt import entropy_centroid_graph
from entcent_agents.rollouts.isolation import Graph
from entcent_agents.testing import ScriptedChat
from tests.whole_graphs.comparing import (
    ROLLOUTS,
    Chosen,
    plain,
    says,
    scripts,
    since_human,
    winner_of,
)

BRANCHES = ("a", "b", "c")


class World:
    """Where tools act, by themselves or in a rollout, and what was done for real."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.paid: list[str] = []
        self.alone = True

    def path(self, name: str) -> Path:
        if self.alone:
            return self.folder / name
        fork = current_environment("workspace")
        assert isinstance(fork, DirectoryFork)
        return fork.resolve(name)

    def tools(self) -> list[Any]:
        @tool
        def look(name: str) -> str:
            """See whether a file is there."""
            return str(self.path(name).exists())

        @tool
        def write(name: str) -> str:
            """Write a file, one line more each time."""
            path = self.path(name)
            path.write_text((path.read_text() if path.exists() else "") + "line\n")
            return "written"

        @tool
        def pay(what: str) -> str:
            """Pay for something."""
            self.paid.append(what)
            return f"paid {what}"

        return [look, write, pay]


def branching(world: World) -> Graph:
    def works(index: int):
        def turn(messages: Any) -> Any:
            name = messages[0].text
            turns = [
                says(f"{name} begins", ("write", {"name": name}), ("pay", {"what": f"{name}{index}"})),
                says(f"{name} checks", ("look", {"name": name}), ("pay", {"what": f"more {name}{index}"})),
                says(f"{name} adds", ("write", {"name": name}), ("look", {"name": name})),
                says(f"{name} is done by {index}"),
            ]
            return turns[since_human(messages)]

        return turn

    class Branching(MessagesState):
        done: Annotated[list[str], operator.add]

    worker = create_agent(ScriptedChat(scripts=scripts(works)), world.tools(), name="worker")

    async def work(state: dict[str, Any]) -> dict[str, Any]:
        done = await worker.ainvoke({"messages": [HumanMessage(state["name"], id=state["name"])]})
        return {"done": [message.text for message in done["messages"]]}

    builder = StateGraph(Branching)
    builder.add_node("work", work)
    builder.add_node("join", lambda state: {"messages": [AIMessage(state["done"][-1])]}, defer=True)
    builder.add_conditional_edges(START, lambda state: [Send("work", {"name": name}) for name in BRANCHES], ["work"])
    builder.add_edge("work", "join")
    builder.add_edge("join", END)
    return builder.compile()


@ROLLOUTS
async def test_reads_writes_and_external_calls_of_parallel_branches(n: int, tmp_path: Path):
    folders = [tmp_path / "alone", tmp_path / "ours"]
    for folder in folders:
        folder.mkdir()
    worlds = [World(folder) for folder in folders]
    worlds[1].alone = False
    winner = winner_of(n)
    expected = await branching(worlds[0]).ainvoke(
        {"messages": [HumanMessage("go")]}, {"configurable": {"thread_id": f"alone:{winner}"}}
    )
    graph = entropy_centroid_graph(
        branching(worlds[1]),
        n=n,
        selector=Chosen(winner),
        on_unscorable="fallback",
        effects={"look": READ, "write": WRITE, "pay": EXTERNAL},
        environments=[DirectoryEnvironment(folders[1])],
    )
    state = await graph.ainvoke({"messages": [HumanMessage("go")]})
    assert plain(state) == plain(expected)
    wanted = sorted([f"{name}{winner}" for name in BRANCHES] + [f"more {name}{winner}" for name in BRANCHES])
    assert sorted(worlds[1].paid) == sorted(worlds[0].paid) == wanted
    for folder in folders:
        assert {path.name: path.read_text() for path in folder.iterdir()} == dict.fromkeys(BRANCHES, "line\nline\n")
