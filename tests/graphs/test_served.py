"""The applications of langgraph.json under `langgraph dev`, called over HTTP, with a scripted model server."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from entcent_agents.selection.catalogue import named_selectors
from tests.chat_server import Reply, says
from tests.graphs.langgraph_dev import langgraph_dev
from tests.graphs.model import Model, calls, until
from tests.pages import block_with
from tools.documents import build as build_library
from tools.penguins import build as build_penguins

if find_spec("langgraph_api") is None or find_spec("langgraph_cli") is None:
    pytest.skip("langgraph dev is not there: pip install --editable '.[serve]'", allow_module_level=True)

from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient

pytestmark = pytest.mark.timeout(600)  # the server imports for a minute where the machine has other work
STORED = "CREATE TABLE mass AS SELECT species, avg(body_mass_g) AS mean FROM penguins GROUP BY species"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    (folder / "work").mkdir()
    (folder / "work" / "main.py").write_text("print('old')\n")
    (folder / "texts").mkdir()
    (folder / "texts" / "whales.md").write_text("Whales sing in winter.\n")
    build_library(folder / "library.db", folder / "texts")
    build_penguins(folder / "penguins.db")
    return folder


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    model = Model()
    with model.server:
        yield model


@pytest.fixture(scope="module")
def address(folder: Path, model: Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    environment = {
        "ENTCENT_MODEL": f"{model.server.base_url}#scripted",
        "ENTCENT_DB": str(folder / "penguins.db"),
        "ENTCENT_WORKSPACE": str(folder / "work"),
        "ENTCENT_DOCUMENTS": str(folder / "library.db"),
        "ENTCENT_STATE": str(folder / "state"),
    }
    with langgraph_dev(tmp_path_factory.mktemp("server"), environment) as address:
        yield address


@pytest.fixture
async def client(address: str) -> AsyncIterator[LangGraphClient]:
    async with get_client(url=address, api_key=None) as client:
        yield client


def asks(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


def tables(folder: Path) -> set[str]:
    with closing(sqlite3.connect(folder / "penguins.db")) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_schema")}


def forks(folder: Path) -> list[Path]:
    return list(folder.glob(".entcent-*/forks/*"))


@pytest.mark.parametrize("name", ["analyst", "coder", "researcher"])
async def test_studio_is_told_what_a_request_may_set(client: LangGraphClient, name: str):
    assistant = (await client.assistants.search(graph_id=name))[0]
    schema = (await client.assistants.get_schemas(assistant["assistant_id"]))["context_schema"]
    assert {"n", "temperature", "selector", "max_tokens", "max_seconds", "seed"} <= set(schema["properties"])
    assert schema["properties"]["n"]["default"] == 4 and schema["properties"]["n"]["maximum"] == 32
    assert schema["properties"]["selector"]["enum"] == list(named_selectors())


def test_the_client_of_the_documentation_streams_a_run(
    address: str, model: Model, folder: Path, capsys: pytest.CaptureFixture[str]
):
    stored = calls("execute", sql=STORED.replace("mass AS", "documented AS"))
    model.says(stored, calls("query", sql="SELECT * FROM documented"), says("It is stored."), own=1)
    shown = block_with("http://127.0.0.1:2024")
    exec(shown.replace("http://127.0.0.1:2024", address), {"__name__": "shown"})
    assert "It is stored." in capsys.readouterr().out
    assert "documented" in tables(folder)


async def test_a_run_is_streamed_as_its_context_says_and_shows_the_selected_rollout_alone(
    client: LangGraphClient, model: Model, folder: Path
):
    model.says(
        calls("execute", sql=STORED), calls("query", sql="SELECT * FROM mass"), says("Gentoo weigh the most."), own=1
    )
    thread = await client.threads.create()
    parts = [
        part
        async for part in client.runs.stream(
            thread["thread_id"],
            "analyst",
            input=asks("Store the mean mass of each species."),
            context={"n": 3, "temperature": 0.3, "selector": "majority vote"},
            stream_mode=["values", "messages-tuple"],
        )
    ]
    assert [part for part in parts if part.event == "error"] == []
    assert model.sampled(0) == 3
    assert {request.body["temperature"] for request in model.server.answered} == {0.3}
    state = [part.data for part in parts if part.event == "values"][-1]
    assert state["messages"][-1]["content"] == "Gentoo weigh the most."
    assert state["selection"]["selector"] == "majority vote"
    said = [part.data[0]["content"] for part in parts if part.event.startswith("messages")]
    assert said.count("Gentoo weigh the most.") == 1
    assert "mass" in tables(folder) and forks(folder) == []


async def test_a_run_in_the_background_is_joined(client: LangGraphClient, model: Model):
    model.says(
        says("I look it up.\n1. When do whales sing?"),
        calls("search", query="whale sings"),
        says("In winter [whales.md, part 1]."),
        says("Whales sing in winter [whales.md, part 1]."),
    )
    thread = (await client.threads.create())["thread_id"]
    run = await client.runs.create(thread, "researcher", input=asks("When do whales sing?"), context={"n": 2})
    state: Any = await client.runs.join(thread, run["run_id"])
    assert (await client.runs.get(thread, run["run_id"]))["status"] == "success"
    assert state["messages"][-1]["content"] == "Whales sing in winter [whales.md, part 1]."
    (found,) = [message["content"] for message in state["messages"] if message["type"] == "tool"]
    assert found == "[whales.md, part 1]\nWhales sing in winter."


async def test_a_plan_is_shown_and_the_run_goes_on_with_the_one_that_is_given(client: LangGraphClient, model: Model):
    model.says(says("1. Which birds sing?"), says("Whales do."), says("Whales, it says."))
    thread = (await client.threads.create())["thread_id"]
    context = {"n": 2, "approve_plan": True}
    await client.runs.wait(thread, "researcher", input=asks("Who sings?"), context=context)
    (question,) = (await client.threads.get_state(thread))["interrupts"]
    assert question["value"] == {"plan": ["Which birds sing?"]}
    state: Any = await client.runs.wait(
        thread, "researcher", command={"resume": ["Which whales sing?"]}, context=context
    )
    said = [message["content"] for message in state["messages"]]
    assert said[2] == "Which whales sing?" and said[-1] == "Whales, it says."


async def test_a_command_of_the_coder_runs_once_a_person_has_approved_it(
    client: LangGraphClient, model: Model, folder: Path
):
    model.says(
        calls("edit_file", path="main.py", old="old", new="new"),
        calls("run_command", command="python3 main.py; echo > made.txt"),
        says("It says new now."),
    )
    thread = (await client.threads.create())["thread_id"]
    await client.runs.wait(thread, "coder", input=asks("Say new."), context={"n": 2})
    (question,) = (await client.threads.get_state(thread))["interrupts"]
    assert question["value"]["action_requests"][0]["args"] == {"command": "python3 main.py; echo > made.txt"}
    assert (folder / "work" / "main.py").read_text() == "print('new')\n"
    resume = {"resume": {"decisions": [{"type": "approve"}]}}
    state: Any = await client.runs.wait(thread, "coder", command=resume, context={"n": 2})
    said = [message["content"] for message in state["messages"]]
    assert said[-2:] == ["new\n[exit code 0]", "It says new now."]
    assert [entry.name for entry in (folder / "work").iterdir()] == ["main.py"] and forks(folder) == []


@pytest.mark.slow
async def test_a_question_is_answered_after_the_server_was_started_again(model: Model, folder: Path, tmp_path: Path):
    environment = {
        "ENTCENT_MODEL": f"{model.server.base_url}#scripted",
        "ENTCENT_WORKSPACE": str(folder / "work"),
        "ENTCENT_STATE": str(tmp_path / "state"),
    }
    model.says(calls("run_command", command="python3 main.py"), says("It ran."))
    with langgraph_dev(tmp_path, environment, persistent=True) as address:
        async with get_client(url=address, api_key=None) as client:
            thread = (await client.threads.create())["thread_id"]
            await client.runs.wait(thread, "coder", input=asks("Run it."), context={"n": 2})
            asked = (await client.threads.get_state(thread))["interrupts"]
    sampled = model.sampled(0)
    with langgraph_dev(tmp_path, environment, persistent=True) as address:
        async with get_client(url=address, api_key=None) as client:
            assert (await client.threads.get_state(thread))["interrupts"] == asked
            resume = {"resume": {"decisions": [{"type": "approve"}]}}
            state: Any = await client.runs.wait(thread, "coder", command=resume, context={"n": 2})
    assert state["messages"][-1]["content"] == "It ran."
    assert model.sampled(0) == sampled == 2  # by the first server


async def test_a_cancelled_run_changes_nothing_and_goes_on_when_it_is_run_again(
    client: LangGraphClient, model: Model, folder: Path
):
    before = tables(folder)
    kept = calls("execute", sql="CREATE TABLE kept AS SELECT 1 AS a")
    model.says(kept, Reply(delay_seconds=float("inf")), own=1)
    thread = (await client.threads.create())["thread_id"]
    run = await client.runs.create(thread, "analyst", input=asks("Make a table."), context={"n": 2})
    await until(lambda: model.sampled(1) == 2)
    await client.runs.cancel(thread, run["run_id"], wait=True)
    assert (await client.runs.get(thread, run["run_id"]))["status"] == "interrupted"
    assert tables(folder) == before
    model.says(kept, calls("query", sql="SELECT a FROM kept"), says("One row."), own=1)
    state: Any = await client.runs.wait(thread, "analyst", input=None, context={"n": 2})
    assert state["messages"][-1]["content"] == "One row."
    assert tables(folder) == before | {"kept"} and forks(folder) == []
    assert model.sampled(0) == 0  # what was sampled before is not sampled again


async def test_a_context_that_cannot_be_is_an_error_that_says_why(client: LangGraphClient, model: Model):
    thread = (await client.threads.create())["thread_id"]
    model.says(says("never asked"))
    state: Any = await client.runs.wait(
        thread, "analyst", input=asks("Hi."), context={"selector": "best"}, raise_error=False
    )
    assert "no selector is named 'best'" in state["__error__"]["message"]
    assert model.server.answered == []
