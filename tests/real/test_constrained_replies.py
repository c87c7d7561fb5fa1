"""Calls in text, forced or not, and structured answers on a real server: it constrains, and scores every token."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import pytest
from langchain_core.tools import tool
from pydantic import BaseModel

from entcent_agents.capture.recorder import TurnRecorder
from entcent_agents.chat.embedded import EmbeddedServer, open_embedded
from entcent_agents.chat.model import ChatLogprobs
from entcent_agents.chat.store import ModelStore
from entcent_agents.segments import SegmentKind
from entcent_agents.trajectory import Turn

MODEL = "smollm2-135m"  # too weak to call a tool by itself
pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]


class Order(BaseModel):
    """An order."""

    size: Literal["small", "large"]
    hot: bool


@tool
def brew(size: Literal["small", "large"], milk: bool) -> str:
    """Brew coffee."""
    return f"{size} {milk}"


@tool
def clean() -> str:
    """Clean the machine."""
    return "clean"


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    ModelStore().pull(MODEL)
    with open_embedded(MODEL, slots=1, context_tokens=1024) as running:
        yield running


@pytest.fixture
def model(server: EmbeddedServer) -> ChatLogprobs:
    return ChatLogprobs(
        model=server.model, base_url=server.base_url, tool_calling="text", temperature=0.0, seed=7, max_tokens=80
    )


def text_of(turn: Turn, kind: SegmentKind) -> str:
    return b"".join(turn.logprobs.token(i) for i in np.flatnonzero(turn.logprobs.kind == kind)).decode()


@pytest.mark.parametrize("choice, names", [("any", {"brew", "clean"}), ("brew", {"brew"}), ("clean", {"clean"})])
async def test_a_forced_choice_is_a_call_of_an_allowed_tool_with_arguments_of_its_schema(model, choice, names):
    recorder = TurnRecorder()
    message = await model.bind_tools([brew, clean], tool_choice=choice).ainvoke("Hello!", {"callbacks": [recorder]})
    (call,) = message.tool_calls
    assert call["name"] in names
    {"brew": brew, "clean": clean}[call["name"]].args_schema.model_validate(call["args"])
    (turn,) = recorder.turns.values()
    assert turn.scored_tokens == len(turn.logprobs) == turn.generated_tokens
    assert call["name"] in text_of(turn, SegmentKind.TOOL_NAME)
    assert bool(call["args"]) == bool(text_of(turn, SegmentKind.TOOL_ARGUMENT))
    assert not text_of(turn, SegmentKind.ANSWER)


async def test_log_probabilities_are_the_models_own_before_the_constraint(model):
    recorder = TurnRecorder()
    await model.bind_tools([brew], tool_choice="brew").ainvoke("Hello!", {"callbacks": [recorder]})
    (turn,) = recorder.turns.values()
    logprobs = turn.logprobs
    assert np.isfinite(logprobs.logprob).all() and np.isfinite(logprobs.entropy).all()
    assert logprobs.logprob.min() < -5.0  # forced: the model itself would hardly have said it
    assert (logprobs.logprob <= 0.0).all() and (logprobs.entropy >= 0.0).all()


async def test_the_call_is_the_same_where_it_is_streamed(model):
    bound = model.bind_tools([brew], tool_choice="any")
    chunks = [chunk async for chunk in bound.astream("Hello!")]
    streamed = sum(chunks[1:], chunks[0])
    whole = await bound.ainvoke("Hello!")
    assert [call["args"] for call in streamed.tool_calls] == [call["args"] for call in whole.tool_calls]


async def test_line_breaks_are_scored_beside_tools_unless_somebody_reads_along(model):
    bound, question = model.bind_tools([brew]), "Name three colours, one a line, without a tool."
    alone, along = TurnRecorder(), TurnRecorder()
    await bound.ainvoke(question, {"callbacks": [alone]})
    assert len([piece async for piece in bound.astream(question, {"callbacks": [along]})]) > 10
    (whole,), (streamed,) = alone.turns.values(), along.turns.values()
    assert b"\n" in whole.logprobs.text and b"\n" in streamed.logprobs.text
    assert whole.scored_tokens == whole.generated_tokens
    assert streamed.scored_tokens < streamed.generated_tokens, "then nobody has to be asked for a whole answer"


@pytest.mark.parametrize("method", ["function_calling", "json_schema"])
async def test_structured_output_is_of_the_schema_though_the_model_is_weak(model, method):
    assert isinstance(await model.with_structured_output(Order, method=method).ainvoke("A coffee, please."), Order)
