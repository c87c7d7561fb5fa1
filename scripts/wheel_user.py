"""What a user writes, with every public name of the root: checked under pyright and mypy, strict, and run.

`scripts/check_wheel.py` does so with the built wheel alone, in an environment of its own. A type that is
unknown where this file uses it is a mistake in a signature of the library. The one ignore is LangChain's: the type of
`create_agent` has parameters that it leaves open.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import numpy as np
from langchain.agents import create_agent  # pyright: ignore[reportUnknownVariableType]
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.state import CompiledStateGraph

import entcent_agents
from entcent_agents import (
    EXTERNAL,
    READ,
    WRITE,
    Branching,
    Budget,
    ChatLogprobs,
    DirectoryEnvironment,
    EntcentError,
    EntropyCentroidMiddleware,
    EntropyCentroidSelector,
    Environment,
    LowestCentroid,
    LowestMeanEntropy,
    MajorityVote,
    MemoryEnvironment,
    ParallelRollouts,
    PhaseConfig,
    Rollout,
    ScriptedChat,
    ScriptedTurn,
    Selection,
    Selector,
    SqliteEnvironment,
    SqliteLedger,
    TokenLogprobs,
    Trajectory,
    Turn,
    WeightedVote,
    create_entropy_centroid_agent,
    current_environment,
    declare,
    default_selector,
    entropy_centroid,
    entropy_centroid_graph,
    high_entropy_phases,
    rank,
    token_entropy,
    unfinished,
    with_logprobs,
)
from entcent_agents.branching import BranchPolicy, EarlyStopping
from entcent_agents.budget import Prices
from entcent_agents.environments import Change, Fork, MemoryFork, SqliteFork, commit, use_environments
from entcent_agents.errors import ConfigurationError
from entcent_agents.ledger import LedgerSettings
from entcent_agents.nodes import Retries
from entcent_agents.recordings import Records
from entcent_agents.selection import Chain, First
from entcent_agents.signals import SignalSettings
from entcent_agents.testing import EnvironmentConformance, scripted_logprobs, scripted_rollouts

QUESTION = MessagesState(messages=[HumanMessage("How many bolts are there?")])
Graph: TypeAlias = CompiledStateGraph[Any, Any, Any, Any]
"""LangChain leaves the context of an agent open, which strict checkers report; said so, it is closed."""


class FewestTurns:
    """A selector of the user's own."""

    name = "fewest turns"

    def select(self, rollouts: Sequence[Rollout]) -> Selection:
        """Choose by the number of turns."""
        return rank(self.name, rollouts, lambda rollout: len(rollout.trajectory.turns), what="number of turns")


class Counter:
    """An environment of the user's own, around one of the library's."""

    def __init__(self) -> None:
        self._kept = MemoryEnvironment({"bolts": 140}, name="counter")

    @property
    def name(self) -> str:
        """What tools call it."""
        return self._kept.name

    def fork(self) -> Fork:
        """A copy."""
        return self._kept.fork()

    def reopen(self, reference: str) -> Fork:
        """A copy that was made."""
        return self._kept.reopen(reference)

    def committed(self, reference: str) -> bool:
        """Whether it was committed."""
        return self._kept.committed(reference)

    def recover(self) -> None:
        """Nothing outlives the process."""
        self._kept.recover()


class TestCounter(EnvironmentConformance):
    """That it keeps what environments promise; how its words are written and read is left out here."""

    durable = False

    def open(self, folder: Path) -> Environment:
        """One to test."""
        return Counter()


@tool
def stock(item: str) -> str:
    """How many of an item there are."""
    fork = current_environment()
    assert isinstance(fork, SqliteFork)
    with fork.connect(read_only=True) as connection:
        found: tuple[int] | None = connection.execute("SELECT amount FROM stock WHERE item = ?", (item,)).fetchone()
    return str(found[0]) if found else "none"


@tool
def take(item: str) -> str:
    """Take one of an item."""
    fork = current_environment("database")
    assert isinstance(fork, SqliteFork)
    with fork.connect() as connection:
        connection.execute("UPDATE stock SET amount = amount - 1 WHERE item = ?", (item,))
    return "taken"


@tool
def send_mail(to: str) -> str:
    """Send a mail."""
    return f"sent to {to}"


def scripted() -> ScriptedChat:
    """A model whose second rollout is sure."""
    return ScriptedChat(
        scripts=[
            [
                ScriptedTurn(tool_calls=[("stock", {"item": "bolts"})], entropy=[nats] * 30),
                ScriptedTurn(text=text, entropy=[nats] * 5),
            ]
            for nats, text in [(1.2, "150"), (0.2, "140")]
        ],
        max_tokens=100,
    )


def two_nodes(database: Path, ledger: SqliteLedger) -> None:
    """A graph of one's own around the two nodes, streamed."""
    environment: Environment = SqliteEnvironment(database)
    rollouts = ParallelRollouts(
        create_agent(scripted(), [stock, declare(take, WRITE), send_mail]),
        n=2,
        effects={"stock": READ, "send_mail": EXTERNAL},
        environments=[environment],
        budget=Budget(max_tokens=10_000, max_cost=1.0, prices={"scripted": Prices(prompt=1.0, generated=2.0)}),
        retries=Retries(),
        ledger=ledger,
        ledger_settings=LedgerSettings(),
    )
    selector: Selector = WeightedVote().then(LowestMeanEntropy(), First())
    builder = StateGraph(MessagesState)
    builder.add_node("rollouts", rollouts)
    builder.add_node("select", EntropyCentroidSelector(rollouts, selector=selector))
    builder.add_edge(START, "rollouts")
    builder.add_edge("rollouts", "select")
    builder.add_conditional_edges("select", unfinished, {True: "rollouts", False: END})
    graph = builder.compile(checkpointer=InMemorySaver())
    kinds = [event["type"] for event in graph.stream(QUESTION, thread("nodes"), stream_mode="custom")]
    assert kinds[-1] == "entcent.selection"


def one_line(database: Path) -> None:
    """The same in one line, and with branches."""
    agent: Graph = create_agent(scripted(), [stock])
    graph = entropy_centroid_graph(
        agent,
        n=2,
        selector=Chain((LowestMeanEntropy(), FewestTurns())),
        branching=Branching(BranchPolicy(), initial=2),
        stopping=EarlyStopping(consensus="share", warm_up=2),
        effects={"stock": "READ"},
        environments=[SqliteEnvironment(database)],
        records=Records(database.with_suffix(".jsonl")),
    )
    result = graph.invoke(QUESTION)
    assert result["selection"]["winner"] == 1


async def middleware(database: Path) -> None:
    """The middleware in an agent, and the agent in one call."""

    def answer(question: str) -> str:
        """Answer."""
        return question

    turns = [ScriptedTurn(text=text, entropy=[nats] * 9) for nats, text in [(1.2, "a"), (0.2, "b")]]
    model = ScriptedChat(scripts=[[turn] for turn in turns])
    agent: Graph = create_agent(
        model, [answer], middleware=[EntropyCentroidMiddleware(n=2, selector=default_selector())]
    )
    assert (await agent.ainvoke(QUESTION))["messages"][-1].text == "b"
    whole = create_entropy_centroid_agent(
        scripted(), [stock], effects={"stock": READ}, environments=[SqliteEnvironment(database)], n=2
    )
    async for mode, event in whole.astream(QUESTION, stream_mode=["custom", "updates"]):
        assert mode in ("custom", "updates") and event
    chat = ChatLogprobs(model="my-model", base_url="http://127.0.0.1:8000/v1", tool_calling="text", top_logprobs=5)
    try:
        with_logprobs(chat, top=0)
    except EntcentError as error:
        assert isinstance(error, ConfigurationError)


def forks(folder: Path) -> None:
    """Environments by hand."""
    directory = DirectoryEnvironment(folder)
    fork = directory.fork()
    fork.resolve("note.md").write_text("140")
    changes: tuple[Change, ...] = fork.diff()
    assert [change.subject for change in changes] == ["note.md"]
    commit([fork])
    copy = Counter().fork()
    assert isinstance(copy, MemoryFork)
    with use_environments({"counter": copy}):
        assert current_environment("counter").diff() == ()


def mathematics() -> None:
    """Arrays in, numbers out."""
    nats = token_entropy(np.log([[0.5, 0.5], [0.9, 0.1]]))
    config = PhaseConfig(thresholds=(0.5, 0.4))
    assert [phase.length for phase in high_entropy_phases(nats, config)] == [2]
    centroid: float | None = entropy_centroid(nats, config)
    logprobs: TokenLogprobs | None = scripted_logprobs(nats.tolist())
    trajectory = Trajectory(turns=(Turn(message_id="a", generated_tokens=2, logprobs=logprobs),))
    assert centroid is not None and trajectory.coverage == 1.0
    chosen = LowestCentroid(min_scored_tokens=0, settings=SignalSettings(phases=config))
    selection: Selection = MajorityVote().then(chosen).select(scripted_rollouts([1.0, 0.1], [0.1, 1.0]))
    assert selection.winner == 0


def thread(name: str) -> Any:
    """The configuration of a thread."""
    return {"configurable": {"thread_id": name}}


async def main() -> None:
    """All of it."""
    unused = set(entcent_agents.__all__) - set(globals())
    assert not unused, f"not used here: {sorted(unused)}"
    with TemporaryDirectory() as name:
        folder = Path(name)
        database = folder / "shop.db"
        with closing(sqlite3.connect(database)) as connection, connection:
            connection.execute("CREATE TABLE stock (item TEXT, amount INTEGER)")
            connection.execute("INSERT INTO stock VALUES ('bolts', 140)")
        ledger = SqliteLedger(folder / "effects.db")
        await asyncio.to_thread(two_nodes, database, ledger)
        await asyncio.to_thread(one_line, database)
        await middleware(database)
        (folder / "notes").mkdir()
        forks(folder / "notes")
        mathematics()
        await ledger.aclose()


if __name__ == "__main__":
    asyncio.run(main())
