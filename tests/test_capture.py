"""Foreign payloads on arrival: what is scored, what is missing, what leaves the message."""

from __future__ import annotations

import asyncio
import json
import math
import threading
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
import tiktoken
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, SystemMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, LLMResult
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from openai.types.chat.chat_completion import ChoiceLogprobs

from entcent_agents.capture import tokens
from entcent_agents.capture.messages import capture_logprobs
from entcent_agents.capture.recorder import LogprobsGeneration, LogprobsGenerationChunk, TurnRecorder
from entcent_agents.capture.tokens import MESSAGE_TOKENS, estimated_prompt_tokens, estimated_tokens
from entcent_agents.errors import LogprobsMalformedError
from entcent_agents.logprobs import TokenLogprobs
from entcent_agents.testing import ScriptedChat, ScriptedTurn, scripted_logprobs
from entcent_agents.trajectory import Trajectory, Turn

HALF, QUARTER = math.log(0.5), math.log(0.25)


def entry(token: str, logprob: float | None, top: list[float | None] | None, raw: list[int] | None = None) -> dict:
    alternatives = None if top is None else [{"token": "?", "bytes": None, "logprob": value} for value in top]
    return {"token": token, "logprob": logprob, "bytes": raw, "top_logprobs": alternatives}


def metadata(*entries: dict) -> dict:
    """As ChatOpenAI leaves it in `response_metadata`."""
    return {"model_name": "m", "logprobs": {"content": list(entries), "refusal": None}}


def logprobs_of_metadata(response_metadata: dict) -> TokenLogprobs | None:
    return capture_logprobs(AIMessage("", response_metadata=response_metadata))


def test_the_shape_of_chat_openai_becomes_arrays():
    found = logprobs_of_metadata(metadata(entry("Hi", HALF, [HALF, HALF]), entry("!", 0.0, [0.0])))
    np.testing.assert_allclose(found.entropy, [math.log(2), 0.0], atol=1e-6)
    np.testing.assert_allclose(found.logprob, [HALF, 0.0], atol=1e-6)
    assert (found.text, found.top_k) == (b"Hi!", 2)


def test_objects_of_the_sdk_and_the_dicts_a_checkpoint_makes_of_them_give_the_same():
    typed = ChoiceLogprobs.model_validate(metadata(entry("Hi", HALF, [HALF, HALF]))["logprobs"])
    serializer = JsonPlusSerializer()
    stored = serializer.loads_typed(serializer.dumps_typed(typed.model_dump()))
    for shape in (typed, stored):
        assert logprobs_of_metadata({"logprobs": shape}).entropy[0] == pytest.approx(math.log(2))


@pytest.mark.parametrize("raw", [None, {"content": None}, {"content": []}, {"refusal": None}])
def test_nothing_is_none(raw):
    assert logprobs_of_metadata({"logprobs": raw}) is None


@pytest.mark.parametrize("absent", [None, -9999.0, -3.4028234663852886e38, math.nan, -math.inf])
def test_absent_entries_are_unscored_and_never_certain(absent):
    found = logprobs_of_metadata(metadata(entry("a", absent, [absent, absent]), entry("b", HALF, [HALF, HALF, absent])))
    assert found.scored.tolist() == [False, True]
    assert np.isnan(found.entropy[0]) and np.isnan(found.logprob[0])
    assert found.entropy[1] == pytest.approx(math.log(2))


@pytest.mark.parametrize("top", [None, []])
def test_a_token_without_alternatives_is_unscored(top):
    found = logprobs_of_metadata(metadata(entry("a", -0.1, top), entry("b", HALF, [HALF, HALF])))
    assert found.scored.tolist() == [False, True]
    assert found.logprob[0] == pytest.approx(-0.1)


def test_a_sampled_token_listed_first_outside_the_top_k_changes_nothing_but_its_own_mass():
    unlikely = math.log(0.1)
    first = logprobs_of_metadata(metadata(entry("a", unlikely, [unlikely, HALF, QUARTER])))
    last = logprobs_of_metadata(metadata(entry("a", unlikely, [HALF, QUARTER, unlikely])))
    assert first.entropy[0] == pytest.approx(last.entropy[0])
    assert first.residual[0] == pytest.approx(0.15, abs=1e-6)
    assert first.logprob[0] == pytest.approx(unlikely)


def test_entries_with_fewer_alternatives_are_scored_on_what_they_have():
    found = logprobs_of_metadata(metadata(entry("a", 0.0, [0.0]), entry("b", QUARTER, [QUARTER] * 4)))
    np.testing.assert_allclose(found.entropy, [0.0, math.log(4)], atol=1e-6)
    assert found.top_k == 4


def test_tokens_inside_a_character_concatenate_to_the_text():
    snowman = list("☃".encode())
    found = logprobs_of_metadata(
        metadata(
            entry("\ufffd", HALF, [HALF], snowman[:2]), entry("\ufffd", HALF, [HALF], snowman[2:]), entry("é", 0, [0])
        )
    )
    assert found.text.decode() == "☃é"
    assert [found.token(i) for i in range(3)] == [bytes(snowman[:2]), bytes(snowman[2:]), "é".encode()]


MALFORMED = {
    "a list of rows": [[0.1, 0.2]],
    "text": "none",
    "content of another kind": {"content": {"tokens": ["a"]}},
    "probabilities in words": {"content": [{"token": "a", "logprob": "high"}]},
    "bytes that are none": {"content": [{"token": "a", "logprob": -1.0, "bytes": [300]}]},
    "a positive logprob": {"content": [entry("a", 0.7, [0.7])]},
}


@pytest.mark.parametrize("raw", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_shape_is_refused_by_the_reader(raw):
    with pytest.raises(LogprobsMalformedError):
        logprobs_of_metadata({"logprobs": raw})


@pytest.mark.parametrize("raw", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_shape_is_missing_to_the_recorder_as_coverage_says(raw):
    recorder = TurnRecorder()
    message = answer(raw=raw, output_tokens=5)
    record(recorder, message)
    trajectory = Trajectory(turns=tuple(recorder.turns.values()))
    assert (trajectory.coverage, trajectory.generated_tokens) == (0.0, 5)
    assert "logprobs" not in message.response_metadata


def answer(text: str = "Hi", raw: object = None, output_tokens: int | None = None, message_id: str = "a") -> AIMessage:
    usage = output_tokens and {"input_tokens": 3, "output_tokens": output_tokens, "total_tokens": 3 + output_tokens}
    extra = {} if raw is None else {"logprobs": raw}
    return AIMessage(
        text, id=message_id, response_metadata={"finish_reason": "stop", **extra}, usage_metadata=usage or None
    )


def record(recorder: TurnRecorder, *messages: AIMessage) -> None:
    """One model call with so many choices."""
    result = LLMResult(generations=[[ChatGeneration(message=message) for message in messages]])
    recorder.on_llm_end(result, run_id=uuid4())


def test_raw_logprobs_leave_the_message_and_the_rest_stays():
    heard = []
    message = answer(raw=metadata(entry("Hi", HALF, [HALF, HALF]))["logprobs"], output_tokens=1)
    record(TurnRecorder(on_turn=heard.append), message)
    assert message.response_metadata == {"finish_reason": "stop"}
    assert [turn.scored_tokens for turn in heard] == [1]


@pytest.mark.parametrize(
    ("told", "may_be_run_again"), [(None, False), (asyncio.CancelledError(), False), ("end", True)]
)
def test_a_tool_that_was_cut_off_may_have_acted_whether_or_not_the_framework_tells_of_it(
    told: Any, may_be_run_again: bool
):
    recorder, run_id, failed = TurnRecorder(), uuid4(), TimeoutError("the model did not answer")
    recorder.on_tool_start({"name": "pay"}, "", run_id=run_id)
    recorder.on_llm_error(failed, run_id=uuid4())
    if told == "end":
        recorder.on_tool_end("paid", run_id=run_id)
    elif told is not None:
        recorder.on_tool_error(told, run_id=run_id)
    assert recorder.failed_with(failed) is may_be_run_again
    assert recorder.failed_with(failed, repeatable=["pay"])


def test_usage_counts_every_call_and_choices_of_one_call_once():
    recorder = TurnRecorder()
    record(recorder, answer(output_tokens=5, message_id="kept"))
    record(recorder, answer(output_tokens=7, message_id="of a summariser"))
    record(recorder, answer(output_tokens=1, message_id="b"), answer(output_tokens=1, message_id="c"))
    assert (recorder.usage.generated_tokens, recorder.usage.model_calls) == (14, 3)
    assert set(recorder.turns) == {"kept", "of a summariser", "b", "c"}


def test_tokens_are_estimated_where_nobody_counted_them():
    recorder = TurnRecorder()
    call = {"name": "search", "args": {}, "id": "1"}
    record(recorder, answer("x" * 40, message_id="text"))
    record(recorder, AIMessage("", id="call", tool_calls=[call]))
    assert recorder.turns["text"].generated_tokens == 10
    assert recorder.turns["call"].generated_tokens == 2
    assert recorder.turns["text"].scored_tokens == 0


def test_a_token_whose_other_alternatives_the_server_left_out_is_unscored_not_certain():
    logprobs = logprobs_of_metadata(metadata(entry("Hi", HALF, [HALF]), entry("!", 0.0, [0.0])))
    np.testing.assert_array_equal(logprobs.scored, [False, True])
    np.testing.assert_allclose(logprobs.logprob, [HALF, 0.0], atol=1e-6)


def test_more_tokens_than_entries_lower_the_coverage():
    recorder = TurnRecorder()
    record(recorder, answer(raw=metadata(entry("Hi", HALF, [HALF, HALF]))["logprobs"], output_tokens=4))
    assert Trajectory(turns=tuple(recorder.turns.values())).coverage == 0.25


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No vocabulary at hand, and none to be had."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    for variable in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    tokens._encoding.cache_clear()
    yield
    tokens._encoding.cache_clear()


@pytest.mark.parametrize("model", ["", "some-local-model", "gpt-4o"])
def test_estimates_need_no_vocabulary(model, offline):
    assert estimated_tokens("12345", model) == 2
    assert estimated_tokens("", model) == 0


CONVERSATION = [
    SystemMessage("x" * 8),
    HumanMessage(
        [{"type": "text", "text": "x" * 12}, {"type": "image_url", "image_url": {"url": "data:," + "x" * 99}}]
    ),
    AIMessage("", tool_calls=[{"name": "add", "args": {"a": 1}, "id": "1"}]),
    ToolMessage("x" * 20, tool_call_id="1"),
]


def test_a_prompt_without_a_vocabulary_counts_bytes_over_four_and_the_frames(offline):
    roles = 2 + 1 + 3 + 1  # system, user, assistant, tool
    texts = 2 + 3 + math.ceil(len('add{"a": 1}') / 4) + 5
    assert estimated_prompt_tokens(CONVERSATION, "gpt-4o") == roles + texts + MESSAGE_TOKENS * 5
    assert estimated_prompt_tokens([], "gpt-4o") == MESSAGE_TOKENS


def test_a_prompt_of_an_openai_model_is_counted_by_its_vocabulary(monkeypatch, offline):
    ranks = {bytes([i]): i for i in range(256)}
    a_token_a_byte = tiktoken.Encoding("bytes", pat_str=r"(?s).", mergeable_ranks=ranks, special_tokens={})
    monkeypatch.setitem(tiktoken.registry.ENCODINGS, "o200k_base", a_token_a_byte)
    assert estimated_prompt_tokens([HumanMessage("hello")], "gpt-4o") == len("user") + len("hello") + 2 * MESSAGE_TOKENS
    assert estimated_prompt_tokens([HumanMessage("hello")], "another") == 1 + 2 + 2 * MESSAGE_TOKENS


def test_tools_are_part_of_a_prompt(offline):
    tool = {"type": "function", "function": {"name": "add", "description": "", "parameters": {}}}
    with_tool = estimated_prompt_tokens(CONVERSATION, tools=[tool])
    assert with_tool - estimated_prompt_tokens(CONVERSATION) == math.ceil(
        len(json.dumps(tool, separators=(",", ":"))) / 4
    )


def test_chunks_add_up_to_one_that_keeps_the_arrays():
    arrays = scripted_logprobs([1.0])
    first = LogprobsGenerationChunk(message=AIMessageChunk(content="a"))
    last = LogprobsGenerationChunk(message=AIMessageChunk(content="b"), token_logprobs=arrays)
    plain = ChatGenerationChunk(message=AIMessageChunk(content="c"))
    for total in (first + last, first.__add__([plain, last]), last + plain):
        assert total.token_logprobs is arrays
    assert first.__add__([last]).text == "ab"


def test_arrays_beside_a_message_are_not_serialised():
    generation = LogprobsGeneration(message=answer(), token_logprobs=scripted_logprobs([1.0]))
    assert "token_logprobs" not in generation.model_dump()
    json.dumps(generation.message.model_dump())


@pytest.mark.parametrize("streams", [False, True])
async def test_the_scripted_model_brings_its_arrays_streamed_or_not(streams):
    model, recorder = ScriptedChat(scripts=[[ScriptedTurn(text="Hi", entropy=[0.5, 1.0])]]), TurnRecorder()
    config = {"callbacks": [recorder]}
    if streams:
        assert "".join([chunk.text async for chunk in model.astream("Go", config)]) == "Hi"
    else:
        await model.ainvoke("Go", config)
    (turn,) = recorder.turns.values()
    assert turn.logprobs.entropy.tolist() == [0.5, 1.0]


def test_what_a_turn_said_can_be_asked_while_a_thread_records_others():
    recorder, done = TurnRecorder(), threading.Event()
    turns = [Turn(message_id=f"message {number}", generated_tokens=1) for number in range(2000)]

    def record() -> None:
        for turn in turns:
            recorder.remember(turn, f"words of {turn.message_id}")
        done.set()

    (recording := threading.Thread(target=record)).start()
    while not done.is_set():
        recorder.words_of(turns[-1])
    recording.join()
    assert [recorder.words_of(turn) for turn in turns] == [f"words of {turn.message_id}" for turn in turns]
