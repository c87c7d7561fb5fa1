"""`ChatLogprobs` against a scripted server: real HTTP, hand-computed numbers."""

from __future__ import annotations

import asyncio
import json
import math
import threading
import time
import traceback
from typing import Any

import numpy as np
import pytest
from langchain.agents import create_agent
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import StreamingStdOutCallbackHandler as StreamingStdOut
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool

from entcent_agents.blocking import run_sync
from entcent_agents.capture.recorder import TurnRecorder
from entcent_agents.chat.model import ChatLogprobs
from entcent_agents.chat.sampling import (
    QUIET_SECONDS,
    Outcome,
    SamplingPool,
    plain_sampling,
    token_listener,
    use_pool,
)
from entcent_agents.errors import ConfigurationError, LogprobsMissingError, ModelServerError
from tests.chat_server import Reply, Request, Token, numbered, says

KEY = "sk-very-secret-4711"
ASK = [HumanMessage("Hi")]


@tool
def search(query: str, limit: int = 3) -> str:
    """Search the library."""
    return query * limit


def chat(server, **settings) -> ChatLogprobs:
    return ChatLogprobs(**{"model": "scripted", "base_url": server.base_url, "max_retries": 0, **settings})


def failing(reply: Reply):
    """A server that fails whatever it is asked."""
    return lambda request: [reply] * request.n


async def arrays(model: ChatLogprobs, **kwargs):
    result = await model.agenerate([ASK], **kwargs)
    return [generation.token_logprobs for generation in result.generations[0]]


# Decoding


async def test_a_stream_becomes_the_arrays_computed_by_hand(serve):
    tokens = [
        Token(says="Yes", probabilities=(0.5, 0.5)),
        Token(says=",", probabilities=(0.25, 0.25, 0.25, 0.25)),
        Token(says=" now", probabilities=(1.0,)),
    ]
    (logprobs,) = await arrays(chat(serve([Reply(tokens=tokens)])))
    np.testing.assert_allclose(logprobs.entropy, [math.log(2), math.log(4), 0.0], atol=1e-6)
    np.testing.assert_allclose(logprobs.logprob, [math.log(0.5), math.log(0.25), 0.0], atol=1e-6)
    np.testing.assert_allclose(logprobs.confidence, [math.log(2), math.log(4), 0.0], atol=1e-6)
    np.testing.assert_allclose(logprobs.residual, [0.0, 0.0, 0.0], atol=1e-6)
    assert [logprobs.token(i) for i in range(3)] == [b"Yes", b",", b" now"]
    assert logprobs.top_k == 4


async def test_a_character_split_over_tokens_is_whole_in_text_and_arrays(serve):
    snowman = "☃".encode()
    tokens = [Token(says=snowman[:1]), Token(says=snowman[1:]), Token(says="!")]
    result = await chat(serve([Reply(tokens=tokens)])).agenerate([ASK])
    generation = result.generations[0][0]
    assert generation.text == "☃!"
    assert generation.token_logprobs.text.decode() == "☃!"
    assert generation.token_logprobs.token(0) == snowman[:1]


@pytest.mark.parametrize("separator", ["\u2028", "\u0085", "\x1c"])
async def test_line_separators_inside_json_do_not_end_an_event(serve, separator):
    server = serve([Reply(tokens=[Token(says=f"a{separator}b")])], ascii_json=False)
    assert (await chat(server).ainvoke("Hi")).content == f"a{separator}b"


async def test_raw_logprobs_are_nowhere_in_the_message(serve):
    message = await chat(serve([says("a b")])).ainvoke("Hi")
    assert "logprob" not in repr(message)
    assert "logprob" not in message.model_dump_json()
    assert message.response_metadata["finish_reason"] == "stop"
    assert message.response_metadata["model_name"] == "scripted"


def counted(prompt: int, cached: int, *generated: int) -> bytes:
    """A stream of as many choices of one token, each counted in an event of its own, as llama.cpp does."""
    choices = [{"index": i, "delta": {"content": "a"}, "finish_reason": "stop"} for i in range(len(generated))]
    events: list[dict[str, Any]] = [{"choices": [choice]} for choice in choices]
    for count in generated:
        usage = {
            "prompt_tokens": prompt,
            "completion_tokens": count,
            "prompt_tokens_details": {"cached_tokens": cached},
        }
        events.append({"choices": [], "usage": usage})
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)


async def test_choices_that_are_counted_one_by_one_are_all_counted_and_cached_tokens_are_told(serve):
    server = serve([Reply(raw=counted(100, 60, 7, 5))])
    usages = [each.message.usage_metadata for each in await chat(server).agenerate_n("Hi", 2)]
    assert [usage["output_tokens"] for usage in usages] == [6, 6]
    assert [usage["input_tokens"] for usage in usages] == [50, 50]
    assert [usage["input_token_details"] for usage in usages] == [{"cache_read": 30}] * 2


async def test_usage_is_what_the_server_says(serve):
    message = await chat(serve([says("a b c")], prompt_tokens=7)).ainvoke("Hi")
    assert message.usage_metadata == {"input_tokens": 7, "output_tokens": 3, "total_tokens": 10}


async def test_three_choices_have_their_own_arrays_and_share_the_prompt(serve):
    server = serve([says("one"), says("one two"), says("one two three")], prompt_tokens=10)
    result = await chat(server).agenerate([ASK], n=3)
    generations = result.generations[0]
    assert [generation.text for generation in generations] == ["one", "one two", "one two three"]
    assert [len(generation.token_logprobs) for generation in generations] == [1, 2, 3]
    usage = [generation.message.usage_metadata for generation in generations]
    assert [one["output_tokens"] for one in usage] == [1, 2, 3]
    assert sum(one["input_tokens"] for one in usage) == 10
    assert len(server.requests) == 1


async def test_choices_without_logprobs_share_the_tokens_the_server_counted(serve):
    server = serve([says("one", logprobs=False), says("one two", logprobs=False)])
    result = await chat(server).agenerate([ASK], n=2)
    generations = result.generations[0]
    assert [generation.token_logprobs for generation in generations] == [None, None]
    assert sum(generation.message.usage_metadata["output_tokens"] for generation in generations) == 3


async def test_listeners_hear_every_token_of_their_choice(serve):
    heard: list[int] = []
    token_listener.set(heard.append)
    await chat(serve([says("a b c")])).ainvoke("Hi")
    assert sum(heard) == 3


# Coalescing


async def test_identical_concurrent_calls_in_a_pool_are_one_request(serve):
    server = serve(numbered)
    model = chat(server)
    with use_pool(SamplingPool(1)):
        messages = await asyncio.gather(*(model.ainvoke("Hi") for _ in range(4)))
    assert [request.n for request in server.requests] == [4]
    assert sorted(message.content for message in messages) == [f"answer {i}" for i in range(4)]


async def test_outside_a_pool_nothing_is_merged(serve):
    server = serve(numbered)
    model = chat(server)
    await asyncio.gather(model.ainvoke("Hi"), model.ainvoke("Hi"))
    assert [request.n for request in server.requests] == [1, 1]


async def test_coalescing_can_be_switched_off_and_seeds_still_differ(serve):
    server = serve(numbered)
    model = chat(server, coalesce=False, seed=5)
    with use_pool(SamplingPool(1)):
        await asyncio.gather(model.ainvoke("Hi"), model.ainvoke("Hi"))
    assert [request.n for request in server.requests] == [1, 1]
    assert len({request.body["seed"] for request in server.requests}) == 2


async def test_calls_that_differ_are_never_merged(serve):
    server = serve(numbered)
    model = chat(server)
    calls = [
        model.ainvoke("Hi"),
        model.ainvoke("Ho"),
        model.bind(temperature=0.1).ainvoke("Hi"),
        model.bind_tools([search]).ainvoke("Hi"),
        chat(server, api_key=KEY).ainvoke("Hi"),
        chat(server, model="other").ainvoke("Hi"),
        chat(server, timeout_seconds=5).ainvoke("Hi"),
        chat(server, max_retries=1).ainvoke("Hi"),
        chat(server, max_connections=7).ainvoke("Hi"),
    ]
    with use_pool(SamplingPool(1)):
        await asyncio.gather(*calls)
    assert [request.n for request in server.requests] == [1] * len(calls)


async def test_a_call_that_gave_up_before_sending_is_not_asked_for():
    asked: list[tuple[int, int]] = []

    async def send(n, seed, listeners):
        asked.append((n, len(listeners)))
        return [ModelServerError(str(i)) for i in range(n)]

    pool = SamplingPool(1)
    tasks = [asyncio.create_task(pool.sample("caller", "prompt", send)) for _ in range(3)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    _, *failures = await asyncio.gather(*tasks, return_exceptions=True)
    assert tasks[0].cancelled()
    assert asked == [(2, 2)]
    assert [str(failure) for failure in failures] == ["0", "1"]


async def test_nothing_is_sent_where_every_call_gave_up_before():
    async def send(n, seed, listeners):
        raise AssertionError("sent")

    pool = SamplingPool(1)
    task = asyncio.create_task(pool.sample("caller", "prompt", send))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0.02)
    assert task.cancelled()


async def test_a_sender_that_gives_too_few_outcomes_leaves_nobody_waiting():
    async def send(n, seed, listeners):
        return []

    with pytest.raises(ValueError):
        await asyncio.wait_for(SamplingPool(1).sample("caller", "prompt", send), 60)


async def test_a_cancelled_call_does_not_cancel_the_others(serve):
    left = threading.Event()
    server = serve(lambda request: [says("late", after=left)] * request.n)
    model = chat(server)
    with use_pool(SamplingPool(1)):
        tasks = [asyncio.create_task(model.ainvoke("Hi")) for _ in range(3)]
        await requests_arrive(server)
        tasks[1].cancel()
        left.set()
        assert (await tasks[0]).content == (await tasks[2]).content == "late"
    assert tasks[1].cancelled()


async def test_a_group_whose_calls_were_all_cancelled_just_now_is_not_sent():
    unheard = list[object]()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: unheard.append(context))

    async def send(n: int, seed: int | None, listeners: object) -> list[Outcome]:
        raise AssertionError("nobody waits for it")

    pool = SamplingPool(1)
    call = asyncio.create_task(pool.sample("caller", "prompt", send))
    await asyncio.sleep(0)
    # In one step of the loop: the call is cancelled but has not come to know of it, and the time of its group is over.
    loop.call_later(QUIET_SECONDS / 2, call.cancel)
    loop.call_soon(time.sleep, 2 * QUIET_SECONDS)
    with pytest.raises(asyncio.CancelledError):
        await call
    assert not unheard


async def test_when_all_calls_are_cancelled_so_is_the_request(serve):
    endless = says(" ".join(["word"] * 20_000))
    server = serve(lambda request: [endless] * request.n)
    model = chat(server)
    with use_pool(SamplingPool(1)):
        tasks = [asyncio.create_task(model.ainvoke("Hi")) for _ in range(2)]
        await requests_arrive(server)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert await asyncio.to_thread(server.hung_up.wait, 60)


async def test_an_error_reaches_every_waiting_call(serve):
    server = serve(failing(Reply(status=401, error="no such key")))
    model = chat(server)
    with use_pool(SamplingPool(1)):
        failures = await asyncio.gather(*(model.ainvoke("Hi") for _ in range(3)), return_exceptions=True)
    assert [type(failure) for failure in failures] == [ModelServerError] * 3
    assert len(server.requests) == 1


async def test_seeds_are_given_after_coalescing_and_follow_from_the_user_seed_alone(serve):
    async def seeds(user_seed: int | None) -> list[int | None]:
        server = serve(numbered)  # on a port of its own, which the seeds must not depend on
        model = chat(server, seed=9)
        with use_pool(SamplingPool(user_seed)):
            for _ in range(2):
                await asyncio.gather(model.ainvoke("Hi"), model.ainvoke("Hi"))
        assert [request.n for request in server.requests] == [2, 2]
        return [request.body.get("seed") for request in server.requests]

    first, second = await seeds(1)
    assert first is not None and 0 <= first < 2**31
    assert first != second
    assert await seeds(1) == [first, second]
    assert not {first, second} & set(await seeds(2))
    assert await seeds(None) == [None, None]


def looked_up(call_ids: str) -> list:
    """A conversation with two native calls and their results, in the other order."""
    calls = [{"name": "search", "args": {"query": "bee"}, "id": call_id} for call_id in call_ids]
    results = [ToolMessage("nothing", tool_call_id=call_id) for call_id in reversed(call_ids)]
    return [*ASK, AIMessage("", tool_calls=calls), *results]


async def test_the_random_names_of_native_calls_neither_change_seeds_nor_keep_rollouts_apart(serve):
    async def asked(*conversations: str) -> list[Request]:
        server = serve(numbered)
        with use_pool(SamplingPool(1)):
            await asyncio.gather(*(chat(server).ainvoke(looked_up(call_ids)) for call_ids in conversations))
        return server.requests

    (first,), (again,) = await asked("ab"), await asked("xy", "pq")
    assert (first.n, again.n) == (1, 2)
    assert first.body["seed"] == again.body["seed"]
    assert [message.get("tool_call_id") for message in first.body["messages"]] == [None, None, "b", "a"]


async def test_results_that_belong_to_other_calls_are_another_prompt(serve):
    server = serve(numbered)
    crossed = [*looked_up("ab")[:2], *reversed(looked_up("ab")[2:])]
    with use_pool(SamplingPool(1)):
        await asyncio.gather(chat(server).ainvoke(looked_up("ab")), chat(server).ainvoke(crossed))
    assert [request.n for request in server.requests] == [1, 1]
    assert len({request.body["seed"] for request in server.requests}) == 2


async def test_a_server_that_refuses_n_is_asked_for_what_it_takes_with_seeds_of_their_own(serve):
    server = serve(numbered, max_n=4)
    model = chat(server)
    with use_pool(SamplingPool(1)):
        messages = await asyncio.gather(*(model.ainvoke("Hi") for _ in range(5)))
        await asyncio.gather(*(model.ainvoke("Ho") for _ in range(4)))
        await asyncio.gather(*(model.ainvoke("He") for _ in range(6)))
    asked = [request.n for request in server.requests]
    assert (asked[:4], sorted(asked[4:])) == ([5, 4, 1, 4], [2, 4])  # never refused again
    seeds = {request.body["seed"] + i for request in server.requests[1:3] for i in range(request.n)}
    assert len(seeds) == len(messages) == 5


async def test_a_refusal_that_names_no_number_halves_what_is_asked_for(serve):
    def script(request: Request) -> list[Reply]:
        return numbered(request) if request.n <= 3 else [Reply(status=400, error="n > 1 is too many here")]

    server = serve(script)
    assert len(await chat(server).agenerate_n("Hi", 8)) == 8
    assert [request.n for request in server.requests] == [8, 4, 2, 2, 2, 2]


async def test_a_refusal_of_something_else_says_nothing_of_n(serve):
    errors = ["the last message of a conversation must be the user's", "there are no choices", "max_completion must"]
    for error in errors:
        replies = iter([[Reply(status=400, error=error)]])
        server = serve(lambda request, replies=replies: next(replies, None) or numbered(request))
        model = chat(server)
        with pytest.raises(ModelServerError, match=error):
            await model.agenerate_n("Hi", 8)
        assert len(await model.agenerate_n("Hi", 8)) == 8
        assert [request.n for request in server.requests] == [8, 8]


async def test_how_many_choices_are_taken_is_known_of_each_model(serve):
    def script(request: Request) -> list[Reply]:
        small = request.body["model"] == "small"
        return [Reply(status=400, error="n must be 1")] if small and request.n > 1 else numbered(request)

    server = serve(script)
    await chat(server).agenerate_n("Hi", 3, model="small")
    await chat(server).agenerate_n("Hi", 3)
    assert [request.n for request in server.requests] == [3, 1, 1, 1, 3]


async def test_several_answers_come_in_one_request_with_their_own_arrays_and_their_share_of_the_prompt(serve):
    server = serve(numbered, prompt_tokens=10)
    handler = TurnRecorder()
    answers = await chat(server, tool_calling="text").agenerate_n(
        "Hi", 3, tools=[search], stop=["x"], config={"callbacks": [handler]}, temperature=0.2
    )
    (request,) = server.requests
    assert (request.n, request.body["temperature"], request.body["stop"][0]) == (3, 0.2, "x")
    assert "search(query: string" in request.body["messages"][0]["content"]
    assert [answer.text for answer in answers] == ["answer 0", "answer 1", "answer 2"]
    assert [answer.token_logprobs.text for answer in answers] == [b"answer 0", b"answer 1", b"answer 2"]
    assert [answer.message.usage_metadata["input_tokens"] for answer in answers] == [4, 3, 3]
    assert handler.usage.generated_tokens == 6


async def test_several_answers_beyond_what_a_server_takes_come_in_few_requests(serve):
    server = serve(numbered, max_n=3)
    answers = await chat(server).agenerate_n("Hi", 8)
    assert len(answers) == 8
    assert sorted(request.n for request in server.requests) == [2, 3, 3, 8]
    assert all(answer.token_logprobs.scored_tokens == 2 for answer in answers)


async def test_several_answers_are_whole_ones_while_somebody_listens_to_tokens(serve):
    answers = await chat(serve(numbered)).agenerate_n("Hi", 2, config={"callbacks": [StreamingStdOut()]})
    assert [answer.text for answer in answers] == ["answer 0", "answer 1"]


async def test_a_call_may_have_a_seed_of_its_own(serve):
    server = serve([says("a")])
    model = chat(server, seed=1)
    await model.ainvoke("Hi", seed=2)
    [chunk async for chunk in model.astream("Hi", seed=3)]
    await model.ainvoke("Hi")
    assert [request.body["seed"] for request in server.requests] == [2, 3, 1]


async def test_no_answers_are_refused_before_any_request(serve):
    server = serve(numbered)
    with pytest.raises(ConfigurationError, match="n=0: ask for one answer at least"):
        await chat(server).agenerate_n("Hi", 0)
    assert server.requests == []


async def test_a_server_that_gives_fewer_choices_is_asked_for_the_rest(serve):
    server = serve([says(f"answer {i}") for i in range(4)], gives=2)
    result = await chat(server).agenerate([ASK], n=4)
    assert [generation.text for generation in result.generations[0]] == [f"answer {i}" for i in range(4)]
    assert [request.n for request in server.requests] == [4, 2]


async def test_one_choice_that_fails_leaves_the_others_standing(serve):
    served = iter([Reply(status=400, error="Field 'n'"), says("a"), Reply(status=422, error="bad"), says("b")])
    server = serve(lambda request: [next(served)])
    model = chat(server)
    with use_pool(SamplingPool(1)):
        results = await asyncio.gather(*(model.ainvoke("Hi") for _ in range(3)), return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["AIMessage", "AIMessage", "ModelServerError"]


@pytest.mark.parametrize("tokens", [1, 3_000])
@pytest.mark.parametrize("tool_calling", ["native", "text"], ids=["body", "streamed"])
async def test_a_choice_with_impossible_log_probabilities_leaves_the_others_standing(serve, tool_calling, tokens):
    above_zero = Reply(tokens=[Token(says="a", logprobs=[0.5])] * tokens)
    server = serve([says("first"), above_zero, says("third")])
    model = chat(server, tool_calling=tool_calling).bind_tools([search])
    with use_pool(SamplingPool(1)):
        results = await asyncio.gather(*(model.ainvoke("Hi") for _ in range(3)), return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["AIMessage", "AIMessage", "LogprobsMalformedError"]
    assert len(server.requests) == 1


async def test_streaming_inside_a_pool_is_coalesced_too(serve):
    server = serve(numbered)
    model = chat(server)

    async def streamed() -> str:
        return "".join([chunk.text async for chunk in model.astream("Hi")])

    with use_pool(SamplingPool(1)):
        texts = await asyncio.gather(streamed(), streamed())
    assert [request.n for request in server.requests] == [2]
    assert sorted(texts) == ["answer 0", "answer 1"]


def test_synchronous_calls_in_a_pool_do_not_wait_for_asynchronous_ones_of_another_loop(serve):
    server = serve(numbered)
    model = chat(server)

    async def both() -> list[AIMessage]:
        with use_pool(SamplingPool(1)):
            return await asyncio.gather(asyncio.to_thread(model.invoke, "Hi"), model.ainvoke("Hi"))

    async def then_close() -> list[AIMessage]:
        from entcent_agents.chat.model import aclose_clients

        try:
            return await asyncio.wait_for(both(), 60)
        finally:
            await aclose_clients()

    assert len(asyncio.run(then_close())) == 2


async def requests_arrive(server) -> None:
    assert await asyncio.to_thread(server.asked.wait, 60)


# Without log-probabilities


def without_logprobs(request):
    """A server that refuses to give any."""
    refused = [name for name in ("logprobs", "top_logprobs") if name in request.body]
    if refused:
        return [Reply(status=400, error=f"Unsupported parameter: '{refused[0]}' is not supported with this model.")]
    return [says("done", logprobs=False)] * request.n


@pytest.mark.parametrize("tools", [[], [search]], ids=["streamed", "body"])
async def test_a_server_that_refuses_log_probabilities_answers_plain_calls(serve, tools):
    server, recorder = serve(without_logprobs), TurnRecorder()
    graph = create_agent(chat(server), tools)
    with pytest.raises(ModelServerError, match="'logprobs' is not supported"):
        await graph.ainvoke({"messages": ASK})
    with plain_sampling():
        state = await graph.ainvoke({"messages": ASK}, {"callbacks": [recorder]})
    assert state["messages"][-1].text == "done"
    assert [turn.logprobs for turn in recorder.turns.values()] == [None]
    with pytest.raises(ModelServerError, match="'logprobs' is not supported"):
        await graph.ainvoke({"messages": ASK})


async def test_plain_calls_inside_rollouts_share_no_request(serve):
    server = serve(without_logprobs)
    model = chat(server)
    with use_pool(SamplingPool(1)), plain_sampling():
        await asyncio.gather(*(model.ainvoke("Hi") for _ in range(3)))
    assert [request.n for request in server.requests] == [1, 1, 1]
    assert ["seed" in request.body for request in server.requests] == [False] * 3


# Tools


async def test_native_tools_are_sent_unstreamed_and_calls_come_back_parsed(serve):
    calls = [("search", '{"query": "x"}'), ("search", '{"query": "x'), ("search", "[1]"), ("search", "")]
    server = serve([Reply(tokens=[Token(says="")], tool_calls=calls)])
    message = await chat(server).bind_tools([search], tool_choice="any").ainvoke("Hi")
    assert server.requests[0].body["stream"] is False
    assert server.requests[0].body["tool_choice"] == "required"
    assert server.requests[0].body["tools"][0]["function"]["name"] == "search"
    assert [call["args"] for call in message.tool_calls] == [{"query": "x"}, {}]
    assert [call["args"] for call in message.invalid_tool_calls] == ['{"query": "x', "[1]"]
    assert message.invalid_tool_calls[1]["error"] == "arguments are list, not an object"


async def test_native_tool_choice_by_name_is_the_api_s_form(serve):
    server = serve([Reply()])
    await chat(server).bind_tools([search], tool_choice="search").ainvoke("Hi")
    assert server.requests[0].body["tool_choice"] == {"type": "function", "function": {"name": "search"}}


async def test_streamed_native_calls_never_make_a_call_of_half_a_call(serve):
    calls = [("search", '{"query": "x"}'), ("search", '{"query": "unclosed')]
    model = chat(serve([Reply(tool_calls=calls)])).bind_tools([search])
    chunks = [chunk async for chunk in model.astream("Hi")]
    whole = sum(chunks[1:], chunks[0])
    assert [call["args"] for call in whole.tool_calls] == [{"query": "x"}]
    assert [call["name"] for call in whole.invalid_tool_calls] == ["search"]
    assert whole.content == "ok"


def text_call(text: str = '```json\n{"name": "search", "arguments": {"query": "bees"}}'):
    return says(f"Let me look.\n{text}")


async def test_text_tools_are_described_in_the_prompt_and_sent_as_text_alone(serve):
    server = serve([text_call()])
    model = chat(server, tool_calling="text").bind_tools([search])
    history = [
        SystemMessage("Be brief."),
        HumanMessage("Bees?"),
        AIMessage("", tool_calls=[{"name": "search", "args": {"query": "bee"}, "id": "1"}]),
        ToolMessage("nothing", name="search", tool_call_id="1"),
        ToolMessage("still nothing", name="search", tool_call_id="2"),
    ]
    await model.ainvoke(history)
    body = server.requests[0].body
    assert "tools" not in body and body["stream"] is False
    assert body["stop"] == ["\n```\n"]
    roles = [message["role"] for message in body["messages"]]
    assert roles == ["system", "user", "assistant", "user"]
    system, _, call, results = (message["content"] for message in body["messages"])
    assert system.startswith("Be brief.")
    assert "search(query: string, limit?: integer): Search the library." in system
    assert '{"name": "search", "arguments": {"query": "bee"}}' in call
    assert results == "<tool_response>\nnothing\n</tool_response>\n<tool_response>\nstill nothing\n</tool_response>"
    assert all(set(message) == {"role", "content"} for message in body["messages"])


async def test_text_calls_are_parsed_by_ainvoke_and_keep_their_coverage(serve):
    model = chat(serve([text_call()]), tool_calling="text").bind_tools([search])
    recorder = TurnRecorder()
    message = await model.ainvoke("Bees?", config={"callbacks": [recorder]})
    assert [(call["name"], call["args"]) for call in message.tool_calls] == [("search", {"query": "bees"})]
    (turn,) = recorder.turns.values()
    assert turn.scored_tokens == turn.generated_tokens == len(turn.logprobs) > 0
    assert turn.message_id == message.id


async def test_astream_gives_text_then_calls_and_the_recorder_gets_the_arrays(serve):
    model = chat(serve([text_call()]), tool_calling="text").bind_tools([search])
    recorder = TurnRecorder()
    chunks = [chunk async for chunk in model.astream("Bees?", config={"callbacks": [recorder]})]
    whole = sum(chunks[1:], chunks[0])
    assert len(chunks) > 3
    assert whole.text.startswith("Let me look.") and whole.text.endswith("}")
    assert [call["args"] for call in whole.tool_calls] == [{"query": "bees"}]
    (turn,) = recorder.turns.values()
    assert turn.scored_tokens == turn.generated_tokens > 0


def test_invoke_works_twice_from_synchronous_code_and_stream_too(serve):
    server = serve([text_call()])
    model = chat(server, tool_calling="text").bind_tools([search])
    for _ in range(2):
        assert model.invoke("Bees?").tool_calls[0]["args"] == {"query": "bees"}
    assert "".join(chunk.text for chunk in model.stream("Bees?")).startswith("Let me look.")
    assert len(server.requests) == 3


# Errors


def texts_of(error: BaseException) -> str:
    """All that a person or a log may see of an error."""
    return "".join(traceback.format_exception(error)) + repr(error) + repr(error.__context__) + repr(error.__cause__)


ANSWERS = {
    "no key": (
        Reply(status=401, error=f"Incorrect API key\nprovided: {KEY}"),
        "answered 401: Incorrect API key provided",
    ),
    "no model": (Reply(status=404, error="model 'scripted' not found"), "answered 404: model 'scripted' not found"),
    "broken": (Reply(status=500, error="out of memory"), "answered 500: out of memory"),
    "event": (Reply(raw=b'data: {"error": {"message": "%s\\n"}}\n\n' % KEY.encode()), "broke off"),
    "other": (Reply(raw=b"data: [1, 2]\n\n"), "does not answer as an OpenAI chat API does"),
    "silent": (Reply(raw=b"<html>welcome</html>"), "without a single choice"),
}


@pytest.mark.parametrize("reply, says_so", ANSWERS.values(), ids=ANSWERS)
async def test_acheck_says_in_one_line_what_the_server_said_and_never_the_key(serve, reply, says_so):
    model = chat(serve(failing(reply)), api_key=KEY)
    with pytest.raises(ModelServerError) as caught:
        await model.acheck()
    assert says_so in str(caught.value)
    assert "\n" not in str(caught.value)
    assert KEY not in texts_of(caught.value)
    assert KEY not in repr(model) and KEY not in str(model) and KEY not in model.model_dump_json()


async def test_acheck_names_the_address_where_nobody_answers():
    model = ChatLogprobs(model="m", base_url="http://127.0.0.1:9/v1", api_key=KEY, max_retries=0)
    with pytest.raises(
        ModelServerError, match=r"no model server answers at http://127.0.0.1:9/v1/ \(.+\): start"
    ) as caught:
        await model.acheck()
    assert "\n" not in str(caught.value)
    assert KEY not in texts_of(caught.value)


async def test_acheck_refuses_a_server_without_logprobs_and_asks_for_one_token(serve):
    server = serve([says("x", logprobs=False)])
    with pytest.raises(LogprobsMissingError, match="gives no log-probabilities") as caught:
        await chat(server).acheck()
    assert "\n" not in str(caught.value)
    assert server.requests[0].body["max_tokens"] == 1


async def test_acheck_shows_no_query_of_the_address(serve):
    server = serve([says("x", logprobs=False)])
    with pytest.raises(LogprobsMissingError) as caught:
        await chat(server, base_url=f"{server.base_url}?token={KEY}").acheck()
    assert server.base_url in str(caught.value)
    assert KEY not in texts_of(caught.value)


async def test_acheck_passes_where_all_is_well_and_the_key_goes_in_the_header_alone(serve):
    server = serve([says("x")])
    await chat(server, api_key=KEY).acheck()
    assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"
    assert KEY not in repr(server.requests[0].body)


@pytest.mark.parametrize("how", ["close", "cut"])
async def test_a_stream_that_breaks_off_is_a_server_error(serve, how):
    server = serve([says("a b c d", breaks_after=2, breaks_how=how)])
    with pytest.raises(ModelServerError, match="broke off in the middle"):
        await chat(server).ainvoke("Hi")


async def test_silence_longer_than_the_timeout_is_a_server_error(serve_hurried):
    server = serve_hurried([says("late", delay_seconds=math.inf)])
    with pytest.raises(ModelServerError, match="did not answer in time"):
        await chat(server, timeout_seconds=30).ainvoke("Hi")


async def test_too_many_requests_are_repeated_after_the_wait_the_server_asks_for(serve):
    served = iter([Reply(status=429, error="slow down", headers={"Retry-After": "0.2"}), says("done")])
    server = serve(lambda request: [next(served)])
    started = time.monotonic()
    assert (await chat(server, max_retries=1).ainvoke("Hi")).content == "done"
    assert time.monotonic() - started >= 0.2
    assert len(server.requests) == 2


async def test_settings_reach_the_body_and_unset_ones_do_not(serve):
    server = serve([says("x")])
    await chat(server, max_tokens=9, seed=3, top_logprobs=5, extra_body={"min_p": 0.1}).ainvoke("Hi", stop=["END"])
    body = server.requests[0].body
    expected = {"max_tokens": 9, "seed": 3, "top_logprobs": 5, "logprobs": True, "min_p": 0.1, "stop": ["END"]}
    assert body.items() >= expected.items()
    assert not {"top_p", "tools", "tool_choice", "n", "response_format"} & set(body)


async def test_settings_of_one_call_reach_the_body(serve):
    server = serve([says("x")])
    model = chat(server).bind_tools([search], parallel_tool_calls=False)
    await model.ainvoke("Hi", model="other", top_p=0.5, temperature=0.1, max_tokens=3)
    expected = {"model": "other", "top_p": 0.5, "temperature": 0.1, "max_tokens": 3, "parallel_tool_calls": False}
    assert server.requests[0].body.items() >= expected.items()


async def test_further_fields_of_the_api_reach_the_body_and_what_is_unknown_is_refused(serve):
    server = serve([says("x")])
    fields = {"presence_penalty": 1.5, "frequency_penalty": 1.0, "logit_bias": {"1": 5}, "top_logprobs": 3}
    await chat(server).ainvoke("Hi", **fields)
    assert server.requests[0].body.items() >= fields.items()
    with pytest.raises(ConfigurationError, match="no setting min_p, typo: .+ extra_body"):
        await chat(server).ainvoke("Hi", presence_penalty=1.5, typo=1, min_p=0.1)
    assert len(server.requests) == 1


async def test_a_single_string_that_ends_a_turn_is_sent_whole(serve):
    server = serve([says("x")])
    await chat(server).ainvoke("Hi", stop="END")
    await chat(server, tool_calling="text").bind_tools([search]).ainvoke("Hi", stop="END")
    assert [request.body["stop"] for request in server.requests] == [["END"], ["END", "\n```\n"]]


@pytest.mark.parametrize("other", [{"extra_body": {"min_p": 0.2}}, {"query": "?deployment=b"}], ids=str)
async def test_caches_tell_models_apart_by_what_is_not_shown_and_do_not_hold_it(serve, other):
    def cached(extra_body: dict[str, Any], query: str) -> ChatLogprobs:
        return chat(server, base_url=server.base_url + query, extra_body=extra_body, cache=cache)

    server, cache = serve([says("first"), says("second")]), InMemoryCache()
    one = {"extra_body": {"min_p": 0.1, "secret": KEY}, "query": f"?deployment=a&key={KEY}"}
    assert [(await cached(**one).ainvoke("Hi")).content for _ in range(2)] == ["first", "first"]
    assert (await cached(**one | other).ainvoke("Hi")).content == "second"
    assert len(server.requests) == 2
    assert KEY not in repr(cache._cache)


def test_a_timeout_is_understood_by_langchain_s_name_too():
    assert ChatLogprobs(model="m", timeout=5).timeout_seconds == 5.0
    assert ChatLogprobs(model="m", timeout_seconds=5).timeout_seconds == 5.0


def test_a_synchronous_stream_comes_in_pieces_and_can_be_given_up(serve):
    server = serve([says("a b c")])
    pieces = [piece.text for piece in chat(server).stream("Hi")]
    assert pieces[:3] == ["a", " b", " c"]
    endless = serve([says(" ".join(["word"] * 20_000))])
    for _ in chat(endless).stream("Hi"):
        break
    assert endless.hung_up.wait(10)


def test_a_client_of_the_background_loop_is_closed_there(serve):
    server = serve([says("x")])

    async def call(request: Request | None = None) -> str:
        return (await chat(server).ainvoke("Hi")).content

    assert run_sync(call()) == run_sync(call()) == "x"


async def test_a_key_with_a_line_break_is_used_without_it_or_refused_and_never_shown(serve):
    server = serve()
    model = ChatLogprobs(model="m", base_url=server.base_url, api_key="sk-secret\r\n")
    await model.ainvoke("hi")
    assert server.requests[0].headers["authorization"] == "Bearer sk-secret"
    broken = ChatLogprobs(model="m", base_url=server.base_url, api_key="sk-sec\rret")
    with pytest.raises(ConfigurationError) as refused:
        await broken.ainvoke("hi")
    assert "sk-sec" not in str(refused.value)
