"""A turn once more from one of its tokens on: alternatives kept, continued, forced, made anew."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from entcent_agents.branching import BranchPoint
from entcent_agents.capture.alternatives import OtherTokens, keep_alternatives
from entcent_agents.capture.openai import NamedEntry, NamedTop
from entcent_agents.chat.completion import Completion
from entcent_agents.chat.continuation import Joint, _new
from entcent_agents.chat.model import ChatLogprobs
from entcent_agents.errors import ContinuationError
from entcent_agents.segments import SegmentKind
from tests.chat_server import Reply, Token
from tests.continuing_server import ContinuingServer

TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}
    for name in ("get_time", "get_weather", "send")
]


def chat(server, **settings) -> ChatLogprobs:
    return ChatLogprobs(model="scripted", base_url=server.base_url, top_logprobs=2, max_retries=0, **settings)


async def parent(model: ChatLogprobs, **settings):
    with keep_alternatives():
        (answer,) = await model.agenerate_n("Count", 1, **settings)
    return answer.token_logprobs


def point(turn, token: int, decision="argument", alternative: bytes | None = None, id=None) -> BranchPoint:
    return BranchPoint(
        token=token,
        entropy=float(turn.entropy[token]),
        kind=SegmentKind(int(turn.kind[token])),
        decision=decision,
        alternative=turn.alternatives.token(token) if alternative is None else alternative,
        logprob=-1.5,
        id=id,
    )


def says(*words: str) -> Reply:
    """Each word sampled before a likely `Other`."""
    return Reply(tokens=[Token(says=word, probabilities=(0.6, 0.4), names=(word, f"{word}Other")) for word in words])


def call(name: str) -> tuple[str, ...]:
    return "```json\n", '{"name": "', *name.partition("_"), '", "arguments": {}}\n', "```"


class Recalling(ContinuingServer):
    """Goes on with other words than it began with, once it is asked to."""

    later: str = ""

    def complete(self, body):
        self.words = self.later or self.words
        return super().complete(body)


@pytest.mark.parametrize("way", ["llama", "vllm", "flag"])
async def test_a_branch_has_its_parents_tokens_bit_for_bit_then_the_alternative_then_what_is_new(serve, way):
    script = ContinuingServer((way,))
    server = serve(script)
    model = chat(server)
    turn = await parent(model)
    script.words = "one two other four"
    found = await model.abranch("Count", turn, point(turn, 2, alternative=b" other"))
    whole = found.generation.token_logprobs
    assert (found.method, found.passed_over) == ("continued", {})
    assert found.message.text == "one two other four"
    assert [whole.token(i) for i in range(len(whole))] == [b"one", b" two", b" other", b" four"]
    for column in ("logprob", "entropy", "residual", "confidence"):
        assert getattr(whole, column)[:2].tobytes() == getattr(turn, column)[:2].tobytes()
    assert whole.logprob[2] == np.float32(-1.5)
    assert whole.entropy[2] == turn.entropy[2]
    assert (found.reused_tokens, found.generated_tokens) == (3, 1)
    assert len(whole) == found.reused_tokens + found.generated_tokens
    assert whole.alternatives.token(1) == turn.alternatives.token(1)
    assert whole.alternatives.token(2) == b""


async def test_the_alternatives_own_number_is_sent(serve):
    script = Recalling(("llama",))
    server = serve(script)
    model = chat(server)
    await model.acontinue("Count", "one")
    with keep_alternatives():
        turn = (await model.acontinue("Count", "one two three")).generation.token_logprobs
    number = script.number(" other")
    script.later = " four other six"
    found = await model.abranch("Count", turn, point(turn, 1, alternative=b" other", id=number))
    assert server.requests[-1].body["prompt"][-2:] == [script.number(" four"), number]
    assert (found.joint, found.message.text) == (Joint.EXACT, " four other six")
    assert found.message.usage_metadata["input_tokens"] == 5
    assert found.generation.token_logprobs.ids.tolist() == [script.number(w) for w in (" four", " other", " six")]


@pytest.mark.parametrize(("settings", "reason"), [({"stop": ["two STOP"]}, "stop"), ({"max_tokens": 3}, "length")])
async def test_a_turn_that_ends_with_the_alternative_asks_nobody(serve, settings, reason):
    server = serve(ContinuingServer(("flag",)))
    model = chat(server)
    turn = await parent(model)
    before = len(server.requests)
    found = await model.abranch("Count", turn, point(turn, 2, alternative=b" STOP"), **settings)
    assert len(server.requests) == before
    assert (found.method, found.generated_tokens, found.reused_tokens) == ("continued", 0, 3)
    assert found.generation.generation_info["finish_reason"] == reason
    assert found.message.text == ("one " if reason == "stop" else "one two STOP")


@pytest.mark.parametrize("tool_calling", ["native", "text"])
async def test_without_continuation_the_tool_that_the_alternative_begins_to_name_is_forced(serve, tool_calling):
    def script(request):
        if request.body.get("response_format"):
            return [says('{"name": "get_weather", ', '"arguments": {}}')]
        if isinstance(request.body.get("tool_choice"), dict):
            return [Reply(tokens=[Token(says="<call>")], tool_calls=[("get_weather", "{}")])]
        if request.body["messages"][-1]["role"] == "assistant":
            return [Reply(status=400, error="the last message must be of the user")]
        return [says(*call("get_time"))]

    server = serve(script)
    model = chat(server, tool_calling=tool_calling)
    turn = await parent(model, tools=TOOLS)
    name = next(i for i in range(len(turn)) if turn.token(i) == b"time")
    found = await model.abranch("Count", turn, point(turn, name, "tool", b"wea"), tools=TOOLS)
    assert found.method == "forced"
    assert "goes on from no text" in found.passed_over["continued"]
    assert [each["name"] for each in found.message.tool_calls] == ["get_weather"]
    assert found.reused_tokens == 0
    body = server.requests[-1].body
    if tool_calling == "native":
        assert body["tool_choice"] == {"type": "function", "function": {"name": "get_weather"}}
    else:
        assert body["response_format"]["json_schema"]["schema"]["properties"]["name"]["enum"] == ["get_weather"]
        assert body["messages"] == server.requests[0].body["messages"]
        assert "stop" not in body


@pytest.mark.parametrize("refuses", [True, False])
async def test_a_server_that_heeds_no_choice_of_tools_makes_the_turn_anew_and_the_result_says_so(serve, refuses):
    def script(request):
        if request.body["messages"][-1]["role"] == "assistant":
            return [Reply(status=400, error="no")]
        if request.body.get("tool_choice") and refuses:
            return [Reply(status=400, error="tool_choice is not supported")]
        return [says(*call("get_time"))]

    server = serve(script)
    model = chat(server)
    turn = await parent(model, tools=TOOLS)
    where = point(turn, 3, "tool", b"_weather")
    found = await model.abranch("Count", turn, where, tools=TOOLS)
    assert found.method == "resampled"
    assert found.generated_tokens == len(turn)
    with pytest.raises(ContinuationError, match="forced: .*(not supported|did not heed)"):
        await model.abranch("Count", turn, where, tools=TOOLS, allowed=("forced",))


async def test_an_argument_is_made_anew_with_another_seed_than_its_parents(serve):
    server = serve([says("one", " two")])
    model = chat(server, seed=7)
    turn = await parent(model)
    found = [
        await model.abranch("Count", turn, point(turn, token), allowed=("forced", "resampled")) for token in (0, 1)
    ]
    assert [each.method for each in found] == ["resampled"] * 2
    assert len({request.body["seed"] for request in server.requests}) == 3
    assert "argument" in found[0].passed_over["forced"]


async def test_a_half_character_is_not_continued(serve):
    model = chat(serve(ContinuingServer(("flag",))))
    turn = await parent(model)
    found = await model.abranch("Count", turn, point(turn, 2, alternative=b"\xf0\x9f"))
    assert found.method == "resampled"
    assert "inside a character" in found.passed_over["continued"]


async def test_alternatives_are_kept_only_where_they_are_asked_for(serve):
    server = serve([says("one", " two")])
    model = chat(server)
    (plain,) = await model.agenerate_n("Count", 1)
    assert plain.token_logprobs.alternatives is None
    turn = await parent(model)
    assert [turn.alternatives.token(i) for i in range(2)] == [b"oneOther", b" twoOther"]
    assert np.allclose(turn.alternatives.logprob, math.log(0.4))
    assert [turn.head(1).alternatives.token(i) for i in range(1)] == [b"oneOther"]
    assert "alternatives" not in json.dumps(turn.to_dict())
    assert np.array_equal(turn.entropy, plain.token_logprobs.entropy)


def entry(said: str, id: int, *tops: tuple[str, int, float]) -> NamedEntry:
    return NamedEntry(said, -0.1, list(said.encode()), [NamedTop(p, t, list(t.encode()), i) for t, i, p in tops], id)


def test_held_back_text_stands_before_the_alternatives_of_the_tokens_after_it():
    finds = OtherTokens()
    found = [
        finds.of(entry("", 1, ("\n", 1, -0.1), ("x", 2, -2.0))),
        finds.of(entry("", 3, ("`", 3, -0.1), ("", 9, -1.0), ("y", 4, -3.0))),
        finds.of(entry("\n`z", 5, ("z", 5, -0.1), ("w", 6, -2.0))),
        finds.of(entry("end", 7, ("a", 8, -0.5))),  # sampled, and none of the likeliest
    ]
    assert [other.said for other in found] == [b"x", b"\ny", b"\n`w", b"a"]
    assert [other.id for other in found] == [2, 4, 6, 8]


def test_text_held_back_that_nobody_knows_leaves_no_alternative():
    finds = OtherTokens()
    assert finds.of(entry("", 1, ("x", 2, -0.1))).said == b"x"
    assert finds.of(entry("", 3, ("y", 3, -0.1), ("v", 4, -1.0))).said == b""
    assert finds.of(entry("?yz", 5, ("z", 5, -0.1), ("w", 6, -2.0))).said == b"?yw"


@pytest.mark.parametrize(
    ("text", "generated", "new"),
    [
        ("gogo go", "go go", "go go"),  # repeated by the server
        ("go go", "go go\n", "go go"),  # the model's own words, and a stop string
        ("go", "go\n", "go"),
        ("gogo", "go", "go"),
    ],
)
def test_a_repeated_prefix_is_cut_once_and_only_where_it_was_not_generated(text, generated, new):
    from entcent_agents.capture.arrays import arrays_of

    listed = arrays_of([generated.encode()], np.full((1, 2), math.log(0.5)), [-0.1])
    whole = Completion(
        text=text,
        reasoning="",
        tool_calls=(),
        logprobs=listed,
        finish_reason="stop",
        prompt_tokens=0,
        cached_tokens=None,
        generated_tokens=1,
        model="m",
    )
    assert _new(whole, "go").text == new
