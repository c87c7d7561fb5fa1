"""What LangChain's integrations leave on their messages: payloads made by their own code (tests/data/integrations)."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult, LLMResult
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import START, MessagesState, StateGraph
from pydantic import BaseModel, ConfigDict

from entcent_agents.capture import capture_logprobs
from entcent_agents.capture.recorder import TurnRecorder
from entcent_agents.errors import LogprobsMalformedError
from entcent_agents.trajectory import Trajectory

PAYLOADS = {
    path.stem: json.loads(path.read_text())
    for path in sorted((Path(__file__).parent / "data/integrations").glob("*.json"))
}
SCORED = sorted(PAYLOADS.keys() - {"together"})
TEXT = "It is 4 \N{DEGREE SIGN}C."


class Loose(BaseModel):
    """An object of a provider's SDK, as far as attributes go."""

    model_config = ConfigDict(extra="allow")


def as_objects(value: Any) -> Any:
    if isinstance(value, dict):
        return Loose(**{key: as_objects(inner) for key, inner in value.items()})
    return [as_objects(inner) for inner in value] if isinstance(value, list) else value


def message_of(name: str) -> AIMessage:
    """The message as the integration returned it, with objects where it left objects."""
    message = AIMessage(**PAYLOADS[name]["message"])
    if PAYLOADS[name]["logprobs_type"] == "builtins.dict":
        return message
    raw = message.response_metadata["logprobs"]
    return message.model_copy(update={"response_metadata": message.response_metadata | {"logprobs": as_objects(raw)}})


def entries_of(name: str) -> list[dict[str, Any]]:
    """The tokens of the raw response, in the order they were generated."""
    response = PAYLOADS[name]["response"]
    if isinstance(response, list):
        return [entry for line in response for entry in line.get("logprobs", ())]
    logprobs = response["choices"][0]["logprobs"]
    if "tokens" in logprobs:
        rows = zip(logprobs["tokens"], logprobs["token_logprobs"], strict=True)
        return [{"token": token, "logprob": logprob, "top_logprobs": []} for token, logprob in rows]
    return [*logprobs.get("reasoning_content", ()), *logprobs["content"]]


def entropy_of(entry: dict[str, Any]) -> float:
    """Nats, worked out the long way."""
    weights = [math.exp(top["logprob"]) for top in entry["top_logprobs"]]
    return -sum(w / sum(weights) * math.log(w / sum(weights)) for w in weights) if weights else math.nan


def checkpointed(message: AIMessage) -> AIMessage:
    serializer = JsonPlusSerializer()
    return serializer.loads_typed(serializer.dumps_typed(message))


def test_every_integration_has_its_payload():
    assert {payload["integration"] for payload in PAYLOADS.values()} == {
        "ChatDeepSeek",
        "ChatFireworks",
        "ChatHuggingFace",
        "ChatLiteLLM",
        "ChatLlamaCpp",
        "ChatOllama",
        "ChatOpenAI",
        "ChatOpenRouter",
        "ChatTogether",
        "ChatXAI",
    }
    assert all(payload["packages"] for payload in PAYLOADS.values())


def test_objects_and_dicts_both_occur():
    objects = {name for name, payload in PAYLOADS.items() if payload["logprobs_type"] != "builtins.dict"}
    assert objects == {"litellm", "ollama"}


@pytest.mark.parametrize("after", [False, True], ids=["on arrival", "after a checkpoint"])
@pytest.mark.parametrize("name", PAYLOADS)
def test_tokens_and_entropies_are_those_of_the_response(name, after):
    message = checkpointed(message_of(name)) if after else message_of(name)
    found, entries = capture_logprobs(message), entries_of(name)
    assert [found.token(i).decode() for i in range(len(found))] == [entry["token"] for entry in entries]
    np.testing.assert_allclose(found.logprob, [entry["logprob"] for entry in entries], atol=1e-6)
    np.testing.assert_allclose(found.entropy, [entropy_of(entry) for entry in entries], atol=1e-5)
    assert found.text.decode().endswith(TEXT)


@pytest.mark.parametrize("name", PAYLOADS)
def test_a_checkpoint_leaves_dicts_that_give_the_same(name):
    before, after = message_of(name), checkpointed(message_of(name))
    raw = after.response_metadata["logprobs"]
    assert isinstance(raw[0] if isinstance(raw, list) else raw, dict)
    assert capture_logprobs(after).to_dict() == capture_logprobs(before).to_dict()


@pytest.mark.parametrize("name", PAYLOADS)
def test_the_recorder_keeps_the_arrays_and_strips_the_raw_ones_wherever_they_sit(name):
    message, recorder = message_of(name), TurnRecorder()
    message.additional_kwargs["logprobs"] = message.response_metadata["logprobs"]
    kept = {key: value for key, value in message.response_metadata.items() if key != "logprobs"}
    generation = ChatGeneration(message=message, generation_info=dict(message.response_metadata))
    recorder.on_llm_end(LLMResult(generations=[[generation]]), run_id=uuid4())
    assert message.response_metadata == kept
    assert "logprobs" not in message.additional_kwargs
    assert "logprobs" not in generation.generation_info
    assert '"top_logprobs"' not in generation.model_dump_json()
    trajectory = Trajectory(turns=tuple(recorder.turns.values()))
    assert trajectory.generated_tokens == len(entries_of(name))
    assert trajectory.coverage == (1.0 if name in SCORED else 0.0)


def test_together_documents_no_alternatives_so_its_tokens_are_unscored_not_certain():
    found = capture_logprobs(message_of("together"))
    assert (found.scored_tokens, np.isfinite(found.logprob).all()) == (0, True)


@pytest.mark.parametrize("name", SCORED)
def test_the_providers_were_asked_as_with_logprobs_says(name):
    request, top = PAYLOADS[name]["request"], PAYLOADS[name]["top"]
    assert (request["logprobs"], request["top_logprobs"]) == (True, top)
    assert name == "ollama" or not request.get("stream")


def test_together_is_asked_for_a_number():
    assert PAYLOADS["together"]["request"]["logprobs"] == PAYLOADS["together"]["top"]


def test_openrouter_is_kept_to_providers_that_honour_the_request():
    assert PAYLOADS["openrouter"]["request"]["provider"] == {"require_parameters": True}


def test_litellm_loses_them_in_a_stream():
    assert PAYLOADS["litellm"]["in_a_stream"] == "0 of 7 tokens"


@pytest.mark.parametrize("where", ["response_metadata", "additional_kwargs"])
def test_raw_logprobs_are_found_in_either_place(where):
    raw = PAYLOADS["openai"]["message"]["response_metadata"]["logprobs"]
    assert capture_logprobs(AIMessage(TEXT, **{where: {"logprobs": raw}})).text.decode() == TEXT


def test_a_refusal_counts_as_what_was_generated():
    raw = PAYLOADS["openai"]["message"]["response_metadata"]["logprobs"]
    refused = {"content": None, "refusal": raw["content"]}
    assert capture_logprobs(AIMessage("", response_metadata={"logprobs": refused})).scored_tokens == 7


def test_legacy_arrays_with_alternatives_are_scored():
    raw = {
        "tokens": ["a", "b"],
        "token_logprobs": [math.log(0.5), 0.0],
        "top_logprobs": [{"a": -0.7, "c": -0.7}, {"b": 0}],
    }
    for shape in (raw, SimpleNamespace(**raw)):
        found = capture_logprobs(AIMessage("ab", response_metadata={"logprobs": shape}))
        np.testing.assert_allclose(found.entropy, [math.log(2), 0.0], atol=1e-6)


@pytest.mark.parametrize("raw", [None, [], {}, {"content": None}, {"tokens": []}])
def test_a_message_without_any_gives_none(raw):
    assert capture_logprobs(AIMessage("Hi", response_metadata={"logprobs": raw})) is None


@pytest.mark.parametrize(
    "raw", ["no", 3, [1], {"tokens": ["a"]}, {"tokens": "a"}, {"content": [1]}, [{"logprob": -1.0}]]
)
def test_another_shape_is_refused_in_one_line(raw):
    with pytest.raises(LogprobsMalformedError) as refused:
        capture_logprobs(AIMessage("Hi", response_metadata={"logprobs": raw}))
    assert "\n" not in str(refused.value)


class Replayed(BaseChatModel):
    """A chat model that returns what an integration returned, as its `_generate` did."""

    name: str

    @property
    def _llm_type(self) -> str:
        return "replayed"

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        message = message_of(self.name)
        info = {"logprobs": message.response_metadata.pop("logprobs")}
        return ChatResult(generations=[ChatGeneration(message=message, generation_info=info)])


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("name", PAYLOADS)
async def test_no_raw_payload_reaches_a_checkpoint(name, recorded):
    model, recorder, saver = Replayed(name=name), TurnRecorder(), InMemorySaver()

    async def answers(state: MessagesState, config: RunnableConfig) -> Any:
        return {"messages": [await model.ainvoke(state["messages"], config)]}

    graph = StateGraph(MessagesState).add_node(answers).add_edge(START, "answers").compile(checkpointer=saver)
    config: Any = {"configurable": {"thread_id": "t"}, "callbacks": [recorder] if recorded else []}
    await graph.ainvoke({"messages": [("user", "How warm is it?")]}, config)
    stored = b"".join(value for _, value in saver.blobs.values())
    stored += b"".join(value for writes in saver.writes.values() for *_, (_, value), _ in writes.values())
    assert TEXT.encode() in stored
    assert (b"logprob" in stored) is not recorded
    assert [len(turn.logprobs) for turn in recorder.turns.values()] == ([len(entries_of(name))] if recorded else [])
