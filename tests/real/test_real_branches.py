"""A turn branched on the embedded server: continued from the parent's tokens, forced to another tool, made anew."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from langchain_core.tools import tool

from entcent_agents.branching import BranchPoint
from entcent_agents.capture.alternatives import keep_alternatives
from entcent_agents.chat.embedded import EmbeddedServer, open_embedded
from entcent_agents.chat.model import ChatLogprobs
from entcent_agents.logprobs import TokenLogprobs
from entcent_agents.segments import SegmentKind

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

COUNT = "Count from one to ten in words."
ORDER = "Do something, please."


@tool
def brew(size: str) -> str:
    """Brew coffee."""
    return size


@tool
def clean(size: str) -> str:
    """Clean the machine."""
    return size


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    with open_embedded("smollm2-135m", slots=2, context_tokens=1024) as server:
        yield server


def chat(server: EmbeddedServer, **settings: object) -> ChatLogprobs:
    fixed = {"temperature": 0, "max_tokens": 48, "top_logprobs": 5, "seed": 7}
    return ChatLogprobs(**{"model": server.model, "base_url": server.base_url, **fixed, **settings})


async def turn_of(model: ChatLogprobs, question: str, **settings) -> TokenLogprobs:
    with keep_alternatives():
        (answer,) = await model.agenerate_n(question, 1, **settings)
    assert answer.token_logprobs is not None
    return answer.token_logprobs


def point(turn: TokenLogprobs, token: int, alternative: bytes = b"", decision="argument") -> BranchPoint:
    assert turn.alternatives is not None
    return BranchPoint(
        token=token,
        entropy=float(turn.entropy[token]),
        kind=SegmentKind(int(turn.kind[token])),
        decision=decision,
        alternative=alternative or turn.alternatives.token(token),
        logprob=float(turn.alternatives.logprob[token]),
    )


async def test_a_continued_branch_follows_its_alternative_and_only_what_follows_was_generated(server):
    model = chat(server)
    turn = await turn_of(model, COUNT)
    for at in (1, 5, len(turn) // 2):
        found = await model.abranch(COUNT, turn, point(turn, at))
        whole = found.generation.token_logprobs
        assert (found.method, found.passed_over) == ("continued", {})
        assert whole.token(at) == point(turn, at).alternative != turn.token(at)
        for of_parent, inherited in zip(
            (turn.logprob, turn.entropy, turn.residual, turn.confidence, turn.offsets),
            (whole.logprob, whole.entropy, whole.residual, whole.confidence, whole.offsets),
            strict=True,
        ):
            np.testing.assert_array_equal(inherited[:at], of_parent[:at])
        # The server's own count: what it generated is what stands behind the alternative.
        assert found.generated_tokens == len(whole) - found.reused_tokens == len(whole) - at - 1
        # And its first token is the one that the server itself takes after that prefix.
        started = whole.head(at + 1)
        alone = (await model.acontinue(COUNT, started)).generation.token_logprobs
        assert whole.token(at + 1) == alone.token(0)
        assert whole.logprob[at + 1] == pytest.approx(float(alone.logprob[0]), abs=0.05)


async def test_where_nothing_can_be_continued_the_other_tool_is_forced(server):
    model = chat(server, tool_calling="text")
    settings = {"tools": [brew, clean], "tool_choice": "any"}
    turn = await turn_of(model, ORDER, **settings)
    name = int(np.flatnonzero(turn.kind == SegmentKind.TOOL_NAME)[0])
    said = b"".join(turn.token(i) for i in np.flatnonzero(turn.kind == SegmentKind.TOOL_NAME)).decode()
    other = ({"brew", "clean"} - {said}).pop()
    where = point(turn, name, other.encode(), "tool")
    found = await model.abranch(ORDER, turn, where, allowed=("forced", "resampled"), **settings)
    assert (found.method, found.reused_tokens) == ("forced", 0)
    assert [call["name"] for call in found.message.tool_calls] == [other]
    assert found.generated_tokens == len(found.generation.token_logprobs)


async def test_where_nothing_can_be_forced_either_the_turn_is_made_anew(server):
    model = chat(server, temperature=1.5)
    turn = await turn_of(model, COUNT)
    found = await model.abranch(COUNT, turn, point(turn, 2), allowed=("forced", "resampled"))
    assert (found.method, found.reused_tokens, found.joint) == ("resampled", 0, None)
    assert set(found.passed_over) == {"forced"}
    assert found.generated_tokens == len(found.generation.token_logprobs)
    assert found.generation.token_logprobs.text != turn.text
