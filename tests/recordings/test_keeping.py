"""Rollouts recorded as they are made: which, with what of their text, for how long, by several processes."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import subprocess
import sys
import threading
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph

from entcent_agents.chat.model import ChatLogprobs
from entcent_agents.effects import EXTERNAL, READ
from entcent_agents.errors import ConfigurationError
from entcent_agents.nodes import EntropyCentroidSelector, ParallelRollouts, RolloutsState
from entcent_agents.prebuilt import entropy_centroid_graph
from entcent_agents.recordings import Records, read_recordings
from entcent_agents.recordings.appending import append_lines
from entcent_agents.recordings.keeping import RecordedRound
from entcent_agents.testing import ScriptedChat
from entcent_agents.trajectory import Rollout
from tests.chat_server import ChatServer, Reply, Token, says
from tests.whole_graphs.comparing import Chosen
from tests.whole_graphs.comparing import says as turn

ASK = {"messages": [("user", "the secret question of 4111111111111111")]}


@tool
def look(card: int, note: str) -> str:
    """Look."""
    return f"secret result of {card}"


def graph_of(records: Records, n: int = 3, **settings: Any) -> Any:
    scripts = [
        [turn(f"secret thought {i}", ("look", {"card": 4111111111111111, "note": 'sécret "x"'})), turn(f"answer {i}")]
        for i in range(n)
    ]
    agent = create_agent(ScriptedChat(scripts=scripts), [look])
    settings = {"effects": {"look": READ}, "selector": Chosen(1), "records": records, **settings}
    return entropy_centroid_graph(agent, n=n, **settings)


def lines_in(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()]


async def test_without_the_setting_nothing_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    agent = create_agent(ScriptedChat(scripts=[[turn("fine")]]), [])
    await entropy_centroid_graph(agent, n=1).ainvoke(ASK)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(("which", "indices"), [("selected", [1]), ("all", [0, 1, 2])])
async def test_the_selected_rollout_or_all_of_a_round_are_kept_for_scoring(tmp_path: Path, which: Any, indices: Any):
    await graph_of(Records(tmp_path / "kept", which=which)).ainvoke(ASK)
    kept = lines_in(tmp_path / "kept")
    assert [line["rollout"]["index"] for line in kept] == indices
    assert [line["selected"] for line in kept] == [index == 1 for index in indices]
    (candidates,) = read_recordings([*(tmp_path / "kept").iterdir()])
    assert [each.rollout.status for each in candidates] == ["finished"] * len(indices)
    assert candidates[0].rollout.trajectory.mean_entropy == pytest.approx(0.1)
    assert ((tmp_path / "kept").stat().st_mode & 0o077, next((tmp_path / "kept").iterdir()).stat().st_mode & 0o077) == (
        0,
        0,
    )


async def test_each_round_of_a_request_is_a_task(tmp_path: Path):
    await graph_of(Records(tmp_path, which="all"), effects={"look": EXTERNAL}).ainvoke(ASK)
    kept = lines_in(tmp_path)
    statuses = [
        [line["rollout"]["status"] for line in kept if line["task"] == task] for task in {k["task"] for k in kept}
    ]
    assert sorted(statuses) == [["finished"] * 3, ["held"] * 3]


async def test_by_default_there_is_no_word_of_the_content(tmp_path: Path):
    await graph_of(Records(tmp_path, which="all")).ainvoke(ASK)
    written = "".join(path.read_text() for path in tmp_path.iterdir())
    assert not re.search("secret|4111111111111111|answer|look", written)
    assert "messages" not in lines_in(tmp_path)[0]
    assert {*lines_in(tmp_path)[0]["rollout"]["turns"][0]["logprobs"]}.isdisjoint({"text", "offsets", "ids"})


async def test_with_text_the_conversation_and_the_tokens_are_kept(tmp_path: Path):
    await graph_of(Records(tmp_path, text=True)).ainvoke(ASK)
    (line,) = lines_in(tmp_path)
    assert [(message["type"], message["content"]) for message in line["messages"]] == [
        ("human", "the secret question of 4111111111111111"),
        ("ai", "secret thought 1"),
        ("tool", "secret result of 4111111111111111"),
        ("ai", "answer 1"),
    ]
    assert line["messages"][1]["tool_calls"][0]["args"] == {"card": 4111111111111111, "note": 'sécret "x"'}
    assert line["rollout"]["output"] is None  # the packed state is no text that could be redacted


@pytest.mark.parametrize(("redacted", "kept"), [("nothing", True), ("thought", False), ("question", False)])
async def test_what_tokens_say_is_kept_where_the_redactor_leaves_all_as_it_is(
    tmp_path: Path, redacted: str, kept: bool
):
    records = Records(tmp_path, text=True, redact=lambda text: text.replace(redacted, "***"))
    with ChatServer([says("a deep thought")]) as server:
        agent = create_agent(ChatLogprobs(model="m", base_url=server.base_url), [])
        await entropy_centroid_graph(agent, n=1, records=records).ainvoke(ASK)
    ((candidate,),) = read_recordings([*tmp_path.iterdir()])
    (turn,) = candidate.rollout.trajectory.turns
    assert turn.logprobs.text == (b"a deep thought" if kept else b"")
    assert turn.scored_tokens == 3


def masked(text: str) -> str:
    return re.sub(r"s[eé]cret|41{15}", "***", text)


async def test_redaction_reaches_every_text_escaped_text_and_numbers(tmp_path: Path):
    config: Any = {"configurable": {"thread_id": "secret-thread"}}
    graph = graph_of(Records(tmp_path, which="all", text=True, redact=masked), checkpointer=InMemorySaver())
    await graph.ainvoke(ASK, config)
    kept = lines_in(tmp_path)
    written = "".join(path.read_text() for path in tmp_path.iterdir())
    assert not re.search(r"s[eé]cret|s\\u00e9cret|41{15}", written)
    assert kept[0]["messages"][1]["tool_calls"][0]["args"] == {"card": "***", "note": '*** "x"'}
    assert kept[0]["task"].startswith("***-thread:")
    assert all("text" not in turn["logprobs"] for line in kept for turn in line["rollout"]["turns"])
    (candidates,) = read_recordings([*tmp_path.iterdir()])
    assert len(candidates) == 3 and candidates[0].rollout.trajectory.mean_entropy == pytest.approx(0.1)


async def test_of_a_rollout_that_failed_tokens_are_kept_only_where_nothing_is_redacted(tmp_path: Path):
    @tool
    def fail(x: str) -> str:
        """Fail."""
        raise ValueError("secret")

    call = ("fail", json.dumps({"x": "sécret"}))  # escaped, and so in the tokens of a text tool call too
    for folder, redact in (("clean", masked), ("plain", None)):
        records = Records(tmp_path / folder, which="all", text=True, redact=redact)
        with ChatServer(lambda request: [says("call", tool_calls=[call]), says("done")]) as server:
            agent = create_agent(ChatLogprobs(model="m", base_url=server.base_url), [fail])
            await entropy_centroid_graph(agent, n=2, effects={"fail": READ}, records=records).ainvoke(ASK)
        failed = [line["rollout"] for line in lines_in(tmp_path / folder) if line["rollout"]["status"] == "failed"]
        assert [("text" in turn["logprobs"]) for line in failed for turn in line["turns"]] == [redact is None]
        assert "secret" not in "".join(line["error"] for line in failed)


async def test_text_of_tokens_reaches_no_checkpoint_although_it_is_recorded(tmp_path: Path):
    saver = InMemorySaver()
    graph = graph_of(Records(tmp_path, text=True), checkpointer=saver)
    await graph.ainvoke(ASK, {"configurable": {"thread_id": "t"}})
    records = [
        record
        async for saved in saver.alist(None)
        for record in saved.checkpoint["channel_values"].get("rollouts") or ()
    ]
    assert len(records) == 3
    assert all({*turn["logprobs"]}.isdisjoint({"text", "ids"}) for record in records for turn in record["turns"])
    assert (
        "tokens" in lines_in(tmp_path)[0]["rollout"] or lines_in(tmp_path)[0]["rollout"]["turns"][0]["logprobs"]["text"]
    )


@pytest.mark.parametrize("foreign", [False, True])
async def test_what_the_server_says_of_tokens_reaches_no_checkpoint(tmp_path: Path, foreign: bool):
    outer, inner = InMemorySaver(), Threads()
    tokens = [Token(says="fine", probabilities=(0.6, 0.4), names=["fine", "ALTERNATIVE"])]
    with ChatServer([Reply(tokens=tokens)]) as server:
        model: Any = ChatLogprobs(model="m", base_url=server.base_url)
        if foreign:
            model = ChatOpenAI(
                model="m", base_url=server.base_url, api_key="k", logprobs=True, top_logprobs=2, use_responses_api=False
            )
        settings: Any = {"records": Records(tmp_path, text=True), "rollout_checkpointer": inner, "checkpointer": outer}
        result = await entropy_centroid_graph(create_agent(model, []), n=2, **settings).ainvoke(
            ASK, {"configurable": {"thread_id": "t"}}
        )
    assert result["selection"]["candidates"][0]["value"] is not None  # it was scored
    kept = [[saved async for saved in saver.alist(None)] for saver in (outer, inner)]
    assert kept[0] and kept[1] and "fine" in repr(kept[1])
    assert "ALTERNATIVE" not in repr(kept)
    assert "ALTERNATIVE" not in "".join(path.read_text() for path in tmp_path.iterdir())


class Threads(InMemorySaver):
    """Forgets nothing."""

    async def adelete_thread(self, thread_id: str) -> None:
        pass


def broken(text: str) -> str:
    raise RuntimeError(f"no: {text}")


async def test_a_redactor_that_fails_writes_nothing_and_fails_no_request(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    result = await graph_of(Records(tmp_path, redact=broken)).ainvoke(ASK)
    assert result["messages"][-1].text == "answer 1"
    assert [*tmp_path.iterdir()] == []
    (said,) = [record for record in caplog.records if record.name == "entcent_agents.nodes.records"]
    assert said.levelno == logging.WARNING and "secret" not in said.getMessage()


async def test_a_folder_that_cannot_be_written_fails_no_request(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "folder"
    result = await graph_of(Records(folder)).ainvoke(ASK)
    assert result["messages"][-1].text == "answer 1"
    assert f"were not recorded in {folder}: NotADirectoryError" in caplog.text


async def test_the_event_loop_goes_on_while_a_record_is_written(tmp_path: Path):
    thread: list[int] = []
    waiting, go = threading.Event(), threading.Event()

    def slow(text: str) -> str:
        thread.append(threading.get_ident())
        waiting.set()
        assert go.wait(10.0)
        return text

    running = asyncio.create_task(graph_of(Records(tmp_path, redact=slow)).ainvoke(ASK))
    assert await asyncio.to_thread(waiting.wait, 10.0)  # which the loop must be running for
    assert not running.done()
    go.set()
    await running
    assert threading.get_ident() not in thread


async def test_a_selector_that_fails_records_nothing_and_keeps_nothing(tmp_path: Path):
    agent = create_agent(ScriptedChat(scripts=[[turn("fine")]]), [])
    node = ParallelRollouts(agent, n=1)

    class Failing:
        name = "failing"

        def select(self, rollouts: Any) -> Any:
            raise ZeroDivisionError

    builder = StateGraph(RolloutsState)
    builder.add_node("rollouts", node)
    builder.add_node("select", EntropyCentroidSelector(node, selector=Failing(), records=Records(tmp_path, text=True)))
    builder.add_edge(START, "rollouts")
    builder.add_edge("rollouts", "select")
    builder.add_edge("select", END)
    with pytest.raises(ZeroDivisionError):
        await builder.compile().ainvoke(ASK)
    assert [*tmp_path.iterdir()] == []
    assert len(node.said) == 0


# Retention.


def written(folder: Path, now: datetime, **settings: Any) -> None:
    rollout = Rollout(index=0, thread_id="t:0", status="finished")
    Records(folder, **settings).add(RecordedRound(task="t", rollouts=[rollout], selected=0), lambda _: [], now)


def at(day: int, hour: int = 12) -> datetime:
    return datetime(2026, 3, day, hour, tzinfo=UTC)


def test_files_are_removed_when_their_day_is_too_long_ago(tmp_path: Path):
    for day in (1, 2, 3):
        written(tmp_path, at(day))
    for other in ("rollouts-2020-01-01.txt", "mine.jsonl", "rollouts-2020-99-99.jsonl"):
        (tmp_path / other).write_text("")
    written(tmp_path, at(4, 0), max_age_days=2)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [
        "mine.jsonl",
        "rollouts-2020-01-01.txt",
        "rollouts-2020-99-99.jsonl",
        "rollouts-2026-03-02.jsonl",
        "rollouts-2026-03-03.jsonl",
        "rollouts-2026-03-04.jsonl",
    ]
    assert Records(tmp_path, max_age_days=1).sweep(date(2026, 3, 5)) != []
    assert not (tmp_path / "rollouts-2026-03-03.jsonl").exists()
    assert (tmp_path / "rollouts-2026-03-04.jsonl").exists()


def test_without_an_age_nothing_is_removed(tmp_path: Path):
    written(tmp_path, at(1))
    written(tmp_path, at(28))
    assert Records(tmp_path).sweep(date(2030, 1, 1)) == []
    assert len([*tmp_path.iterdir()]) == 2


@pytest.mark.parametrize("settings", [{"which": "none"}, {"max_age_days": 0}, {"redact": "secret"}])
def test_settings_that_cannot_work_are_refused(tmp_path: Path, settings: dict[str, Any]):
    with pytest.raises(ConfigurationError, match="must be"):
        Records(tmp_path, **settings)


# Several writers.

WRITER = """
import sys
from pathlib import Path
from entcent_agents.recordings.appending import append_lines

for i in range(100):
    append_lines(Path(sys.argv[1]), [f"{sys.argv[2]} {i} {'x' * 70000}", f"{sys.argv[2]} {i} second"])
"""


def test_lines_of_several_processes_stay_whole_and_together(tmp_path: Path):
    path = tmp_path / "lines"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(name)]) for name in range(4)]
    assert [writer.wait(60) for writer in writers] == [0] * 4
    lines = path.read_text().splitlines()
    assert len(lines) == 800
    for first, second in zip(lines[::2], lines[1::2], strict=True):
        name, number, padding = first.split(" ")
        assert padding == "x" * 70000
        assert second == f"{name} {number} second"


def test_a_line_that_a_crash_cut_off_spoils_no_other(tmp_path: Path):
    path = tmp_path / "lines"
    path.write_text("whole\ncut o")
    assert append_lines(path, ["next"]) is False
    assert path.read_text() == "whole\ncut o\nnext\n"


def test_of_lines_that_do_not_fit_none_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "lines"
    path.write_text("whole\n")
    write = os.write

    def full(descriptor: int, data: Any) -> int:
        if len(data) <= 8:
            raise OSError(28, "No space left on device")
        return write(descriptor, bytes(data)[:8])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space"):
        append_lines(path, ["a line too long"])
    assert path.read_text() == "whole\n"
