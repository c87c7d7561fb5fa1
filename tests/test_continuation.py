"""Going on from a prefix: each server's way, what is checked at the joint, and what is refused."""

from __future__ import annotations

import asyncio
import traceback
from dataclasses import replace

import numpy as np
import pytest

from entcent_agents.capture.arrays import arrays_of
from entcent_agents.chat.completion import Completion
from entcent_agents.chat.continuation import ContinuationMethod, Joint, half_answer
from entcent_agents.chat.learnt import forget_servers
from entcent_agents.chat.model import ChatLogprobs
from entcent_agents.chat.sampling import SamplingPool, use_pool
from entcent_agents.errors import ConfigurationError, ContinuationError, ModelServerError
from entcent_agents.logprobs import TokenLogprobs
from tests.chat_server import Reply
from tests.continuing_server import PROMPT, ContinuingServer, split

WAYS = {
    "llama": ContinuationMethod.LLAMA_TOKENS,
    "vllm": ContinuationMethod.VLLM_TOKENS,
    "flag": ContinuationMethod.FINAL_MESSAGE,
    "prefix": ContinuationMethod.PREFIX_MESSAGE,
    "trailing": ContinuationMethod.FINAL_MESSAGE,  # a server that does it by itself does it with a flag too
}
EXTRA = {"extra_body": {"return_token_ids": True}}


def chat(server, **settings) -> ChatLogprobs:
    return ChatLogprobs(model="scripted", base_url=server.base_url, top_logprobs=2, max_retries=0, **settings)


async def beginning(model: ChatLogprobs, tokens: int):
    answer, *_ = await model.agenerate_n("Count", 1)
    return answer.token_logprobs.head(tokens)


@pytest.mark.parametrize(("way", "method"), WAYS.items())
async def test_the_way_a_server_goes_on_is_found_and_the_prefix_is_not_generated_again(serve, way, method):
    server = serve(ContinuingServer((way,)))
    model = chat(server)
    found = await model.acontinue("Count", await beginning(model, 3))
    assert found.method is method
    assert found.message.text == "one two three four five six seven eight"
    assert found.generation.token_logprobs.text == b" four five six seven eight"
    assert found.generation.token_logprobs.scored_tokens == 5
    assert found.generation.token_logprobs.top_k == 2
    assert np.allclose(found.generation.token_logprobs.entropy, np.log(2))
    assert found.message.usage_metadata["output_tokens"] == 5
    assert found.reused_tokens == 3


@pytest.mark.parametrize("way", WAYS)
async def test_a_server_is_measured_once(serve, way):
    server = serve(ContinuingServer((way,)))
    model = chat(server)
    prefix = await beginning(model, 3)
    await model.acontinue("Count", prefix)
    before = len(server.requests)
    await model.acontinue("Count", prefix)
    generating = [r for r in server.requests[before:] if r.path.endswith("/completions")]
    assert len(generating) == 1


@pytest.mark.parametrize("way", ["llama", "vllm"])
async def test_with_the_tokens_own_numbers_the_joint_is_exact_though_the_text_would_be_read_otherwise(serve, way):
    script = ContinuingServer((way,), merges=True)
    server = serve(script)
    model = chat(server)
    text = await model.acontinue("Count", "one two three")
    assert text.joint is Joint.UNCHECKED  # nobody generated it
    assert text.reused_tokens == 2
    prefix = text.generation.token_logprobs.head(2)
    assert prefix.ids.tolist() == [script.number(" four"), script.number(" five")]
    script.words = " four five six seven"
    found = await model.acontinue("Count", prefix)
    assert found.joint is Joint.EXACT
    assert server.requests[-1].body["prompt"] == [*PROMPT, *prefix.ids.tolist()]


@pytest.mark.parametrize(("way", "told"), [("llama", Joint.EXACT), ("vllm", Joint.UNCHECKED)])
async def test_without_numbers_the_tokens_that_the_text_falls_into_are_compared(serve, way, told):
    script = ContinuingServer((way,))
    model = chat(serve(script))
    prefix = await beginning(model, 3)
    assert prefix.ids is None
    assert (await model.acontinue("Count", prefix)).joint is told  # vLLM tells numbers alone: as many, for all we know
    script.merges = True
    assert (await model.acontinue("Count", prefix)).joint is Joint.RETOKENISED


async def test_tokens_that_are_listed_as_one_are_told_apart(serve):
    """llama.cpp does so inside a character, and where text could begin a stop string; the number is the last one's."""
    script = ContinuingServer(("llama",), holds=True)
    server = serve(script)
    model = chat(server)
    held = (await model.acontinue("Count", "one two three")).generation.token_logprobs.head(2)
    assert [held.token(i) for i in range(2)] == [b" four five", b" six"]
    script.words = " four five six seven"
    found = await model.acontinue("Count", held)
    assert found.joint is Joint.EXACT
    assert server.requests[-1].body["prompt"] == [*PROMPT, *map(script.number, (" four", " five", " six"))]
    assert found.reused_tokens == 3
    wrong = replace(held, ids=held.ids[::-1])
    assert (await model.acontinue("Count", wrong)).joint is Joint.RETOKENISED


async def test_last_tokens_that_say_nothing_are_generated_again(serve):
    """As llama.cpp lists them in a whole answer: the text that it held back is that of a later token."""
    script = ContinuingServer(("llama",))
    server = serve(script)
    model = chat(server)
    whole = (await model.acontinue("Count", "one two three")).generation.token_logprobs.head(3)
    held = replace(whole, text=whole.head(2).text, offsets=whole.offsets[[0, 1, 2, 2]])
    script.words = " four five six seven"
    found = await model.acontinue("Count", held)
    assert (found.joint, found.reused_tokens) == (Joint.EXACT, 2)
    assert server.requests[-1].body["prompt"] == [*PROMPT, script.number(" four"), script.number(" five")]
    assert found.message.text == " four five six seven"


@pytest.mark.parametrize("method", [m for m in ContinuationMethod if m.endswith("message")])
async def test_messages_are_compared_too_where_the_server_tells_its_tokens(serve, method):
    script = ContinuingServer(("llama", "flag", "prefix", "trailing"), merges=True)
    model = chat(serve(script))
    prefix = await beginning(model, 3)
    assert (await model.acontinue("Count", prefix, method=method)).joint is Joint.RETOKENISED
    script.merges = False
    assert (await model.acontinue("Count", prefix, method=method)).joint is Joint.EXACT


async def test_a_prefix_that_comes_back_in_the_text_is_not_doubled(serve):
    model = chat(serve(ContinuingServer(("prefix",), echoes=True)))
    found = await model.acontinue("Count", await beginning(model, 3))
    assert found.method is ContinuationMethod.PREFIX_MESSAGE
    assert found.message.text == "one two three four five six seven eight"
    assert found.generation.token_logprobs.text == b" four five six seven eight"


@pytest.mark.parametrize("way", ["flag", "prefix"])
async def test_a_server_that_begins_anew_is_found_out(serve, way):
    script = ContinuingServer((way,))
    model = chat(serve(script))
    prefix = await beginning(model, 3)
    await model.acontinue("Count", prefix)
    script.anew = True
    with pytest.raises(ContinuationError, match="wrote it again: 'one two three'"):
        await model.acontinue("Count", prefix)


@pytest.mark.parametrize("echoes", [False, True])
async def test_a_short_prefix_may_come_twice(serve, echoes):
    script = ContinuingServer(("prefix",), echoes=echoes)
    model = chat(serve(script))
    await model.acontinue("Count", "one")
    script.words = "go go go"
    found = await model.acontinue("Count", "go")
    assert found.message.text == "go go go"
    script.words = "gogo go"
    found = await model.acontinue("Count", "go")
    assert (found.message.text, found.generation.token_logprobs.text) == ("gogo go", b"go go")


@pytest.mark.parametrize("way", ["llama", "vllm"])
async def test_a_server_that_reads_other_than_it_is_sent_is_found_out(serve, way):
    script = ContinuingServer((way,))
    model = chat(serve(script))
    prefix = await beginning(model, 3)
    await model.acontinue("Count", prefix)
    script.lost = 1
    with pytest.raises(ContinuationError, match="read 5 tokens where 3 of prompt and 3 of prefix were sent"):
        await model.acontinue("Count", prefix)


async def test_a_server_that_goes_on_in_no_way_is_named_with_those_that_do(serve):
    model = chat(serve(ContinuingServer()))
    prefix = await beginning(model, 3)
    for _ in range(2):
        with pytest.raises(ConfigurationError, match=r"scripted at http.* goes on from no text.*llama\.cpp.*/beta"):
            await model.acontinue("Count", prefix)


async def test_a_server_that_fails_while_it_is_measured_is_measured_again(serve):
    script = ContinuingServer(("llama",), failing=("/apply-template",))
    model = chat(serve(script))
    prefix = await beginning(model, 3)
    with pytest.raises(ModelServerError, match="503: out of memory"):
        await model.acontinue("Count", prefix)
    script.failing = ()
    assert (await model.acontinue("Count", prefix)).method is ContinuationMethod.LLAMA_TOKENS


async def test_what_cannot_be_continued_is_refused_before_any_request(serve):
    server = serve(ContinuingServer(("llama",), words="häuser two three"))
    model = chat(server, max_tokens=3)
    prefix = await beginning(model, 1)
    inside = replace(prefix, text="hä".encode()[:2], offsets=np.array([0, 2], np.int32))
    before = len(server.requests)
    for wrong, reason in [("", "empty prefix"), (prefix.head(0), "empty prefix"), (inside, "inside a character")]:
        with pytest.raises(ConfigurationError, match=reason):
            await model.acontinue("Count", wrong)
    schema = {"type": "json_object"}
    with pytest.raises(ConfigurationError, match="response_format constrains"):
        await model.acontinue("Count", prefix, method=ContinuationMethod.LLAMA_TOKENS, response_format=schema)
    for field in ("grammar", "regex", "guided_choice", "structural_tag"):
        with pytest.raises(ConfigurationError, match=f"{field} constrains"):
            await model.acontinue("Count", prefix, method=ContinuationMethod.LLAMA_TOKENS, extra_body={field: "a"})
    assert len(server.requests) == before
    with pytest.raises(ConfigurationError, match="3 tokens and the turn is to have 3 at most: raise max_tokens"):
        await model.acontinue("Count", "one two three")


async def test_the_turns_own_limit_counts_the_prefix(serve):
    server = serve(ContinuingServer(("llama",)))
    model = chat(server, max_tokens=5)
    found = await model.acontinue("Count", await beginning(model, 3))
    assert found.message.text == "one two three four five"
    assert server.requests[-1].body["max_tokens"] == 2


async def test_a_call_that_is_cut_in_two_is_read_as_one(serve):
    def search(query: str) -> str:
        """Search."""
        return query

    call = '{"name": "search", "arguments": {"query": "penguins and seals"}}'
    server = serve(ContinuingServer(("llama",), words=call))
    model = chat(server, tool_calling="text")
    cut = len(split('{"name": "search", "arguments": {"query": "penguins'))
    found = await model.acontinue("Count", await beginning(model, cut), tools=[search])
    assert [(c["name"], c["args"]) for c in found.message.tool_calls] == [("search", {"query": "penguins and seals"})]
    assert "search" in server.requests[-4].body["messages"][0]["content"]


async def test_a_stop_that_lies_across_the_joint_ends_the_turn(serve):
    server = serve(ContinuingServer(("llama",)))
    model = chat(server, stop=["three four"])
    found = await model.acontinue("Count", await beginning(chat(server), 3))
    assert found.message.text == "one two "
    assert found.generation.generation_info["finish_reason"] == "stop"
    assert found.generation.token_logprobs.scored_tokens == found.message.usage_metadata["output_tokens"] == 5


async def test_continuations_of_a_pool_have_seeds_of_their_own(serve):
    server = serve(ContinuingServer(("llama",)))
    model = chat(server)
    prefix = await beginning(model, 3)
    with use_pool(SamplingPool(1)):
        for _ in range(2):
            await model.acontinue("Count", prefix)
    seeds = [r.body["seed"] for r in server.requests if r.path.endswith("/completions") and "seed" in r.body]
    assert len(seeds) == len(set(seeds)) == 2


async def test_the_settings_of_the_model_hold_for_the_rest_of_the_turn(serve):
    server = serve(ContinuingServer(("vllm",)))
    model = chat(server, temperature=0.3, top_p=0.9, extra_body={"min_p": 0.1})
    await model.acontinue("Count", await beginning(model, 3), temperature=0.4)
    body = server.requests[-1].body
    assert (body["temperature"], body["top_p"], body["min_p"], body["logprobs"]) == (0.4, 0.9, 0.1, 2)


async def test_those_who_ask_at_the_same_time_wait_for_one_measurement(serve):
    server = serve(ContinuingServer(("llama",)))
    model = chat(server)
    prefix = await beginning(model, 3)
    await asyncio.gather(*(model.acontinue("Count", prefix) for _ in range(8)))
    probes = [
        r for r in server.requests if r.path.endswith("/chat/completions") and "Count from" in str(r.body["messages"])
    ]
    assert len(probes) == 1


async def test_an_answer_that_tells_nothing_is_not_remembered(serve):
    script = ContinuingServer(("llama",), words="one")
    model = chat(serve(script))
    with pytest.raises(ConfigurationError, match="cannot be measured: its answer was a single token"):
        await model.acontinue("Count", "one")
    script.words = "one two three four"
    assert (await model.acontinue("Count", "one")).method is ContinuationMethod.LLAMA_TOKENS


async def test_a_server_that_fails_on_one_way_is_measured_by_the_others_and_nothing_is_concluded_from_it(serve):
    script = ContinuingServer(("prefix",), failing=("/apply-template",), fails_with=500)
    model = chat(serve(script))
    prefix = await beginning(model, 3)
    assert (await model.acontinue("Count", prefix)).method is ContinuationMethod.PREFIX_MESSAGE
    forget_servers()
    script.ways = ()
    with pytest.raises(ModelServerError, match="500: out of memory"):
        await model.acontinue("Count", prefix)


def test_an_answer_is_halved_between_characters():
    tokens = [b"\xe4\xb8", b"\x80", b"\xe4\xba", b"\x8c"]
    half = half_answer(completion(arrays_of(tokens, np.full((4, 2), np.log(0.5)), [np.log(0.5)] * 4)))
    assert half is not None
    assert (half.prefix.text, half.rest) == ("一", "二")
    whole_character = arrays_of(tokens[:2], np.full((2, 2), np.log(0.5)), [np.log(0.5)] * 2)
    assert half_answer(completion(whole_character)) is None


def completion(logprobs: TokenLogprobs) -> Completion:
    return Completion(
        text=logprobs.text.decode(),
        reasoning="",
        tool_calls=(),
        logprobs=logprobs,
        finish_reason="stop",
        prompt_tokens=1,
        cached_tokens=None,
        generated_tokens=len(logprobs),
        model="scripted",
    )


async def test_an_answer_beside_the_api_that_is_no_json_is_an_error_of_ours_without_the_key(serve):
    def script(request):
        return [Reply(raw=b"<html>sk-secret")] if "template" in request.path else ContinuingServer(("llama",))(request)

    model = chat(serve(script), api_key="sk-secret")
    with pytest.raises(ModelServerError, match="does not answer as expected") as caught:
        await model.acontinue("Count", "one", method=ContinuationMethod.LLAMA_TOKENS)
    shown = "".join(traceback.format_exception(caught.value))
    assert "sk-secret" not in shown
