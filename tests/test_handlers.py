"""Callback handlers of ours: one of them stands for several, and none hears of what it ignores."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from langchain_core.language_models.fake import FakeListLLM
from langchain_core.messages import BaseMessage
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph

from entcent_agents.capture.handlers import HandlerGroup, ModelAndToolHandler
from entcent_agents.capture.recorder import TurnRecorder
from entcent_agents.testing import ScriptedChat, ScriptedTurn


@tool
async def look(at: str) -> str:
    """See what is somewhere."""
    return f"{at} is there"


class Heard(ModelAndToolHandler):
    hears_starts = True
    hears_answers = True

    def __init__(self) -> None:
        self.events: list[str] = []

    def on_chain_start(self, *args: Any, **kwargs: Any) -> None:
        self.events.append("chain")

    def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
        self.events.append("model")

    def on_llm_start(self, *args: Any, **kwargs: Any) -> None:
        self.events.append("text model")

    def on_llm_end(self, *args: Any, **kwargs: Any) -> None:
        self.events.append("answer")

    def on_llm_error(self, *args: Any, **kwargs: Any) -> None:
        self.events.append("model error")

    def on_tool_start(self, *args: Any, **kwargs: Any) -> None:
        self.events.append("tool")

    def on_tool_end(self, *args: Any, **kwargs: Any) -> None:
        self.events.append("result")

    def on_tool_error(self, *args: Any, **kwargs: Any) -> None:
        self.events.append("tool error")


class Refusing(ModelAndToolHandler):
    def __init__(self, *, raises: bool) -> None:
        self.raise_error = raises

    def on_tool_start(self, *args: Any, **kwargs: Any) -> None:
        raise PermissionError("not this one")


def model(**turn: Any) -> ScriptedChat:
    return ScriptedChat(scripts=[[ScriptedTurn(**turn)]])


async def test_members_of_a_group_are_told_of_models_and_tools_and_not_of_steps():
    members = Heard(), Heard()

    async def node(state: MessagesState) -> dict[str, list[BaseMessage]]:
        await look.ainvoke({"at": "home"})
        return {"messages": [await model(text="Hi").ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState).add_node("node", node).add_edge(START, "node").compile()
    await graph.ainvoke({"messages": "Hello"}, {"callbacks": [HandlerGroup(*members)]})
    assert [member.events for member in members] == [["tool", "result", "model", "answer"]] * 2


async def test_members_of_a_group_are_told_of_models_without_messages():
    heard = Heard()
    await FakeListLLM(responses=["Hi"]).ainvoke("Hello", {"callbacks": [HandlerGroup(heard)]})
    assert heard.events == ["text model", "answer"]


async def test_members_of_a_group_are_told_of_errors():
    heard = Heard()
    with pytest.raises(ConnectionError):
        await model(error=ConnectionError()).ainvoke("Hello", {"callbacks": [HandlerGroup(heard)]})
    with pytest.raises(Exception, match="at"):
        await look.ainvoke({}, {"callbacks": [HandlerGroup(heard)]})
    assert heard.events == ["model", "model error", "tool", "tool error"]


async def test_a_member_that_refuses_a_tool_stops_it():
    with pytest.raises(PermissionError):
        await look.ainvoke({"at": "home"}, {"callbacks": [HandlerGroup(Heard(), Refusing(raises=True))]})


async def test_what_goes_wrong_in_a_member_that_only_watches_is_logged(caplog: pytest.LogCaptureFixture):
    heard = Heard()
    with caplog.at_level(logging.WARNING, "langchain_core"):
        said = await look.ainvoke({"at": "home"}, {"callbacks": [HandlerGroup(Refusing(raises=False), heard)]})
    assert said == "home is there" and heard.events == ["tool", "result"]
    assert "not this one" in caplog.text


async def test_a_recorder_in_a_group_gets_the_arrays_of_a_stream():
    recorder = TurnRecorder()
    config: Any = {"callbacks": [HandlerGroup(recorder)]}
    chunks = [chunk async for chunk in model(text="Hi", entropy=[0.5, 1.0]).astream("Hello", config)]
    (turn,) = recorder.turns.values()
    assert chunks and turn.scored_tokens == 2


async def test_events_of_a_stream_reach_a_recorder_in_a_group():
    recorder = TurnRecorder()
    config: Any = {"callbacks": [HandlerGroup(recorder)]}
    async for _ in model(text="Hi", entropy=[0.5, 1.0]).astream_events("Hello", config, version="v2"):
        pass
    (turn,) = recorder.turns.values()
    assert turn.scored_tokens == 2


async def test_a_start_that_nobody_hears_does_not_cost_a_text_of_the_conversation(monkeypatch: pytest.MonkeyPatch):
    def never(*args: Any, **kwargs: Any) -> str:
        raise AssertionError("the conversation was written as one text")

    monkeypatch.setattr("langchain_core.callbacks.manager.get_buffer_string", never)
    recorder = TurnRecorder()
    assert (await model(text="Hi").ainvoke("Hello", {"callbacks": [recorder]})).text == "Hi"
    assert len(recorder.turns) == 1
