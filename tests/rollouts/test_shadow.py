"""Shadow mode: what is committed is what the agent alone would have done, whatever the selector makes of it."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.errors import GraphRecursionError
from langgraph.graph import START, MessagesState, StateGraph

from entcent_agents.chat.model import ChatLogprobs
from entcent_agents.chat.sampling import SamplingPool, rollout_index
from entcent_agents.effects import EXTERNAL, READ
from entcent_agents.environments import DirectoryEnvironment, DirectoryFork, current_environment
from entcent_agents.errors import ConfigurationError
from entcent_agents.nodes import EntropyCentroidSelector, Retries
from entcent_agents.prebuilt import entropy_centroid_graph
from entcent_agents.selection import Selection
from entcent_agents.testing import ScriptedChat, ScriptedTurn
from entcent_agents.trajectory import Rollout
from tests.chat_server import ChatServer, Reply, Request, says
from tests.rollouts.worlds import ASK, World, turn
from tests.whole_graphs.comparing import (
    LIVE_OR_HELD,
    ROLLOUTS,
    Chosen,
    assert_asks_the_same,
    assert_same_as_alone,
    plain,
)
from tests.whole_graphs.test_interrupts import asking_graph
from tests.whole_graphs.test_memory import EFFECTS, HELD, contents, notebook, remembering_graph
from tests.whole_graphs.test_send import mapping_graph

REQUESTS = [{"messages": [HumanMessage("first")]}, {"messages": [HumanMessage("second")]}]
ONCE = Retries(attempts=1)
FAILS = ScriptedTurn(error=RuntimeError("the secret text"))


def shadowed(scripts: Sequence[Any], tools: Sequence[Any] = (), **settings: Any):
    settings = {"n": len(scripts), "shadow": True, "retries": ONCE, **settings}
    return entropy_centroid_graph(create_agent(ScriptedChat(scripts=scripts), list(tools)), **settings)


def answers(n: int) -> list[list[ScriptedTurn]]:
    return [[turn(f"answer {i}", early=i == n - 1)] for i in range(n)]


@ROLLOUTS
async def test_a_graph_that_maps_and_joins_gives_what_it_gives_alone(n: int):
    await assert_same_as_alone(mapping_graph(), REQUESTS, n, shadow=True)


@ROLLOUTS
async def test_a_graph_that_asks_a_person_asks_what_it_asks_alone(n: int):
    await assert_asks_the_same(asking_graph(), ["shorter", "good"], n, shadow=True)


@ROLLOUTS
@pytest.mark.parametrize("effects", [EFFECTS, HELD])
async def test_the_store_holds_what_the_agent_alone_remembers(n: int, effects: dict[str, Any]):
    stores = notebook(), notebook()
    await assert_same_as_alone(remembering_graph(), REQUESTS, n, stores=stores, effects=effects, shadow=True)
    assert contents(stores[1]) == contents(stores[0])
    assert "note 0" in contents(stores[1])


async def test_environments_hold_what_the_first_rollout_wrote(tmp_path: Path):
    @tool
    def write(text: str) -> str:
        """Write the file."""
        fork = current_environment()
        assert isinstance(fork, DirectoryFork)
        (fork.path / "file").write_text(text)
        return "written"

    folder = tmp_path / "work"
    folder.mkdir()
    scripts = [[turn("", ("write", {"text": f"by {i}"}), early=i == 2), turn("done", early=i == 2)] for i in range(3)]
    effects = {"write": "WRITE"}
    environments = [DirectoryEnvironment(folder, name="work")]
    result = await shadowed(scripts, [write], effects=effects, environments=environments).ainvoke(ASK)
    assert (folder / "file").read_text() == "by 0"
    assert result["selection"]["shadow"]["winner"] == 2
    assert [path.name for path in folder.iterdir()] == ["file"]


@LIVE_OR_HELD
async def test_calls_are_those_of_the_first_rollout_once_in_every_round(world: World, effect: Any):
    scripts = [
        [turn("", ("send", {"to": f"a{i}"})), turn("", ("send", {"to": f"b{i}"})), turn(f"answer {i}")]
        for i in range(3)
    ]
    settings = {"effects": {"send": effect, "look": READ, "confirm": READ}, "selector": Chosen(2)}
    graph = shadowed(scripts, world.tools, **settings)
    updates = [update async for update in graph.astream(ASK, stream_mode="updates")]
    selections = [update["select"]["selection"] for update in updates if "select" in update]
    assert [(each["winner"], each["shadow"]["winner"]) for each in selections] == [(0, 2)] * len(selections)
    if effect == EXTERNAL:
        assert len(selections) == 3
        assert world.sent == ["a0", "b0"]


# Against a server that gives the same for the same: choice i of a request depends on body, seed and i alone.


@tool
def search(query: str) -> str:
    """Search."""
    return f"found {query}"


def deterministic(request: Request) -> list[Reply]:
    asked = json.dumps(request.body["messages"], sort_keys=True)
    replies = []
    for choice in range(request.n):
        drawn = crc32(f"{asked} {request.body.get('seed', 0) + choice}".encode())
        calling = "tools" in request.body and asked.count('"role": "tool"') < 2
        calls = [("search", json.dumps({"query": f"q{drawn % 7}"}))] if calling else []
        replies.append(says(f"thought {drawn}", tool_calls=calls, call_id=f"call{drawn}"))
    return replies


def uncounted(state: dict[str, Any]) -> Any:
    """The state without usage: of a request that rollouts share, each has a share."""
    messages = [
        {key: value for key, value in each.items() if key != "usage_metadata"} for each in plain(state)["messages"]
    ]
    return {**plain(state), "messages": messages}


@pytest.mark.parametrize("model", [{}, {"seed": 7}, {"seed": 7, "coalesce": False}])
@pytest.mark.parametrize("max_n", [None, 2])
async def test_on_a_deterministic_server_requests_and_answers_are_the_plain_agents(
    model: dict[str, Any], max_n: int | None
):
    with ChatServer(deterministic, max_n=max_n) as server:
        agent = create_agent(ChatLogprobs(model="m", base_url=server.base_url, **model), [search])
        expected = await agent.ainvoke(ASK)
        alone = [request.body for request in server.answered]
        server.requests.clear()
        settings: dict[str, Any] = {"effects": {"search": READ}, "seed": 99, "shadow": True}
        result = await entropy_centroid_graph(agent, n=4, selector=Chosen(3), **settings).ainvoke(ASK)
        asked = [{key: value for key, value in each.body.items() if key != "n"} for each in server.answered]
    same = uncounted if model.get("coalesce", True) else plain
    assert same(result) == same(expected)
    assert len(alone) == 3
    assert [body for body in alone if body not in asked] == []
    assert {request.n for request in server.answered} >= ({1} if not model.get("coalesce", True) else {max_n or 4})


async def test_choices_go_to_rollouts_in_their_order_whoever_asks_first():
    async def send(n: int, seed: int | None, listeners: Any) -> list[Any]:
        sent.append((n, seed))
        return [f"choice {i}" for i in range(n)]

    async def ask(index: int) -> Any:
        rollout_index.set(index)
        return await pool.sample("caller", "prompt", send, own_seed=7 + index)

    for plain_first, indices in ((True, (2, 0, 1)), (True, (2, 1)), (False, (2, 0, 1))):
        sent: list[Any] = []
        pool = SamplingPool(99, plain_first=plain_first)
        given = dict(zip(indices, await asyncio.gather(*(ask(index) for index in indices)), strict=True))
        assert [given[index] for index in sorted(indices)] == [f"choice {i}" for i in range(len(indices))]
        ((n, seed),) = sent
        assert n == len(indices)
        assert (seed == 7) == (plain_first and 0 in indices)


# A selector that is only tried out can do no harm.


class Broken:
    name = "broken"

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def select(self, rollouts: Sequence[Rollout]) -> Selection:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    ("answer", "error", "reason"),
    [
        (RuntimeError("the secret text"), "RuntimeError", "RuntimeError"),
        (Selection(winner=None, selector="broken", reason="too few tokens"), None, "too few tokens"),
        (Selection(winner=5, selector="broken", reason=""), "ConfigurationError: ", "which is not among the 2"),
        (Selection(winner=1, selector="broken", reason=lambda: None), "TypeError", "TypeError"),
        (None, "AttributeError", "AttributeError"),
    ],
)
async def test_what_goes_wrong_in_the_selector_is_recorded_and_fails_no_request(answer: Any, error: Any, reason: str):
    result = await shadowed(answers(2), selector=Broken(answer), checkpointer=InMemorySaver()).ainvoke(
        ASK, {"configurable": {"thread_id": "t"}}
    )
    assert result["messages"][-1].text == "answer 0"
    shadow = result["selection"]["shadow"]
    assert shadow["winner"] is shadow["same_rollout"] is shadow["same_outcome"] is None
    assert shadow["error"] == error or shadow["error"].startswith(error)
    assert reason in shadow["reason"]


async def test_missing_log_probabilities_are_recorded():
    result = await shadowed([[ScriptedTurn(text="answer")]] * 2).ainvoke(ASK)
    assert result["messages"][-1].text == "answer"
    assert result["selection"]["shadow"]["error"].startswith("LogprobsMissingError: ")


async def test_what_would_have_been_has_its_reason_candidates_and_outcome():
    result = await shadowed([[turn("same")], [turn("other")], [turn("same")]], selector=Chosen(2)).ainvoke(ASK)
    selection = result["selection"]
    assert (selection["winner"], selection["selector"]) == (0, "shadow")
    assert selection["reason"] == "the first rollout, as if the agent ran alone"
    shadow = selection["shadow"]
    assert (shadow["winner"], shadow["same_rollout"], shadow["same_outcome"]) == (2, False, True)
    assert len(shadow["candidates"]) == 3 and shadow["reason"] == "distance 0 is the lowest of 3"


# What a plain agent survives, a shadowed request survives.


async def test_where_the_first_rollout_failed_the_next_takes_its_place_and_the_result_says_so():
    result = await shadowed([[FAILS], *answers(3)[1:]]).ainvoke(ASK)
    assert result["messages"][-1].text == "answer 1"
    assert result["selection"]["winner"] == 1
    assert result["selection"]["reason"] == (
        "the first rollout is failed (RuntimeError), and this is the next that is not"
    )


async def test_a_missed_quorum_is_recorded_and_the_first_rollout_answers():
    result = await shadowed([*answers(2), [FAILS], [FAILS]], min_finished=3).ainvoke(ASK)
    assert result["messages"][-1].text == "answer 0"
    assert result["selection"]["shadow"]["reason"] == "2 rollouts finished, 3 needed"


async def test_where_all_rollouts_fail_one_plain_run_answers():
    result = await shadowed([[FAILS], [FAILS], [ScriptedTurn(text="plain")]], n=2).ainvoke(ASK)
    assert result["messages"][-1].text == "plain"
    assert result["selection"]["reason"] == "no rollout finished, and this is one plain run"
    assert result["selection"]["shadow"]["reason"] == "0 rollouts finished, 1 needed"


async def test_where_that_fails_too_its_own_error_is_raised():
    with pytest.raises(ZeroDivisionError, match="as ever"):
        await shadowed([[FAILS], [FAILS], [ScriptedTurn(error=ZeroDivisionError("as ever"))]], n=2).ainvoke(ASK)


@pytest.mark.parametrize("error", [NotImplementedError("not here"), NameError("undefined"), ConfigurationError("no")])
async def test_programming_errors_count_in_the_first_rollout_alone(error: Exception):
    broken = [ScriptedTurn(error=error)]
    result = await shadowed([*answers(1), broken, broken]).ainvoke(ASK)
    assert result["messages"][-1].text == "answer 0"
    with pytest.raises(type(error), match=str(error)):
        await shadowed([broken, *answers(2)]).ainvoke(ASK)


async def test_the_first_rollout_has_the_callers_limit_of_supersteps(world: World):
    looks = [*(turn("", ("look", {"x": i})) for i in range(4)), turn("done")]
    effects = dict.fromkeys(("look", "send", "confirm"), READ)
    graph = shadowed([looks, looks], world.tools, effects=effects, recursion_limit=5)
    with pytest.raises(GraphRecursionError, match="limit of 4 reached"):
        await graph.ainvoke(ASK, {"recursion_limit": 4})
    updates = [update async for update in graph.astream(ASK, stream_mode="updates")]
    records = next(update["rollouts"]["rollouts"] for update in updates if "rollouts" in update)
    assert [(record["status"], record["error"]) for record in records] == [
        ("finished", None),
        ("failed", "GraphRecursionError"),
    ]


async def test_a_question_of_another_rollout_that_nobody_will_be_asked_fails_nothing(world: World, tmp_path: Path):
    scripts = [*answers(1), [turn("", ("confirm", {"question": "?"})), turn("done")]]
    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "parent.db")) as saver:
        graph = shadowed(
            scripts, world.tools, effects=dict.fromkeys(("look", "send", "confirm"), READ), checkpointer=saver
        )
        config: Any = {"configurable": {"thread_id": "t"}}
        result = await graph.ainvoke(ASK, config)
        assert result["messages"][-1].text == "answer 0"
        assert not (await graph.aget_state(config)).next


def test_a_selector_without_its_rollouts_cannot_shadow():
    with pytest.raises(ConfigurationError, match="shadow=True needs the node of the rollouts"):
        EntropyCentroidSelector(shadow=True)


# How a team counts.


async def test_each_round_is_one_structured_line_without_text(world: World, caplog: pytest.LogCaptureFixture):
    scripts = [[turn("secret", ("send", {"to": f"secret {i}"})), turn("secret", early=i == 1)] for i in range(2)]
    graph = shadowed(scripts, world.tools, effects={"look": READ, "confirm": READ}, selector=Chosen(1))
    with caplog.at_level(logging.INFO, "entcent_agents.shadow"):
        await graph.ainvoke(ASK)
        await shadowed(answers(2), selector=Broken(RuntimeError("secret"))).ainvoke(ASK)
    lines = [json.loads(record.message) for record in caplog.records if record.name == "entcent_agents.shadow"]
    assert [record.shadow for record in caplog.records if record.name == "entcent_agents.shadow"] == lines
    keys = ("round", "candidates", "committed", "chosen", "same_rollout", "same_outcome", "selector", "error")
    assert [tuple(line[key] for key in keys) for line in lines] == [
        (1, 2, 0, 1, False, False, "chosen", None),
        (2, 2, 0, 1, False, True, "chosen", None),
        (1, 2, 0, None, None, None, "none", "RuntimeError"),
    ]
    assert lines[0]["request"] == lines[1]["request"] != lines[2]["request"]
    assert "secret" not in caplog.text


async def test_the_line_is_not_seen_where_nobody_asks_for_it(capfd: pytest.CaptureFixture[str]):
    await shadowed(answers(2)).ainvoke(ASK)
    assert capfd.readouterr() == ("", "")


async def test_without_shadow_nothing_is_recorded_of_it(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO):
        result = await shadowed(answers(2), shadow=False).ainvoke(ASK)
    assert "shadow" not in result["selection"]
    assert "entcent_agents.shadow" not in {record.name for record in caplog.records}
    assert result["messages"][-1].text == "answer 1"


async def test_nodes_that_take_their_time_in_another_order_change_nothing():
    with ChatServer(deterministic) as server:
        model = ChatLogprobs(model="m", base_url=server.base_url)
        started: list[int] = []

        async def answer(state: MessagesState) -> dict[str, Any]:
            started.append(len(started))
            await asyncio.sleep(0.01 if started[-1] == 0 else 0.0)  # within the time that calls are waited for
            return {"messages": [await model.ainvoke(state["messages"])]}

        agent = StateGraph(MessagesState).add_node(answer).add_edge(START, "answer").compile()
        expected = await agent.ainvoke(ASK)
        started.clear()
        server.requests.clear()
        result = await entropy_centroid_graph(agent, n=4, shadow=True, selector=Chosen(2)).ainvoke(ASK)
        assert [request.n for request in server.answered] == [4]
    assert uncounted(result) == uncounted(expected)
