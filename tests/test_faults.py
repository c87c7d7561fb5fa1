"""Servers that fail in every way: each call ends in the documented error or recovers, streamed and not."""

from __future__ import annotations

import asyncio
import json
import math
import pickle
import time
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.load import dumps
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langchain_core.tracers.base import BaseTracer
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, MessagesState, StateGraph

from entcent_agents.capture.recorder import TurnRecorder
from entcent_agents.chat.model import ChatLogprobs
from entcent_agents.errors import ConfigurationError, LogprobsMalformedError, ModelServerError
from entcent_agents.rollouts.retries import is_passing
from entcent_agents.trajectory import Trajectory
from tests.chat_server import Reply, Token, says
from tests.test_chat_model import texts_of

KEY = "sk-very-secret-4711"
HALF = math.log(0.5)
WITHIN_SECONDS = 60

both_ways = pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "body"])


@tool
def search(query: str) -> str:
    """Search the library."""
    return query


def chat(server, streamed: bool = True, **settings):
    """A chat whose answers are streamed, or not: with native tools they are not."""
    model = ChatLogprobs(**{"model": "scripted", "base_url": server.base_url, "max_retries": 0, **settings})
    return model if streamed else model.bind_tools([search])


async def asked(model):
    """The answer and its turn; a test that waits long has found a call that hangs."""
    recorder = TurnRecorder()
    message = await asyncio.wait_for(model.ainvoke("Hi", config={"callbacks": [recorder]}), WITHIN_SECONDS)
    (turn,) = recorder.turns.values()
    return message, turn


def in_order(*replies: Reply):
    served = iter(replies)
    return lambda request: [next(served)]


# Servers that refuse


@both_ways
async def test_a_busy_server_is_asked_again_when_it_says(serve, streamed):
    server = serve(in_order(Reply(status=429, error="slow down", headers={"Retry-After": "0.3"}), says("done")))
    started = time.monotonic()
    message, _ = await asked(chat(server, streamed, max_retries=1))
    assert message.content == "done"
    assert 0.3 <= time.monotonic() - started < WITHIN_SECONDS
    assert len(server.requests) == 2


@both_ways
async def test_a_server_that_asks_for_an_hour_is_not_waited_for(serve, streamed):
    server = serve(lambda request: [Reply(status=429, error="slow down", headers={"Retry-After": "3600"})])
    with pytest.raises(ModelServerError, match="answered 429: slow down"):
        await asked(chat(server, streamed, max_retries=5))
    assert len(server.requests) == 1


@both_ways
async def test_a_server_that_fails_once_is_asked_again(serve, streamed):
    server = serve(in_order(Reply(status=500, error="oops"), says("done")))
    message, _ = await asked(chat(server, streamed, max_retries=1))
    assert message.content == "done"


@both_ways
async def test_a_server_that_always_fails_is_asked_as_often_as_allowed(serve, streamed):
    server = serve(lambda request: [Reply(status=500, error="oops")])
    with pytest.raises(ModelServerError, match="answered 500: oops"):
        await asked(chat(server, streamed, max_retries=1))
    assert len(server.requests) == 2


# Answers that break


@both_ways
@pytest.mark.parametrize("how", ["close", "cut", "reset"])
async def test_an_answer_that_breaks_off_is_an_error(serve, streamed, how):
    server = serve([says("a b c d", breaks_after=2, breaks_how=how)])
    with pytest.raises(ModelServerError, match="broke off in the middle of its answer"):
        await asked(chat(server, streamed))


@both_ways
async def test_an_answer_that_stalls_is_an_error_after_the_timeout(serve_hurried, streamed):
    server = serve_hurried([says("a b c d", breaks_after=2, breaks_how="stall")])
    with pytest.raises(ModelServerError, match="did not answer in time: raise timeout_seconds"):
        await asked(chat(server, streamed, timeout_seconds=30))


@both_ways
@pytest.mark.parametrize(
    "half", [b'{"choices": [{"mess', b'{"choices": [{"index": 0, "message": {"content": 7}}]}', b"\xff"]
)
async def test_half_a_json_and_other_json_are_an_error(serve, streamed, half):
    raw = b"data: " + half + b"\n\n" if streamed else half
    with pytest.raises(ModelServerError, match="does not answer as an OpenAI chat API does") as caught:
        await asked(chat(serve([Reply(raw=raw)]), streamed))
    assert "\n" not in str(caught.value)


@both_ways
@pytest.mark.parametrize("raw", [b'{"choices": []}', b"{}"])
async def test_an_answer_without_choices_is_an_error(serve, streamed, raw):
    raw = b"data: " + raw + b"\n\ndata: [DONE]\n\n" if streamed else raw
    with pytest.raises(ModelServerError, match="without a single choice"):
        await asked(chat(serve([Reply(raw=raw)]), streamed))


@both_ways
@pytest.mark.parametrize(
    "error, status",
    [({"message": "overloaded", "code": 502}, 502), ({"message": "no", "code": "x"}, None), ("no", None)],
    ids=["a status", "another code", "none"],
)
async def test_the_status_that_a_gateway_names_in_a_good_answer_is_known(serve, streamed, error, status):
    body = json.dumps({"error": error}).encode()
    raw = b"data: " + body + b"\n\n" if streamed else body
    with pytest.raises(ModelServerError) as caught:
        await asked(chat(serve([Reply(raw=raw)]), streamed))
    assert caught.value.status == status
    assert is_passing(caught.value) == (status is not None)


# Numbers that are none


@both_ways
@pytest.mark.parametrize("missing", [math.nan, -math.inf, None, -9999.0, -3.4e38], ids=str)
async def test_values_that_are_missing_are_unscored_and_never_certain(serve, streamed, missing):
    tokens = [
        Token(says="NaN", logprobs=[missing, missing]),
        Token(says="-Infinity", logprobs=[HALF, HALF, missing]),
        Token(says="!", logprobs=[missing]),
        Token(says="?", logprobs=[]),
        Token(says="\\", logprobs=[HALF, missing]),
    ]
    message, turn = await asked(chat(serve([Reply(tokens=tokens)]), streamed))
    assert message.content == "NaN-Infinity!?\\"
    np.testing.assert_allclose(turn.logprobs.entropy, [math.nan, math.log(2), math.nan, math.nan, math.nan], atol=1e-6)
    np.testing.assert_allclose(turn.logprobs.logprob, [math.nan, HALF, math.nan, math.nan, HALF], atol=1e-6)
    assert Trajectory(turns=(turn,)).coverage == 0.2


@both_ways
async def test_a_probability_above_one_is_malformed(serve, streamed):
    with pytest.raises(LogprobsMalformedError, match="at most 0"):
        await asked(chat(serve([Reply(tokens=[Token(says="a", logprobs=[0.5, HALF])])]), streamed))


# Log-probabilities that are missing


@both_ways
@pytest.mark.parametrize("counts", [True, False])
async def test_tokens_without_entries_lower_the_coverage(serve, streamed, counts):
    words = says("aaaa bbb ccc ddd", listed=1)
    _, turn = await asked(chat(serve([words], counts=counts), streamed))
    assert turn.generated_tokens == 4
    assert turn.scored_tokens == 1


@both_ways
@pytest.mark.parametrize("counts", [True, False])
async def test_an_answer_without_logprobs_has_no_scores(serve, streamed, counts):
    _, turn = await asked(chat(serve([says("a b c", logprobs=False)], counts=counts), streamed))
    assert turn.logprobs is None
    assert turn.generated_tokens > 0
    assert Trajectory(turns=(turn,)).coverage == 0.0


@pytest.mark.parametrize("logprobs", [None, {}, {"content": None}, {"content": []}], ids=str)
async def test_every_way_to_send_no_logprobs_is_read_as_none(serve, logprobs):
    choice = {"index": 0, "message": {"content": "a"}, "logprobs": logprobs, "finish_reason": "stop"}
    _, turn = await asked(chat(serve([Reply(raw=json.dumps({"choices": [choice]}).encode())]), streamed=False))
    assert turn.logprobs is None


# Numbers of tokens that are none


@pytest.mark.parametrize("wrong", ["tok_1", 1.5, 2**31, 2**80, -1, True, [1], {}], ids=str)
async def test_a_token_number_that_is_none_costs_the_numbers_and_not_the_answer(serve, wrong):
    def held(*numbers, **fields):
        content = [Token(says="a", probabilities=(0.5, 0.5)).entry() | {"id": number} for number in numbers]
        message = {"content": "a" * len(numbers)}
        choice = {"message": message, "logprobs": {"content": content}, "finish_reason": "stop", **fields}
        return serve([Reply(raw=json.dumps({"choices": [choice]}).encode())])

    _, turn = await asked(chat(held(7, 8), streamed=False))
    assert turn.logprobs.ids.tolist() == [7, 8]
    for server in (held(7, wrong), held(None, None, token_ids=[7, wrong]), held(None, token_ids="7")):
        message, turn = await asked(chat(server, streamed=False))
        assert message.content == "a" * len(turn.logprobs)
        assert turn.scored_tokens == len(turn.logprobs)
        assert turn.logprobs.ids is None


# Wrong numbers of choices


@both_ways
async def test_choices_that_were_not_asked_for_are_dropped(serve, streamed):
    server = serve(lambda request: [says(f"answer {i}") for i in range(request.n + 2)])
    model = chat(server, streamed)
    assert (await model.ainvoke("Hi")).content == "answer 0"
    assert "".join([chunk.text async for chunk in model.astream("Hi")]) == "answer 0"


@both_ways
async def test_choices_that_are_missing_are_asked_for_again(serve, streamed):
    server = serve([says(f"answer {i}") for i in range(3)], gives=2)
    model = chat(server, streamed).bind(n=3)
    result = await model.bound.agenerate([[HumanMessage("Hi")]], **model.kwargs)
    assert [generation.text for generation in result.generations[0]] == ["answer 0", "answer 1", "answer 2"]
    assert [request.n for request in server.requests] == [3, 1]


async def test_choices_of_a_body_that_all_claim_one_number_stay_apart(serve):
    server = serve(lambda request: [replace(says(f"answer {i}"), index=0) for i in range(request.n)])
    model = chat(server, streamed=False).bind(n=2)
    result = await model.bound.agenerate([[HumanMessage("Hi")]], **model.kwargs)
    assert [generation.text for generation in result.generations[0]] == ["answer 0", "answer 1"]
    assert [len(generation.token_logprobs) for generation in result.generations[0]] == [2, 2]


# Keys


class Everything(BaseTracer):
    """Keeps all that a tracer is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []

    def _persist_run(self, run) -> None:
        self.told.append(run.model_dump_json() + repr(run) + dumps(run.outputs))


class Events(BaseCallbackHandler):
    """Keeps all that a handler is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def on_chat_model_start(self, *args, **kwargs) -> None:
        self.told.append(repr((args, kwargs)))

    def on_llm_end(self, *args, **kwargs) -> None:
        self.told.append(repr((args, kwargs)))

    def on_llm_error(self, *args, **kwargs) -> None:
        self.told.append(repr((args, kwargs)))


@both_ways
@pytest.mark.parametrize("reply", [says("fine"), Reply(status=401, error=f"wrong key {KEY}")], ids=["good", "bad"])
async def test_the_key_is_in_no_error_repr_trace_log_or_checkpoint(serve, streamed, reply, tmp_path, caplog):
    caplog.set_level("DEBUG")
    bound = chat(serve(lambda request: [reply]), streamed, api_key=KEY)
    tracer, events, seen = Everything(), Events(), []

    async def node(state: MessagesState):
        return {"messages": [await bound.ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState).add_node("model", node).add_edge(START, "model")
    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "checkpoints.db")) as saver:
        config = {"configurable": {"thread_id": "1"}, "callbacks": [tracer, events]}
        try:
            seen.append(repr(await graph.compile(checkpointer=saver).ainvoke({"messages": ["Hi"]}, config)))
        except ModelServerError as error:
            seen.append(texts_of(error))
    model = bound if streamed else bound.bound
    seen += [repr(model), str(model), model.model_dump_json(), dumps(model), repr(bound), *tracer.told, *events.told]
    assert tracer.told and events.told and len(seen[0]) > 0
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert stored
    assert not [text for text in [*seen, caplog.text] if KEY in text]
    assert KEY.encode() not in stored


async def test_a_password_in_the_address_is_refused_without_showing_it():
    with pytest.raises(ConfigurationError, match="api_key=") as caught:
        await ChatLogprobs(model="m", base_url=f"http://user:{KEY}@127.0.0.1:9/v1").ainvoke("Hi")
    assert KEY not in texts_of(caught.value)


async def test_the_query_of_an_address_is_not_shown(serve):
    server = serve([Reply(status=401, error="no")])
    tracer = Everything()
    with pytest.raises(ModelServerError, match="answered 401: no") as caught:
        model = chat(server, base_url=f"{server.base_url}?key={KEY}")
        await model.ainvoke("Hi", config={"callbacks": [tracer]})
    assert KEY not in texts_of(caught.value)
    assert tracer.told and KEY not in "".join(tracer.told)


@pytest.mark.parametrize("reply", [says("fine"), Reply(status=401, error=f"wrong key {KEY}")], ids=["good", "bad"])
@pytest.mark.filterwarnings("ignore:.*(v3|beta).*")
async def test_the_key_is_in_no_event_of_any_version(serve, reply, caplog):
    caplog.set_level("DEBUG")
    model = chat(serve(lambda request: [reply]), api_key=KEY)
    seen = []
    for version in ("v2", "v3"):
        try:
            events = model.astream_events("Hi", version=version)
            seen += [repr(event) async for event in (await events if version == "v3" else events)]
        except ModelServerError as error:
            seen.append(texts_of(error))
    assert seen
    assert not [text for text in [*seen, caplog.text] if KEY in text]


async def test_secrets_in_further_fields_of_the_body_are_sent_and_not_shown(serve, caplog):
    caplog.set_level("DEBUG")
    server, tracer = serve([says("fine")]), Everything()
    model = chat(server, extra_body={"gateway_token": KEY})
    message = await model.ainvoke("Hi", config={"callbacks": [tracer]})
    assert server.requests[0].body["gateway_token"] == KEY
    assert tracer.told
    shown = [repr(message), repr(model), str(model), dumps(model), repr(model.bind(stop=["x"])), caplog.text]
    assert not [text for text in [*shown, *tracer.told] if KEY in text]


async def test_the_key_does_not_follow_a_redirect_to_another_server(serve):
    other = serve([says("fine")])
    address = f"{other.base_url}/chat/completions"
    server = serve(lambda request: [Reply(status=307, error="over there", headers={"Location": address})])
    assert (await chat(server, api_key=KEY).ainvoke("Hi")).content == "fine"
    assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"
    assert "authorization" not in other.requests[0].headers
    assert KEY not in repr(other.requests)


async def test_what_a_server_says_is_shown_in_full_where_there_is_no_key_to_hide(serve):
    server = serve([Reply(status=400, error="tool_choice is none of these")])
    with pytest.raises(ModelServerError, match="none of these"):
        await chat(server).ainvoke("Hi")


async def test_a_copy_of_a_model_has_its_key_and_does_not_show_it(serve):
    server = serve([says("fine")])
    model = chat(server, api_key=KEY)
    for copied in (deepcopy(model), model.model_copy(update={"n": 1}), pickle.loads(pickle.dumps(model))):
        await copied.ainvoke("Hi")
        assert server.requests[-1].headers["authorization"] == f"Bearer {KEY}"
        assert KEY not in repr(copied) + dumps(copied)
