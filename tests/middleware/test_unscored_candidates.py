"""Candidates without log-probabilities, without a model and without a word: they never win by the turns before them."""

from __future__ import annotations

from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import ModelRetryMiddleware
from langchain_openai import ChatOpenAI

from entcent_agents.effects import READ
from entcent_agents.errors import LogprobsMissingError
from entcent_agents.middleware import EntropyCentroidMiddleware
from entcent_agents.prebuilt import create_entropy_centroid_agent
from entcent_agents.selection import First, LowestMeanEntropy, MajorityVote
from entcent_agents.testing import ScriptedTurn
from tests.chat_server import ChatServer, Reply, Request, says
from tests.middleware.stepping import GO, WAYS, ask, chat, looking, said, stream, texts, turns

SELECTORS = pytest.mark.parametrize("selector", [None, LowestMeanEntropy(), MajorityVote().then(First())])
SURE = said("thinks", ("look", {"at": "here"}), entropy=0.01, tokens=400)


def calls(name: str, arguments: str) -> Reply:
    """A call as servers write it: without log-probabilities."""
    return Reply(tokens=(), tool_calls=[(name, arguments)], logprobs=False)


@WAYS
@SELECTORS
async def test_what_middleware_says_in_the_place_of_a_failed_model_is_not_chosen(way: str, selector: Any):
    def script(index: int) -> Any:
        down = ScriptedTurn(error=OSError("down"))
        return turns(SURE, down if index < 2 else said(f"answer{index}", entropy=0.3))

    retries = ModelRetryMiddleware(max_retries=0, initial_delay=0)  # says what failed, as a message
    middleware = [EntropyCentroidMiddleware(4, selector=selector), retries]
    agent = create_agent(chat(script), [looking([])], middleware=middleware)
    events = await stream(agent, way, stream_mode=["custom", "values"])
    step = [event for mode, event in events if mode == "custom" and event["type"] == "entcent.step"][-1]
    assert step["failed"] == 2 and {candidate["rollout"] for candidate in step["candidates"]} == {2, 3}
    assert [event for mode, event in events if mode == "values"][-1]["messages"][-1].text.startswith("answer")


@WAYS
async def test_where_all_failed_the_agent_hears_what_went_wrong(way: str):
    model = chat(lambda _: turns(ScriptedTurn(error=OSError("down"))))
    retries = ModelRetryMiddleware(max_retries=0, initial_delay=0)
    middleware = [EntropyCentroidMiddleware(4), retries]
    assert "OSError" in texts(await ask(create_agent(model, [], middleware=middleware), way))[-1]


@WAYS
@pytest.mark.parametrize("selector", [None, LowestMeanEntropy()])
async def test_a_turn_without_log_probabilities_does_not_win_by_the_turns_before_it(way: str, selector: Any):
    def script(index: int) -> Any:
        without = ScriptedTurn(text="unscored", generated_tokens=20)
        return turns(SURE, without if index == 0 else said(f"answer{index}", entropy=0.9))

    middleware = [EntropyCentroidMiddleware(3, selector=selector)]
    agent = create_agent(chat(script, 3), [looking([])], middleware=middleware)
    assert texts(await ask(agent, way))[-1].startswith("answer")


@WAYS
async def test_a_candidate_that_says_nothing_is_not_chosen_while_others_answer(way: str):
    silent, answer = ScriptedTurn(text="", entropy=[0.01]), said("answer", entropy=0.4)
    model = chat(lambda index: turns(silent if index == 0 else answer), 3)
    assert texts(await ask(create_agent(model, [], middleware=[EntropyCentroidMiddleware(3)]), way))[-1] == "answer"
    quiet = chat(lambda _: turns(silent), 3)
    assert texts(await ask(create_agent(quiet, [], middleware=[EntropyCentroidMiddleware(3)]), way))[-1] == ""


@pytest.fixture
def native() -> Any:
    """A server that writes calls itself, and an answer when it has their results."""

    def answer(request: Request) -> list[Reply]:
        seen = any(message["role"] == "tool" for message in request.body["messages"])
        return [says("answer") if seen else calls("look", '{"at": "x"}')] * request.n

    with ChatServer(answer) as server:
        yield server


@WAYS
async def test_turns_of_native_calls_alone_are_no_error(way: str, native: ChatServer):
    model: Any = ChatOpenAI(model="m", base_url=native.base_url, api_key="none", max_retries=0)  # type: ignore[arg-type]
    agent = create_agent(model, [looking([])], middleware=[EntropyCentroidMiddleware(2)])
    assert texts(await ask(agent, way))[-1] == "answer"


@WAYS
@pytest.mark.parametrize("effects", [{}, {"look": READ}], ids=["external", "read"])
async def test_rollouts_held_before_native_calls_are_no_error(way: str, native: ChatServer, effects: Any):
    model: Any = ChatOpenAI(model="m", base_url=native.base_url, api_key="none", max_retries=0)  # type: ignore[arg-type]
    seen: list[str] = []
    agent = create_entropy_centroid_agent(model, [looking(seen)], n=2, effects=effects)
    assert texts(await ask(agent, way))[-1] == "answer"
    assert seen == ["x"] or effects


def unscored(request: Request) -> list[Reply]:
    """As a server that gives no log-probabilities: text with a call, then text."""
    seen = any(message["role"] == "tool" for message in request.body["messages"])
    looks = Reply(tokens=says("I look.").tokens, tool_calls=[("look", '{"at": "x"}')], logprobs=False)
    return [says("answer", logprobs=False) if seen else looks] * request.n


@WAYS
async def test_text_without_log_probabilities_is_an_error_before_anything_is_done(way: str):
    seen: list[str] = []
    with ChatServer(unscored) as server:
        model: Any = ChatOpenAI(model="m", base_url=server.base_url, api_key="none", max_retries=0)  # type: ignore[arg-type]
        with pytest.raises(LogprobsMissingError):
            await ask(create_entropy_centroid_agent(model, [looking(seen)], n=2), way)
        with pytest.raises(LogprobsMissingError):
            await ask(create_agent(model, [looking(seen)], middleware=[EntropyCentroidMiddleware(2)]), way)
    assert seen == []


@WAYS
async def test_after_a_call_was_made_a_request_does_not_fail_for_want_of_log_probabilities(way: str):
    def answer(request: Request) -> list[Reply]:
        seen = any(message["role"] == "tool" for message in request.body["messages"])
        return [says("answer", logprobs=False) if seen else calls("look", '{"at": "x"}')] * request.n

    seen: list[str] = []
    with ChatServer(answer) as server:
        model: Any = ChatOpenAI(model="m", base_url=server.base_url, api_key="none", max_retries=0)  # type: ignore[arg-type]
        result = await ask(create_entropy_centroid_agent(model, [looking(seen)], n=2), way, GO)
    assert texts(result)[-1] == "answer" and seen == ["x"]
