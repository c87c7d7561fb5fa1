"""Every way to run a model: log-probabilities are captured once and whole, and nothing of them is in what is seen."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from langchain_core.callbacks import BaseCallbackHandler, UsageMetadataCallbackHandler
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.runnables import Runnable
from langchain_core.tools import tool
from langchain_core.tracers._streaming import _V2StreamingCallbackHandler
from langchain_core.tracers.base import BaseTracer

from entcent_agents.capture.recorder import TurnRecorder
from entcent_agents.chat.model import ChatLogprobs
from entcent_agents.chat.sampling import SamplingPool, plain_sampling, use_pool
from entcent_agents.errors import ModelServerError
from tests.chat_server import ChatServer, Reply, Request, Token, numbered, says

BETA = "ignore:.*(v3|beta|experimental|astream_log|version=.v1.).*"
"""What LangChain warns of in the ways that it has marked as beta or deprecated."""
pytestmark = pytest.mark.filterwarnings(BETA)

HALF, QUARTER = (0.5, 0.5), (0.25, 0.25, 0.25, 0.25)
ASK = [HumanMessage("Bees?")]


@tool
def search(query: str) -> str:
    """Search the library."""
    return f"all about {query}"


class Everything(BaseTracer):
    """Keeps all that a tracer is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []

    def _persist_run(self, run) -> None:
        self.told.append(run.model_dump_json())


class Listener(BaseCallbackHandler):
    """Makes LangChain stream what was not asked to be streamed, as LangGraph's and LangChain's own handlers do."""

    def __init__(self) -> None:
        self.pieces: list[str] = []

    def tap_output_aiter(self, run_id: Any, output: AsyncIterator[Any]) -> AsyncIterator[Any]:
        return output

    def tap_output_iter(self, run_id: Any, output: Iterator[Any]) -> Iterator[Any]:
        return output

    def on_llm_new_token(self, token: str, **kwargs: Any) -> None:
        self.pieces.append(token)


class ProtocolListener(BaseCallbackHandler, _V2StreamingCallbackHandler):
    """Listens to events, as version 3 of graph streams does."""


# Scripts: what the model says, with entropies that tell each token from the next


def spoken(*words: str) -> Reply:
    return Reply(tokens=[Token(says=w, probabilities=QUARTER if i % 2 else HALF) for i, w in enumerate(words)])


WORDS = ("It", " is", " a", " bee", ".")
TEXT_CALL = ("Let", " me", " look.", '\n```json\n{"name": "search"', ', "arguments": {"query": "bees"}}')
SCRIPTS: dict[str, Reply] = {
    "words": spoken(*WORDS),
    "native": Reply(tokens=spoken("I", " look").tokens, tool_calls=[("search", '{"query": "bees"}')]),
    "text": spoken(*TEXT_CALL),
}


def chat(server: ChatServer, **settings: Any) -> ChatLogprobs:
    return ChatLogprobs(**{"model": "scripted", "base_url": server.base_url, "max_retries": 0, **settings})


def bound(server: ChatServer, script: str, **settings: Any) -> Runnable[Any, AIMessage]:
    if script == "words":
        return chat(server, **settings)
    return chat(server, tool_calling=script, **settings).bind_tools([search])


# Ways to run a model: each gives the whole message, and appends what its caller sees on the way


def whole(chunks: list[Any]) -> BaseMessage:
    return sum(chunks[1:], chunks[0])


async def ainvoke(model, config, seen) -> BaseMessage:
    return await model.ainvoke(ASK, config)


async def ainvoke_listened_to(model, config, seen) -> BaseMessage:
    return await model.ainvoke(ASK, {**config, "callbacks": [*config["callbacks"], Listener()]})


async def ainvoke_streamed(model, config, seen) -> BaseMessage:
    return await model.ainvoke(ASK, config, stream=True)


async def astream(model, config, seen) -> BaseMessage:
    seen += [chunk async for chunk in model.astream(ASK, config)]
    return whole(list(seen))


async def agenerate(model, config, seen) -> BaseMessage:
    inner, kwargs = getattr(model, "bound", model), getattr(model, "kwargs", {})
    return (await inner.agenerate([ASK], callbacks=config["callbacks"], **kwargs)).generations[0][0].message


async def abatch(model, config, seen) -> BaseMessage:
    return (await model.abatch([ASK], config))[0]


def aevents(version: str) -> Callable[..., Any]:
    async def way(model, config, seen) -> BaseMessage:
        seen += [event async for event in model.astream_events(ASK, config, version=version)]
        (output,) = [event["data"]["output"] for event in seen if event["event"] == "on_chat_model_end"]
        if isinstance(output, dict):  # version 1
            output = output["generations"][0][0]["message"]
        return output

    return way


async def aevents_v3(model, config, seen) -> BaseMessage:
    stream = await model.astream_events(ASK, config, version="v3")
    seen += [event async for event in stream]
    return await stream


async def alog(model, config, seen) -> BaseMessage:
    async for patch in model.astream_log(ASK, config, diff=False):
        seen.append(patch)
    return seen[-1].state["final_output"]


def invoke(model, config, seen) -> BaseMessage:
    return model.invoke(ASK, config)


def invoke_listened_to(model, config, seen) -> BaseMessage:
    return model.invoke(ASK, {**config, "callbacks": [*config["callbacks"], Listener()]})


def stream(model, config, seen) -> BaseMessage:
    seen += model.stream(ASK, config)
    return whole(list(seen))


def generate(model, config, seen) -> BaseMessage:
    inner, kwargs = getattr(model, "bound", model), getattr(model, "kwargs", {})
    return inner.generate([ASK], callbacks=config["callbacks"], **kwargs).generations[0][0].message


def batch(model, config, seen) -> BaseMessage:
    return model.batch([ASK], config)[0]


def events_v3(model, config, seen) -> BaseMessage:
    stream = model.stream_events(ASK, config, version="v3")
    seen += list(stream)
    return stream.output


WAYS = {
    **{way.__name__: way for way in (ainvoke, ainvoke_listened_to, ainvoke_streamed, astream, agenerate, abatch, alog)},
    **{"aevents_v1": aevents("v1"), "aevents_v2": aevents("v2"), "aevents_v3": aevents_v3},
    **{way.__name__: way for way in (invoke, invoke_listened_to, stream, generate, batch, events_v3)},
}
SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "blocks": {"output_version": "v1"},
    "unstreamed": {"disable_streaming": True},
    "tools unstreamed": {"disable_streaming": "tool_calling"},
}


async def heard(way: Callable[..., Any], *args: Any) -> Any:
    """What a way gives; synchronous ones in a thread, as the loop of the test must not be held up."""
    if asyncio.iscoroutinefunction(way):
        return await way(*args)
    return await asyncio.to_thread(way, *args)


def check_turn(recorder: TurnRecorder, script: str, message: BaseMessage) -> None:
    """The turn has exactly the script's tokens, in their order."""
    (turn,) = recorder.turns.values()
    tokens = SCRIPTS[script].tokens
    assert turn.logprobs is not None
    assert [turn.logprobs.token(i).decode() for i in range(len(turn.logprobs))] == [token.says for token in tokens]
    entropy = [math.log(len(token.probabilities)) for token in tokens]
    np.testing.assert_allclose(turn.logprobs.entropy, entropy, atol=1e-6)
    assert turn.generated_tokens == turn.scored_tokens == len(tokens)
    assert recorder.turn_of(message) is turn
    assert recorder.usage.generated_tokens == len(tokens)
    assert recorder.usage.prompt_tokens == 10
    assert recorder.usage.model_calls == 1


def check_message(message: BaseMessage, script: str) -> None:
    """Content, calls and usage are there once."""
    assert isinstance(message, AIMessage)
    assert message.text == SCRIPTS[script].text
    calls = [] if script == "words" else [("search", {"query": "bees"})]
    assert [(call["name"], call["args"]) for call in message.tool_calls] == calls
    assert message.invalid_tool_calls == []
    tokens = len(SCRIPTS[script].tokens)
    usage = {"input_tokens": 10, "output_tokens": tokens, "total_tokens": 10 + tokens}
    assert message.usage_metadata is not None and usage.items() <= message.usage_metadata.items()
    assert message.response_metadata["finish_reason"] == "stop"


def check_nothing_leaks(*told: str) -> None:
    """No array and no list of alternatives."""
    for sign in ("token_logprobs", "TokenLogprobs", "entropy", "array(", "'logprob'", '"logprob"'):
        assert not [text for text in told if sign in text]


CASES = [(script, name) for script in SCRIPTS for name in SETTINGS if (script, name) != ("words", "tools unstreamed")]


@pytest.mark.parametrize("script, settings", [(script, SETTINGS[name]) for script, name in CASES], ids=map(str, CASES))
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
async def test_every_way_to_run_a_model_is_captured_once_and_whole(serve, way, script, settings):
    server = serve([SCRIPTS[script]])
    recorder, tracer, usage = TurnRecorder(), Everything(), UsageMetadataCallbackHandler()
    seen: list[Any] = []
    config = {"callbacks": [recorder, tracer, usage]}
    message = await heard(way, bound(server, script, **settings), config, seen)
    check_turn(recorder, script, message)
    check_message(message, script)
    assert len(server.requests) == 1
    assert usage.usage_metadata["scripted"]["output_tokens"] == len(SCRIPTS[script].tokens)
    check_nothing_leaks(repr(message), message.model_dump_json(), *map(repr, seen), *tracer.told)


# Those who listen


def with_listener(*handlers: BaseCallbackHandler) -> tuple[Listener, dict[str, Any]]:
    listener = Listener()
    return listener, {"callbacks": [listener, *handlers]}


@pytest.mark.parametrize("way", [ainvoke, astream, invoke, stream], ids=lambda way: way.__name__)
async def test_listeners_hear_each_token_when_it_comes(serve, way):
    listener, config = with_listener()
    await heard(way, chat(serve([SCRIPTS["words"]])), config, [])
    assert listener.pieces == [*WORDS, ""]


@pytest.mark.parametrize("way", [agenerate, generate], ids=lambda way: way.__name__)
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("of", ["call", "model"])
async def test_all_choices_come_apart_while_somebody_listens(serve, way, n, of):
    server, recorder = serve(numbered), TurnRecorder()
    model = chat(server, n=n) if of == "model" else chat(server).bind(n=n)
    inner, kwargs = getattr(model, "bound", model), getattr(model, "kwargs", {})
    for handler in (Listener(), ProtocolListener()):
        callbacks = [handler, recorder]
        if way is generate:
            result = await asyncio.to_thread(inner.generate, [ASK], callbacks=callbacks, **kwargs)
        else:
            result = await inner.agenerate([ASK], callbacks=callbacks, **kwargs)
        assert [generation.text for generation in result.generations[0]] == [f"answer {i}" for i in range(n)]
    assert [request.n for request in server.requests] == [n, n]
    assert [turn.scored_tokens for turn in recorder.turns.values()] == [2] * 2 * n


@pytest.mark.parametrize("way", [astream, stream, aevents_v3, events_v3], ids=lambda way: way.__name__)
async def test_a_stream_is_of_one_choice_whatever_n_says(serve, way):
    server, recorder = serve(numbered), TurnRecorder()
    message = await heard(way, chat(server, n=3), {"callbacks": [recorder]}, [])
    assert message.text == "answer 0"
    assert [request.n for request in server.requests] == [1]
    assert len(recorder.turns) == 1


BROKEN = Reply(tool_calls=[("search", '{"query": "unclosed'), ("search", "[1]"), ("search", '{"query": "bees"}')])


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
async def test_a_call_that_cannot_be_read_is_invalid_every_way(serve, way):
    model = chat(serve([BROKEN])).bind_tools([search])
    message = await heard(way, model, {"callbacks": []}, [])
    assert [call["args"] for call in message.tool_calls] == [{"query": "bees"}]
    assert [call["name"] for call in message.invalid_tool_calls] == ["search", "search"]
    assert all("unclosed" in call["args"] or "[1]" in call["args"] for call in message.invalid_tool_calls)


THOUGHT = [{"reasoning_content": "Hm"}, {"reasoning_content": ", well"}, {"content": "Yes"}, {"content": "!"}]


def thoughtful(request: Request) -> list[Reply]:
    """Streams its reasoning before its answer, or gives both whole."""
    listed = {"content": [Token(says="x").entry()]}
    if not request.body["stream"]:
        message = {"reasoning_content": "Hm, well", "content": "Yes!"}
        return [Reply(raw=json.dumps({"choices": [{"message": message, "logprobs": listed}]}).encode())]
    events = [{"index": 0, "delta": delta, "logprobs": listed} for delta in THOUGHT]
    events[-1]["finish_reason"] = "stop"
    return [Reply(raw=b"".join(b"data: %s\n\n" % json.dumps({"choices": [event]}).encode() for event in events))]


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
async def test_reasoning_stands_before_the_answer_once(serve, way, settings):
    message = await heard(way, chat(serve(thoughtful), **settings), {"callbacks": []}, [])
    assert message.text == "Yes!"
    assert [block.get("reasoning") or block.get("text") for block in message.content_blocks] == ["Hm, well", "Yes!"]


@pytest.mark.parametrize("way", [ainvoke_listened_to, ainvoke_streamed, astream, aevents("v2"), aevents_v3])
async def test_every_way_to_stream_inside_a_pool_shares_a_request(serve, way):
    server, recorder = serve(numbered), TurnRecorder()
    model = chat(server)
    with use_pool(SamplingPool(1)):
        messages = await asyncio.gather(*(way(model, {"callbacks": [recorder]}, []) for _ in range(3)))
    assert [request.n for request in server.requests] == [3]
    assert "seed" in server.requests[0].body
    assert sorted(message.text for message in messages) == [f"answer {i}" for i in range(3)]
    assert [turn.scored_tokens for turn in recorder.turns.values()] == [2, 2, 2]


def test_a_synchronous_stream_that_is_left_early_ends_the_request(serve):
    server = serve([says(" ".join(["word"] * 20_000))])
    for chunk in chat(server).stream("Hi"):
        assert chunk.text == "word"
        break
    assert server.hung_up.wait(10)


@pytest.mark.parametrize("version", [None, "v2", "v3"])
async def test_an_asynchronous_stream_that_is_left_early_ends_the_request_and_is_no_turn(serve, version):
    server, recorder = serve([says(" ".join(["word"] * 20_000))]), TurnRecorder()
    model, config = chat(server), {"callbacks": [recorder]}
    if version == "v3":
        async with await model.astream_events(ASK, config, version="v3") as parts:
            assert "message-start" in repr(await anext(aiter(parts)))
    else:
        parts = model.astream_events(ASK, config, version="v2") if version else model.astream(ASK, config)
        async with aclosing(parts):
            await anext(part async for part in parts if "word" in repr(part))
    assert await asyncio.to_thread(server.hung_up.wait, 60)
    assert not recorder.turns


def test_an_error_in_a_synchronous_stream_is_raised_where_it_is_read(serve):
    recorder = TurnRecorder()
    pieces = chat(serve([says("a b c d", breaks_after=2)])).stream("Hi", {"callbacks": [recorder]})
    assert [next(pieces).text, next(pieces).text] == ["a", " b"]
    with pytest.raises(ModelServerError, match="broke off"):
        next(pieces)
    assert not recorder.turns


# What a stop string might begin with

FENCED = spoken("```", "json", "\n", '{"name": "search", "arguments": {"query": "bees"}}', "\n", "```")


def holding_back(request: Request) -> list[Reply]:
    """As llama.cpp streams: text that a stop string might begin with waits for the next token, and has no entry."""
    stops = request.body.get("stop", ()) if request.body["stream"] else ()
    listed: list[Token] = []
    held = ""
    for token in FENCED.tokens:
        held += str(token.says)
        if not any(held.endswith(stop[:size]) for stop in stops for size in range(1, len(stop))):
            listed.append(replace(token, says=held))
            held = ""
    unlisted = [Token(says=held if i == 0 else "") for i in range(len(FENCED.tokens) - len(listed))]
    return [replace(FENCED, tokens=[*listed, *unlisted], listed=len(listed))] * request.n


UNWATCHED = (ainvoke, agenerate, abatch, invoke, generate, batch)


@pytest.mark.parametrize("script, settings", [("text", {}), ("words", {"stop": ["\n\n"]})], ids=["tools", "own"])
@pytest.mark.parametrize("way", UNWATCHED, ids=lambda way: way.__name__)
async def test_tokens_that_a_stop_string_might_begin_with_are_scored(serve, way, script, settings):
    server, recorder = serve(holding_back), TurnRecorder()
    message = await heard(way, bound(server, script, **settings), {"callbacks": [recorder]}, [])
    (turn,) = recorder.turns.values()
    assert turn.scored_tokens == turn.generated_tokens == len(FENCED.tokens)
    assert message.text == FENCED.text


@pytest.mark.parametrize("way", [ainvoke, astream], ids=lambda way: way.__name__)
async def test_tokens_that_a_stop_string_might_begin_with_are_scored_in_rollouts(serve, way):
    recorder = TurnRecorder()
    with use_pool(SamplingPool(1)):
        await way(bound(serve(holding_back), "text"), {"callbacks": [recorder]}, [])
    (turn,) = recorder.turns.values()
    assert turn.scored_tokens == turn.generated_tokens == len(FENCED.tokens)


@pytest.mark.parametrize("way", [ainvoke_listened_to, astream, aevents("v2"), stream], ids=lambda way: way.__name__)
async def test_who_reads_along_sees_text_as_it_comes_and_coverage_tells_what_that_costs(serve, way):
    server, recorder = serve(holding_back), TurnRecorder()
    message = await heard(way, bound(server, "text"), {"callbacks": [recorder]}, [])
    assert server.requests[0].body["stream"] is True
    (turn,) = recorder.turns.values()
    assert (turn.scored_tokens, turn.generated_tokens) == (3, len(FENCED.tokens))
    assert message.text == FENCED.text and [call["name"] for call in message.tool_calls] == ["search"]


async def test_what_is_not_to_be_scored_streams_whatever_ends_it(serve):
    server = serve(holding_back)
    with plain_sampling():
        await bound(server, "text").ainvoke(ASK)
    assert server.requests[0].body["stream"] is True


@pytest.mark.parametrize("way", [ainvoke, ainvoke_listened_to, astream, aevents_v3], ids=lambda way: way.__name__)
async def test_a_model_that_must_not_stream_asks_for_whole_answers(serve, way):
    server = serve([SCRIPTS["words"]])
    await way(chat(server, disable_streaming=True), {"callbacks": []}, [])
    assert server.requests[0].body["stream"] is False and "stream_options" not in server.requests[0].body
