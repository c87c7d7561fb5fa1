"""Forced calls in text and structured output: what is asked of the server, and what is read from its answer."""

from __future__ import annotations

import json
from typing import Any, TypedDict

import pytest
from langchain.agents import create_agent
from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from pydantic import BaseModel

from entcent_agents.capture.recorder import TurnRecorder
from entcent_agents.chat.model import ChatLogprobs
from entcent_agents.errors import ConfigurationError
from entcent_agents.segments import SegmentKind
from tests.chat_server import Reply, Request, Token, says
from tests.standard.answering import complaints


@tool
def search(query: str, limit: int = 3) -> str:
    """Search the library."""
    return query * limit


@tool
def now() -> str:
    """The time."""
    return "noon"


class Person(BaseModel):
    """Somebody."""

    name: str
    age: int


class PersonDict(TypedDict):
    """Somebody."""

    name: str
    age: int


SCHEMAS: list[Any] = [Person, PersonDict, Person.model_json_schema()]
ANN = {"name": "Ann", "age": 7}
CALL = '{"name": "search", "arguments": {"query": "bees", "limit": 2}}'


def chat(server, **settings) -> ChatLogprobs:
    return ChatLogprobs(**{"model": "scripted", "base_url": server.base_url, "max_retries": 0, **settings})


def text_chat(server, **settings) -> ChatLogprobs:
    return chat(server, tool_calling="text", **settings)


def schema_of(request: Request) -> dict[str, Any]:
    return request.body["response_format"]["json_schema"]["schema"]


def plain(value: Any) -> Any:
    return value.model_dump() if isinstance(value, BaseModel) else value


# Forced calls in text


@pytest.mark.parametrize("choice", ["any", "required", True])
async def test_any_call_is_one_of_the_tools_each_with_its_own_arguments(serve, choice):
    server = serve([says(CALL)])
    message = await text_chat(server).bind_tools([search, now], tool_choice=choice).ainvoke("Hi")
    first, second = schema_of(server.requests[0])["anyOf"]
    assert first["properties"]["name"] == {"type": "string", "enum": ["search"]}
    assert first["properties"]["arguments"]["required"] == ["query"]
    assert set(first["properties"]["arguments"]["properties"]) == {"query", "limit"}
    assert second["properties"]["arguments"] == {"additionalProperties": False, "type": "object", "properties": {}}
    assert first["required"] == ["name", "arguments"] and first["additionalProperties"] is False
    assert not {"tools", "tool_choice", "stop"} & set(server.requests[0].body)
    assert server.requests[0].body["stream"] is False
    assert [call["args"] for call in message.tool_calls] == [{"query": "bees", "limit": 2}]


@pytest.mark.parametrize("choice", ["now", {"type": "function", "function": {"name": "now"}}, {"name": "now"}])
async def test_a_named_call_is_that_tool_alone_and_no_other_is_spoken_of(serve, choice):
    server = serve([says('{"name": "now", "arguments": {}}')])
    message = await text_chat(server).bind_tools([search, now], tool_choice=choice).ainvoke("Hi")
    assert schema_of(server.requests[0])["properties"]["name"]["enum"] == ["now"]
    prompt = server.requests[0].body["messages"][0]["content"]
    assert "now(): The time." in prompt and "search" not in prompt
    assert "```" not in prompt  # a fence would be outside what the schema allows
    assert [call["name"] for call in message.tool_calls] == ["now"]


@pytest.mark.parametrize("choice", [None, "auto", False])
async def test_without_a_forced_choice_nothing_is_constrained(serve, choice):
    server = serve([says("No.")])
    await text_chat(server).bind_tools([search], tool_choice=choice).ainvoke("Hi")
    assert "response_format" not in server.requests[0].body
    assert "```json" in server.requests[0].body["messages"][0]["content"]


async def test_no_call_wanted_means_that_no_tool_is_offered_or_read(serve):
    server = serve([says(CALL)])
    message = await text_chat(server).bind_tools([search], tool_choice="none").ainvoke("Hi")
    assert [said["role"] for said in server.requests[0].body["messages"]] == ["user"]
    assert message.tool_calls == []


def test_a_choice_that_is_none_of_the_tools_is_refused():
    with pytest.raises(ConfigurationError, match="none of the tools: search, now"):
        ChatLogprobs(model="m", tool_calling="text").bind_tools([search, now], tool_choice="find")


@pytest.mark.parametrize("choice", [None, "auto", "any", "search"])
def test_a_schema_for_the_answer_beside_tools_in_text_is_refused(choice):
    model = ChatLogprobs(model="m", tool_calling="text")
    with pytest.raises(ConfigurationError, match="ToolStrategy"):
        model.bind_tools([search], tool_choice=choice, response_format={"type": "json_schema"})


async def test_a_server_that_ignores_the_constraint_leads_to_no_invented_call(serve):
    server = serve([says("I would rather talk about bees.")])
    message = await text_chat(server).bind_tools([search], tool_choice="any").ainvoke("Hi")
    assert (message.tool_calls, message.invalid_tool_calls) == ([], [])


async def test_references_in_a_tools_schema_are_resolved_where_it_is_no_longer_the_root(serve):
    parameters = {
        "type": "object",
        "properties": {"who": {"$ref": "#/$defs/Person"}},
        "$defs": {"Person": {"type": "object", "properties": {"name": {"type": "string"}}}},
    }
    server = serve([says("{}")])
    greet = {"type": "function", "function": {"name": "greet", "parameters": parameters}}
    await text_chat(server).bind_tools([greet], tool_choice="greet").ainvoke("Hi")
    schema = schema_of(server.requests[0])
    assert schema["properties"]["arguments"]["properties"]["who"]["properties"] == {"name": {"type": "string"}}
    assert "$ref" not in json.dumps(schema)


async def test_strict_is_told_to_the_server_and_closes_the_schema(serve):
    server = serve([says(CALL)])
    await text_chat(server).bind_tools([search], tool_choice="any", strict=True).ainvoke("Hi")
    assert server.requests[0].body["response_format"]["json_schema"]["strict"] is True
    assert schema_of(server.requests[0])["properties"]["arguments"]["required"] == ["query", "limit"]


CUT = ['{"', "name", '": "', "sea", "rch", '", "', "arguments", '": {"', "query", '": "', "bee", "s", '", "limit": 2}}']
FENCED = ["```", "json", "\n", *CUT, "\n```"]


@pytest.mark.parametrize("words", [CUT, FENCED], ids=["bare", "fenced"])
async def test_the_name_and_the_arguments_of_a_constrained_call_are_marked(serve, words):
    reply = Reply(tokens=[Token(says=word, probabilities=(0.5, 0.25)) for word in words])
    recorder = TurnRecorder()
    model = text_chat(serve([reply])).bind_tools([search], tool_choice="any")
    await model.ainvoke("Hi", config={"callbacks": [recorder]})
    (turn,) = recorder.turns.values()
    logprobs = turn.logprobs
    said = {
        kind: [logprobs.token(i).decode() for i in range(len(logprobs)) if logprobs.kind[i] == kind]
        for kind in SegmentKind
    }
    assert said[SegmentKind.TOOL_NAME] == ["sea", "rch"]
    assert said[SegmentKind.TOOL_ARGUMENT] == ["bee", "s", '", "limit": 2}}']
    assert said[SegmentKind.ANSWER] == []
    paths = [part.path for part in logprobs.segments() if part.kind == SegmentKind.TOOL_ARGUMENT]
    assert paths == [("query",), ("limit",)]
    assert turn.scored_tokens == turn.generated_tokens == len(words)


async def test_a_forced_token_outside_the_alternatives_is_scored_by_what_the_model_would_have_said(serve):
    forced = Token(says="{", logprobs=[-0.01, -4.85, -6.3])  # of other tokens
    entry = {**forced.entry(), "token": "{", "bytes": [123], "logprob": -13.6}
    body = {"choices": [{"message": {"content": "{"}, "finish_reason": "stop", "logprobs": {"content": [entry]}}]}
    server = serve([Reply(raw=json.dumps(body).encode())])
    recorder = TurnRecorder()
    await text_chat(server).bind_tools([search], tool_choice="any").ainvoke("Hi", config={"callbacks": [recorder]})
    (turn,) = recorder.turns.values()
    assert turn.scored_tokens == 1
    assert float(turn.logprobs.logprob[0]) == pytest.approx(-13.6)
    assert 0.0 < float(turn.logprobs.entropy[0]) < 0.1


# Structured output


def ann(request: Request) -> list[Reply]:
    """Ann, as she is asked for."""
    if complaint := next(complaints(request.body), None):
        return [Reply(status=400, error=complaint)]
    if tools := request.body.get("tools"):
        return [Reply(tokens=(), tool_calls=[(tools[0]["function"]["name"], json.dumps(ANN))])]
    wanted = request.body["response_format"]
    fields = wanted["json_schema"]["schema"]["properties"] if "json_schema" in wanted else {}
    if "arguments" in fields:
        return [says(json.dumps({"name": fields["name"]["enum"][0], "arguments": ANN}))]
    return [says(json.dumps(ANN))]


METHODS = ["function_calling", "json_schema", "json_mode"]


@pytest.mark.parametrize("schema", SCHEMAS, ids=["pydantic", "typed dict", "json schema"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("tool_calling", ["native", "text"])
async def test_every_schema_is_answered_by_every_method(serve, schema, method, tool_calling):
    model = chat(serve(ann), tool_calling=tool_calling).with_structured_output(schema, method=method)
    answer = await model.ainvoke("Who, as JSON?")
    assert plain(answer) == ANN
    assert isinstance(answer, Person if schema is Person else dict)
    assert [plain(part) async for part in model.astream("Who, as JSON?")][-1] == ANN


@pytest.mark.parametrize("method", METHODS)
async def test_log_probabilities_are_captured_under_structured_output_and_never_in_its_message(serve, method):
    recorder = TurnRecorder()
    model = text_chat(serve(ann)).with_structured_output(Person, method=method, include_raw=True)
    result = await model.ainvoke("Who, as JSON?", config={"callbacks": [recorder]})
    assert (plain(result["parsed"]), result["parsing_error"]) == (ANN, None)
    assert "logprob" not in result["raw"].model_dump_json()
    (turn,) = recorder.turns.values()
    assert turn.message_id == result["raw"].id
    assert turn.scored_tokens == turn.generated_tokens > 0


async def test_strict_goes_to_the_server_only_where_it_is_set(serve):
    server = serve(ann)
    for strict in (None, True):
        await chat(server).with_structured_output(Person, method="json_schema", strict=strict).ainvoke("Who?")
    first, second = (request.body["response_format"]["json_schema"] for request in server.requests)
    assert "strict" not in first and second["strict"] is True
    assert first["name"] == "Person" and first["schema"]["description"] == "Somebody."
    assert second["schema"]["additionalProperties"] is False


@pytest.mark.parametrize("schema", SCHEMAS, ids=["pydantic", "typed dict", "json schema"])
async def test_an_answer_that_is_cut_off_is_an_error_and_never_half_an_answer(serve, schema):
    server = serve([says('{"name": "An', finish_reason="length")])
    model = chat(server).with_structured_output(schema, method="json_schema")
    with pytest.raises(OutputParserException, match="raise max_tokens"):
        await model.ainvoke("Who?")
    with pytest.raises(OutputParserException, match="raise max_tokens"):
        [part async for part in model.astream("Who?")]
    raw = chat(server).with_structured_output(schema, method="json_schema", include_raw=True)
    result = await raw.ainvoke("Who?")
    assert result["parsed"] is None and isinstance(result["parsing_error"], OutputParserException)


async def test_a_forced_call_that_is_cut_off_is_none_and_the_message_tells(serve):
    server = serve([says('{"name": "Person", "arguments": {"name": "An', finish_reason="length")])
    model = text_chat(server).with_structured_output(Person, include_raw=True)
    result = await model.ainvoke("Who?")
    assert (result["parsed"], result["raw"].tool_calls) == (None, [])
    assert [call["name"] for call in result["raw"].invalid_tool_calls] == ["Person"]


def test_settings_that_are_not_known_are_refused():
    model = ChatLogprobs(model="m")
    with pytest.raises(ConfigurationError, match="none of function_calling"):
        model.with_structured_output(Person, method="magic")
    with pytest.raises(ConfigurationError, match="nothing of tools"):
        model.with_structured_output(Person, tools=[search])


async def test_an_agent_with_tools_in_text_answers_in_a_schema(serve):
    steps = iter([CALL, json.dumps({"name": "Person", "arguments": ANN})])
    server = serve(lambda request: [says(next(steps))])
    agent = create_agent(text_chat(server), [search], response_format=Person)
    result = await agent.ainvoke({"messages": [("user", "Who keeps the bees?")]})
    assert result["structured_response"] == Person(**ANN)
    assert [len(schema_of(request)["anyOf"]) for request in server.requests] == [2, 2]
    assert "beesbees" in server.requests[1].body["messages"][-1]["content"]


# Calls in text as blocks


@pytest.mark.parametrize("choice", ["any", "auto"])
async def test_streamed_calls_stand_beside_the_text_where_a_message_is_made_of_blocks(serve, choice):
    model = text_chat(serve([says(f"{CALL} {CALL}")]), output_version="v1").bind_tools([search], tool_choice=choice)
    chunks = [chunk async for chunk in model.astream("Bees?")]
    whole = sum(chunks[1:], chunks[0])
    assert [block["type"] for block in whole.content_blocks] == ["text", "tool_call", "tool_call"]
    assert [call["args"] for call in whole.tool_calls] == [{"query": "bees", "limit": 2}] * 2
    assert whole.text == f"{CALL} {CALL}"


# The conversation as it is sent


async def test_what_the_api_does_not_take_back_is_not_sent(serve):
    server = serve([says("x")])
    blocks: list[Any] = [
        {"type": "reasoning", "reasoning": "hm"},
        {"type": "text", "text": "Looking."},
        {"type": "tool_call", "id": "1", "name": "search", "args": {"query": "bees"}},
    ]
    call = AIMessage(blocks, tool_calls=[{"name": "search", "args": {"query": "bees"}, "id": "1"}])
    await chat(server).ainvoke([HumanMessage("Bees?"), call, ToolMessage("none", name="search", tool_call_id="1")])
    _, said, result = server.requests[0].body["messages"]
    assert said["content"] == "Looking." and len(said["tool_calls"]) == 1
    assert result == {"role": "tool", "tool_call_id": "1", "content": "none"}


@pytest.mark.parametrize("tool_calling", ["native", "text"])
async def test_a_picture_in_a_tools_result_is_shown_after_all_results(serve, tool_calling):
    server = serve([says("x")])
    picture = {"type": "image", "base64": "AAAA", "mime_type": "image/png"}
    call = AIMessage("", tool_calls=[{"name": "draw", "args": {}, "id": name} for name in "12"])
    results = [ToolMessage([picture], tool_call_id="1"), ToolMessage("a bee", tool_call_id="2")]
    await chat(server, tool_calling=tool_calling).ainvoke([HumanMessage("Draw."), call, *results, HumanMessage("So?")])
    *_, before, question = server.requests[0].body["messages"]
    assert question["content"] == "So?" and before["role"] == "user"
    assert before["content"][-1] == {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    assert "a bee" in json.dumps(server.requests[0].body["messages"])
    assert next(complaints(server.requests[0].body), None) == "the image is no PNG"  # and nothing else
