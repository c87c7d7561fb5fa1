"""Rollouts and selection in a graph: what is committed, what is invisible, what is refused."""

from __future__ import annotations

import asyncio
import operator
import sqlite3
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, ToolRuntime
from langgraph.store.memory import InMemoryStore
from langgraph.types import Command

from entcent_agents.effects import EXTERNAL, READ, WRITE
from entcent_agents.environments import DirectoryEnvironment, SqliteEnvironment
from entcent_agents.errors import ConfigurationError, EffectError, LogprobsMissingError, RolloutsFailedError
from entcent_agents.nodes import EntropyCentroidSelector, ParallelRollouts, RolloutsState
from entcent_agents.prebuilt import entropy_centroid_graph
from entcent_agents.selection import First, LowestCentroid, LowestMeanEntropy, Selection
from entcent_agents.testing import ScriptedChat, ScriptedTurn
from tests.table import new_table, rows
from tools.sql import sql_tools
from tools.workspace import workspace_tools

ASK = {"messages": [HumanMessage("go")]}
BEST = 2


def entropy(early: bool, tokens: int = 150) -> np.ndarray:
    """Two phases, at the beginning or at the end, on a quiet floor."""
    noise = np.random.default_rng(0).uniform(0.0, 0.05, tokens)
    for start in (5, 25) if early else (tokens - 40, tokens - 15):
        noise[start : start + 8] = 1.5
    return noise


def turns(index: int, *calls: tuple[str, dict], early: bool = False) -> list[ScriptedTurn]:
    """A script of one turn a call and an answer."""
    thinking = [ScriptedTurn(text=f"secret{index} thinks", tool_calls=[call], entropy=entropy(early)) for call in calls]
    return [*thinking, ScriptedTurn(text=f"answer {index}", entropy=entropy(early))]


@tool
def look(x: int) -> str:
    """Look at something."""
    return f"secret{x} seen"


@tool
async def remember(note: str, runtime: ToolRuntime) -> str:
    """Write to the store."""
    await runtime.store.aput(("notes",), note, {"note": note})
    return "noted"


def scripts_of_looks() -> list[list[ScriptedTurn]]:
    return [turns(i, ("look", {"x": i}), early=i == BEST) for i in range(4)]


def looking_agent(scripts=None):
    return create_agent(ScriptedChat(scripts=scripts or scripts_of_looks()), [look])


def sqlite_agent(statements: list[list[str]]):
    scripts = [
        turns(i, *[("execute", {"sql": statement}) for statement in rollout], early=i == BEST)
        for i, rollout in enumerate(statements)
    ]
    return create_agent(ScriptedChat(scripts=scripts), sql_tools())


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return new_table(tmp_path / "world.db")


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


async def test_the_rollout_with_the_lowest_centroid_is_committed_with_all_its_messages():
    state = await entropy_centroid_graph(looking_agent(), n=4, effects={"look": READ}).ainvoke(ASK)
    assert [message.text for message in state["messages"]] == ["go", "secret2 thinks", "secret2 seen", "answer 2"]
    assert state["selection"]["winner"] == BEST
    assert state["selection"]["selector"] == "lowest centroid"
    assert [candidate["rank"] for candidate in state["selection"]["candidates"]].index(1) == BEST


def test_sync_invoke_works_and_works_again():
    graph = entropy_centroid_graph(looking_agent(), n=4, effects={"look": READ})
    assert [graph.invoke(ASK)["messages"][-1].text for _ in range(2)] == ["answer 2", "answer 2"]


async def test_the_two_nodes_work_in_a_graph_of_ones_own():
    rollouts = ParallelRollouts(looking_agent(), n=4, effects={"look": READ})
    builder = StateGraph(MessagesState)
    builder.add_node("rollouts", rollouts)
    builder.add_node("select", EntropyCentroidSelector(rollouts))
    builder.add_edge(START, "rollouts")
    builder.add_edge("rollouts", "select")
    builder.add_edge("select", END)
    state = await builder.compile().ainvoke(ASK)
    assert state["messages"][-1].text == "answer 2"


async def test_a_bare_selector_commits_the_messages():
    builder = StateGraph(RolloutsState)
    builder.add_node("rollouts", ParallelRollouts(looking_agent(), n=4, effects={"look": READ}))
    builder.add_node("select", EntropyCentroidSelector())
    builder.add_edge(START, "rollouts")
    builder.add_edge("rollouts", "select")
    state = await builder.compile().ainvoke(ASK)
    assert state["messages"][-1].text == "answer 2"
    assert state["rollouts"] == []


async def test_while_it_streams_nothing_of_a_loser_appears():
    saver, store = InMemorySaver(), InMemoryStore()
    scripts = [turns(i, ("look", {"x": i}), ("remember", {"note": f"secret{i}"}), early=i == BEST) for i in range(4)]
    agent = create_agent(ScriptedChat(scripts=scripts), [look, remember])
    graph = entropy_centroid_graph(
        agent, n=4, effects={"look": READ, "remember": READ}, checkpointer=saver, store=store
    )
    config = {"configurable": {"thread_id": "parent"}}
    events = [
        event
        async for event in graph.astream(
            ASK, config, stream_mode=["messages", "updates", "custom", "values"], subgraphs=True
        )
    ]
    streamed = repr(events)
    assert {mode for _, mode, _ in events} == {"messages", "updates", "custom", "values"}
    assert "secret2" in streamed and "answer 2" in streamed
    for loser in (0, 1, 3):
        assert f"secret{loser}" not in streamed
        assert f"answer {loser}" not in streamed
    kept = [checkpoint async for checkpoint in saver.alist(None)]
    assert {checkpoint.config["configurable"]["thread_id"] for checkpoint in kept} == {"parent"}
    assert {checkpoint.config["configurable"]["checkpoint_ns"] for checkpoint in kept} == {""}
    assert "secret0" not in repr(kept)
    assert [item.key for item in await store.asearch(("notes",))] == ["secret2"]


async def test_events_of_losers_reach_no_event_stream():
    graph = entropy_centroid_graph(looking_agent(), n=4, effects={"look": READ})
    seen = repr([event async for event in graph.astream_events(ASK, version="v2")])
    assert "answer 2" in seen
    assert "secret0" not in seen and "answer 0" not in seen


async def test_no_thread_of_a_rollout_is_left_behind():
    saver = InMemorySaver()
    await entropy_centroid_graph(looking_agent(), n=4, effects={"look": READ}, rollout_checkpointer=saver).ainvoke(ASK)
    assert [checkpoint async for checkpoint in saver.alist(None)] == []


async def test_a_rollout_whose_model_fails_is_data_and_the_others_go_on():
    scripts = scripts_of_looks()
    scripts[1] = [ScriptedTurn(error=ConnectionError("the line is dead"))]
    graph = entropy_centroid_graph(looking_agent(scripts), n=4, effects={"look": READ})
    records = []
    async for update in graph.astream(ASK, stream_mode="updates"):
        records = update.get("rollouts", {}).get("rollouts", records)
        answer = update.get("select", {}).get("messages", [])
    assert answer[-1].text == "answer 2"
    assert [record["status"] for record in records] == ["finished", "failed", "finished", "finished"]
    assert records[1]["error"] == "ConnectionError"  # its words may quote a loser


async def test_when_all_fail_there_is_one_error_and_the_world_is_untouched(database: Path):
    before = database.read_bytes()
    write = ScriptedTurn(tool_calls=[("execute", {"sql": "INSERT INTO t VALUES (1)"})], entropy=entropy(False))
    scripts = [[write, ScriptedTurn(error=ConnectionError("dead"))]]
    agent = create_agent(ScriptedChat(scripts=scripts), sql_tools())
    graph = entropy_centroid_graph(agent, n=3, environments=[SqliteEnvironment(database)])
    with pytest.raises(RolloutsFailedError, match="0 of 3 rollouts finished, 1 needed.*ConnectionError: dead"):
        await graph.ainvoke(ASK)
    assert database.read_bytes() == before
    assert files(database.parent) == ["world.db"]


async def test_fewer_than_the_quorum_is_an_error():
    scripts = scripts_of_looks()
    scripts[1] = [ScriptedTurn(error=ConnectionError("dead"))]
    graph = entropy_centroid_graph(looking_agent(scripts), n=4, effects={"look": READ}, min_finished=4)
    with pytest.raises(RolloutsFailedError, match="3 of 4 rollouts finished, 4 needed"):
        await graph.ainvoke(ASK)


async def test_the_winners_fork_becomes_real_and_losers_leave_nothing(database: Path, tmp_path: Path):
    folder = tmp_path / "folder"
    folder.mkdir()
    scripts = [
        turns(
            i,
            ("execute", {"sql": f"INSERT INTO t VALUES ({i})"}),
            ("write_file", {"path": f"{i}.txt", "content": str(i)}),
            early=i == BEST,
        )
        for i in range(4)
    ]
    agent = create_agent(ScriptedChat(scripts=scripts), [*sql_tools(), *workspace_tools()])
    environments = [SqliteEnvironment(database), DirectoryEnvironment(folder)]
    state = await entropy_centroid_graph(agent, n=4, environments=environments).ainvoke(ASK)
    assert rows(database) == [BEST]
    assert files(tmp_path) == ["folder/2.txt", "world.db"]
    assert {change["subject"] for change in state["selection"]["changes"]} == {"t", "2.txt"}


async def test_cancelling_leaves_the_world_untouched(database: Path):
    before = database.read_bytes()
    slow = [
        ScriptedTurn(tool_calls=[("execute", {"sql": "INSERT INTO t VALUES (1)"})], entropy=entropy(False)),
        ScriptedTurn(text="late", entropy=entropy(False), delay_seconds=30.0),
    ]
    agent = create_agent(ScriptedChat(scripts=[slow]), sql_tools())
    graph = entropy_centroid_graph(agent, n=3, environments=[SqliteEnvironment(database)])
    run = asyncio.create_task(graph.ainvoke(ASK))
    await asyncio.sleep(0.5)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert database.read_bytes() == before
    assert files(database.parent) == ["world.db"]


async def test_a_conflicting_change_of_the_real_world_stops_the_commit(database: Path):
    class Meddler:
        name = "meddler"

        def select(self, rollouts):
            with sqlite3.connect(database) as connection:
                connection.execute("INSERT INTO t VALUES (99)")
            connection.close()
            return First().select(rollouts)

    agent = sqlite_agent([["INSERT INTO t VALUES (1)"]])
    graph = entropy_centroid_graph(agent, n=2, environments=[SqliteEnvironment(database)], selector=Meddler())
    with pytest.raises(Exception, match="changed"):
        await graph.ainvoke(ASK)
    assert rows(database) == [99]
    assert files(database.parent) == ["world.db"]


async def test_an_undeclared_tool_needs_a_selector_that_commits():
    rollouts = ParallelRollouts(looking_agent(), n=2)
    builder = StateGraph(MessagesState)
    builder.add_node("rollouts", rollouts)
    builder.add_node("select", EntropyCentroidSelector())
    builder.add_edge(START, "rollouts")
    builder.add_edge("rollouts", "select")
    said = r"EXTERNAL tools \(look\) need a selector.*EntropyCentroidSelector\(rollouts\).*effects=\{'look': READ\}"
    with pytest.raises(EffectError, match=said):
        await builder.compile().ainvoke(ASK)


async def test_a_tool_of_a_subgraph_is_seen_too():
    builder = StateGraph(MessagesState)
    builder.add_node("inner", looking_agent())
    builder.add_edge(START, "inner")
    rollouts = ParallelRollouts(builder.compile(), n=2)
    assert rollouts.effects["look"].effect is EXTERNAL


def test_a_declared_write_needs_an_environment_and_a_bound_tool_needs_its_own(tmp_path: Path):
    with pytest.raises(EffectError, match="no environment to fork"):
        entropy_centroid_graph(looking_agent(), effects={"look": WRITE})
    with pytest.raises(EffectError, match="acts on the environment 'database'"):
        entropy_centroid_graph(sqlite_agent([[]]), environments=[DirectoryEnvironment(tmp_path)])


def test_a_declaration_for_a_tool_that_is_not_there_is_refused():
    with pytest.raises(EffectError, match="'lok' that the agent does not have; it has look"):
        entropy_centroid_graph(looking_agent(), effects={"lok": READ, "look": READ})
    with pytest.raises(EffectError, match="must be READ, WRITE or EXTERNAL"):
        entropy_centroid_graph(looking_agent(), effects={"look": "SAFE"})


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"n": 0}, "n=0"), ({"n": 2, "min_finished": 3}, "min_finished=3"), ({"max_concurrency": 0}, "max_concurrency=0")],
)
def test_settings_that_cannot_work_are_refused(settings, said):
    with pytest.raises(ConfigurationError, match=said):
        ParallelRollouts(looking_agent(), effects={"look": READ}, **settings)


@pytest.mark.parametrize(
    ("setting", "kind"),
    [
        ({"budget": 5000}, "Budget"),
        ({"spans": True}, "Spans"),
        ({"retries": 3}, "Retries"),
        ({"records": "x"}, "Records"),
    ],
)
def test_settings_of_another_kind_are_refused_before_a_model_call(setting, kind):
    with pytest.raises(ConfigurationError, match=rf"^{next(iter(setting))}=.* must be a {kind}\(…\)$"):
        entropy_centroid_graph(looking_agent(), effects={"look": READ}, **setting)


async def test_rollouts_with_environments_and_no_selector_are_refused_before_a_model_call(database: Path):
    agent = create_agent(ScriptedChat(scripts=[[ScriptedTurn(error=AssertionError("asked"))]]), sql_tools())
    builder = StateGraph(RolloutsState)
    builder.add_node("rollouts", ParallelRollouts(agent, environments=[SqliteEnvironment(database)]))
    builder.add_edge(START, "rollouts")
    with pytest.raises(EffectError, match="add EntropyCentroidSelector"):
        await builder.compile().ainvoke(ASK)


async def test_without_log_probabilities_there_is_an_error_or_the_declared_fallback():
    scripts = [[ScriptedTurn(text=f"answer {i}", generated_tokens=50)] for i in range(3)]
    agent = create_agent(ScriptedChat(scripts=scripts), [])
    with pytest.raises(LogprobsMissingError, match="none of 3 rollouts carries log-probabilities"):
        await entropy_centroid_graph(agent, n=3).ainvoke(ASK)
    state = await entropy_centroid_graph(agent, n=3, on_unscorable="fallback").ainvoke(ASK)
    assert state["selection"]["selector"] == "first"
    assert state["selection"]["steps"][0]["selector"] == "vote weighted by centroid from 100 tokens"


async def test_at_most_max_concurrency_rollouts_run_at_once():
    running, most = 0, 0

    @tool
    async def busy(x: int) -> str:
        """Count who else is here."""
        nonlocal running, most
        running, most = running + 1, max(most, running + 1)
        await asyncio.sleep(0.02)
        running -= 1
        return "done"

    agent = create_agent(ScriptedChat(scripts=[turns(i, ("busy", {"x": i})) for i in range(6)]), [busy])
    await entropy_centroid_graph(agent, n=6, effects={"busy": READ}, max_concurrency=2).ainvoke(ASK)
    assert most == 2


async def test_a_breakpoint_of_the_agent_is_put_to_a_person():
    agent = create_agent(
        ScriptedChat(scripts=[turns(0, ("look", {"x": 0}))]), [look], interrupt_before=["tools"], name="held"
    )
    graph = entropy_centroid_graph(agent, n=2, effects={"look": READ}, checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "one"}}
    asked = await graph.ainvoke(ASK, config)
    assert asked["__interrupt__"][0].value == {"kind": "breakpoint", "before": ["tools"]}
    result = await graph.ainvoke(Command(resume=True), config)
    assert result["messages"][-1].text == "answer 0"


async def test_a_programming_error_is_not_swallowed():
    def broken(state: MessagesState) -> dict:
        return undefined_name  # type: ignore[name-defined]  # noqa: F821

    builder = StateGraph(MessagesState)
    builder.add_node("broken", broken)
    builder.add_edge(START, "broken")
    with pytest.raises(NameError):
        await entropy_centroid_graph(builder.compile(), n=2).ainvoke(ASK)


async def test_history_stays_and_the_next_request_goes_on_from_it():
    graph = entropy_centroid_graph(
        looking_agent([[*turns(i, early=i == BEST), *turns(i + 10, early=i == BEST)] for i in range(4)]),
        n=4,
        effects={"look": READ},
        checkpointer=InMemorySaver(),
        selector=LowestCentroid(min_scored_tokens=0),
    )
    config = {"configurable": {"thread_id": "one"}}
    await graph.ainvoke(ASK, config)
    state = await graph.ainvoke({"messages": [HumanMessage("again")]}, config)
    assert [message.text for message in state["messages"]] == ["go", "answer 2", "again", "answer 12"]


async def test_tools_that_write_through_the_current_environment_see_their_own_fork_only(database: Path):
    statements = [[f"INSERT INTO t VALUES ({i})", "INSERT INTO t SELECT count(*) * 100 FROM t"] for i in range(4)]
    graph = entropy_centroid_graph(sqlite_agent(statements), n=4, environments=[SqliteEnvironment(database)])
    await graph.ainvoke(ASK)
    assert rows(database) == [BEST, 100]


def test_a_tool_node_of_ones_own_works_as_well(database: Path):
    model = ScriptedChat(scripts=[turns(i, ("execute", {"sql": f"INSERT INTO t VALUES ({i})"})) for i in range(2)])

    async def think(state: MessagesState) -> dict:
        return {"messages": [await model.ainvoke(state["messages"])]}

    builder = StateGraph(MessagesState)
    builder.add_node("think", think)
    builder.add_node("tools", ToolNode(sql_tools()))
    builder.add_edge(START, "think")
    builder.add_conditional_edges("think", lambda state: "tools" if state["messages"][-1].tool_calls else END)
    builder.add_edge("tools", "think")
    graph = entropy_centroid_graph(builder.compile(), n=2, environments=[SqliteEnvironment(database)], selector=First())
    graph.invoke(ASK)
    assert rows(database) == [0]


async def test_a_reducer_is_not_applied_twice():
    class Counting(MessagesState):
        log: Annotated[list[str], operator.add]
        total: Annotated[int, operator.add]

    async def think(state: Counting) -> dict:
        message = await ScriptedChat(scripts=[[ScriptedTurn(text="hi", entropy=[0.1])]]).ainvoke(state["messages"])
        return {"messages": [message], "log": ["new"], "total": 5}

    builder = StateGraph(Counting)
    builder.add_node("think", think)
    builder.add_edge(START, "think")
    plain = builder.compile()
    asked = {**ASK, "log": ["old"], "total": 1}
    alone = await plain.ainvoke(asked)
    ours = await entropy_centroid_graph(plain, n=2).ainvoke(asked)
    assert (ours["log"], ours["total"]) == (alone["log"], alone["total"]) == (["old", "new"], 6)


async def test_a_message_that_a_node_rebuilds_keeps_its_log_probabilities():
    model = ScriptedChat(scripts=[[ScriptedTurn(text="hi there", entropy=[0.1, 0.2])]])

    async def think(state: MessagesState) -> dict:
        said = await model.ainvoke(state["messages"])
        return {"messages": [AIMessage(content=said.content)]}

    builder = StateGraph(MessagesState)
    builder.add_node("think", think)
    builder.add_edge(START, "think")
    graph = entropy_centroid_graph(builder.compile(), n=2, selector=LowestMeanEntropy())
    state = await graph.ainvoke(ASK)
    assert state["selection"]["candidates"][0]["value"] == pytest.approx(0.15)


@pytest.mark.parametrize("winner", range(3))
async def test_nothing_stays_beside_the_database_whoever_wins(database: Path, winner: int):
    class Chosen:
        name = "chosen"

        def select(self, rollouts):
            return First().select([rollouts[winner]])

    agent = sqlite_agent([[f"INSERT INTO t VALUES ({i})"] for i in range(3)])
    graph = entropy_centroid_graph(agent, n=3, environments=[SqliteEnvironment(database)], selector=Chosen())
    await graph.ainvoke(ASK)
    assert rows(database) == [winner]
    assert [path.name for path in database.parent.iterdir()] == ["world.db"]


def test_an_effect_in_metadata_that_is_none_is_refused_by_name():
    labelled = look.model_copy(update={"metadata": {"effect": "read"}})
    agent = create_agent(ScriptedChat(scripts=[]), [labelled])
    with pytest.raises(EffectError, match="'look' declares the effect 'read'; it must be READ"):
        entropy_centroid_graph(agent)


async def test_what_a_rollout_changes_in_place_stays_its_own():
    class Noting(MessagesState):
        notes: list[str]

    model = ScriptedChat(scripts=[[ScriptedTurn(text=f"answer {i}", entropy=[0.1 + i])] for i in range(3)])

    async def think(state: Noting) -> dict:
        said = await model.ainvoke(state["messages"])
        state["notes"].append(said.text)
        return {"messages": [said], "notes": state["notes"]}

    builder = StateGraph(Noting)
    builder.add_node("think", think)
    builder.add_edge(START, "think")
    graph = entropy_centroid_graph(builder.compile(), n=3, selector=LowestMeanEntropy())
    state = await graph.ainvoke({**ASK, "notes": ["mine"]})
    assert state["notes"] == ["mine", "answer 0"]


async def test_threads_that_a_cut_off_request_left_are_not_taken_up_again(database: Path):
    asked: list[int] = []

    def script(messages) -> ScriptedTurn:
        if len(messages) == 1:
            return ScriptedTurn(tool_calls=[("execute", {"sql": "INSERT INTO t VALUES (1)"})], entropy=entropy(False))
        asked.append(1)
        return ScriptedTurn(text="done", entropy=entropy(False), delay_seconds=3600.0 if len(asked) <= 2 else 0.0)

    agent = create_agent(ScriptedChat(scripts=[script]), sql_tools())
    saver = InMemorySaver()
    graph = entropy_centroid_graph(
        agent,
        n=2,
        environments=[SqliteEnvironment(database)],
        checkpointer=InMemorySaver(),
        rollout_checkpointer=saver,
        selector=First(),
    )
    config = {"configurable": {"thread_id": "one"}}
    run = asyncio.create_task(graph.ainvoke(ASK, config))
    while len(asked) < 2:  # noqa: ASYNC110  nothing tells
        await asyncio.sleep(0.01)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert [checkpoint async for checkpoint in saver.alist(None)] == []
    state = await graph.ainvoke(None, config)
    assert [message.type for message in state["messages"]] == ["human", "ai", "tool", "ai"]
    assert rows(database) == [1]


def test_two_tools_of_one_name_are_both_checked():
    declared = look.model_copy(update={"metadata": {"effect": "READ"}})
    builder = StateGraph(MessagesState)
    builder.add_node("first", ToolNode([look]))
    builder.add_node("second", ToolNode([declared]))
    builder.add_edge(START, "first")
    builder.add_edge("first", "second")
    with pytest.raises(EffectError, match="two tools are named 'look', and what they do differs"):
        ParallelRollouts(builder.compile())


async def test_a_clean_up_that_fails_does_not_undo_the_commit(database: Path):
    class Stubborn(InMemorySaver):
        deletions = 0

        async def adelete_thread(self, thread_id: str) -> None:
            Stubborn.deletions += 1
            if Stubborn.deletions > 2:
                raise ConnectionError("the store is gone")

    agent = sqlite_agent([["INSERT INTO t VALUES (1)"], ["INSERT INTO t VALUES (2)"]])
    environments = [SqliteEnvironment(database)]
    graph = entropy_centroid_graph(
        agent, n=2, environments=environments, rollout_checkpointer=Stubborn(), selector=First()
    )
    state = await graph.ainvoke(ASK)
    assert state["messages"][-1].text == "answer 0" and rows(database) == [1]


def test_an_agent_of_sync_nodes_under_sync_invoke_does_not_wait_for_itself():
    model = ScriptedChat(scripts=[[ScriptedTurn(text="hi", entropy=[0.1], delay_seconds=0.05)]])

    def think(state: MessagesState) -> dict:
        return {"messages": [model.invoke(state["messages"])]}

    builder = StateGraph(MessagesState)
    builder.add_node("think", think)
    builder.add_edge(START, "think")
    graph = entropy_centroid_graph(builder.compile(), n=70, selector=First())
    assert graph.invoke(ASK)["messages"][-1].text == "hi"


@pytest.mark.parametrize("selector", ["majority", 5, First])
def test_what_is_no_selector_is_refused_before_a_model_call(selector):
    with pytest.raises(ConfigurationError, match="is no selector"):
        EntropyCentroidSelector(selector=selector)


async def test_a_selector_that_chooses_who_is_not_there_is_told_so(database: Path):
    class Elsewhere:
        name = "elsewhere"

        def select(self, rollouts: Any) -> Selection:
            return Selection(winner=77, selector=self.name, reason="why not")

    statements = [["INSERT INTO t VALUES (1)"]] * 2
    agent = sqlite_agent(statements)
    graph = entropy_centroid_graph(agent, n=2, environments=[SqliteEnvironment(database)], selector=Elsewhere())
    with pytest.raises(ConfigurationError, match="chose rollout 77, which is not among the 2 that finished"):
        await graph.ainvoke(ASK)
    assert rows(database) == []
