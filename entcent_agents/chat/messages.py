"""Completions as LangChain messages and generations."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, Final, cast

from langchain_core.messages import AIMessage, AIMessageChunk, InvalidToolCall, ToolCall
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import invalid_tool_call, tool_call, tool_call_chunk
from langchain_core.outputs import ChatGenerationChunk

from entcent_agents.capture.recorder import LogprobsGeneration, LogprobsGenerationChunk
from entcent_agents.chat.completion import Completion, Delta
from entcent_agents.chat.text_tools import read_calls

NO_OBJECT: Final = " is no JSON object"
"""Follows the arguments of an invalid call in a chunk, as a JSON string. Chunks are parsed as far as they are JSON,
which would make a call of half a call (but not of a string), and events as a whole, which takes any JSON for a call."""

FIRST_CALL: Final = 2
"""The index of the first call: with `output_version="v1"` pieces of equal index become one, and LangChain numbers the
reasoning and the text from 0."""


def generation(completion: Completion, text_tools: Sequence[str]) -> LogprobsGeneration:
    """A completion as a generation, its arrays beside the message.

    Args:
        completion: What the server gave.
        text_tools: Names of the tools whose calls are to be read from the text; empty: none are.
    """
    return LogprobsGeneration(
        message=ai_message(completion, text_tools),
        generation_info=_info(completion),
        token_logprobs=completion.logprobs,
        whole_prompt_tokens=completion.whole_prompt_tokens,
    )


def piece_chunk(delta: Delta) -> ChatGenerationChunk:
    """A piece of a streamed answer."""
    return _chunk(delta.text, additional_kwargs=_reasoning(delta.reasoning))


def last_chunks(answer: LogprobsGeneration, *, streamed: bool) -> Iterator[ChatGenerationChunk]:
    """The end of a streamed answer: what was not streamed, then calls, then, in the last, usage and arrays.

    Calls come in a chunk of their own: of one with content, and of the last, streams of version 3 take none that is
    invalid.
    """
    message = cast(AIMessage, answer.message)
    if not streamed and (message.content or message.additional_kwargs):
        yield _chunk(str(message.text), additional_kwargs=message.additional_kwargs, id=message.id)
    calls = [(call["name"], json.dumps(call["args"]), call["id"]) for call in message.tool_calls]
    calls += [(call["name"], json.dumps(call["args"]) + NO_OBJECT, call["id"]) for call in message.invalid_tool_calls]
    if calls:
        yield _chunk(
            tool_call_chunks=[
                tool_call_chunk(name=name, args=args, id=call_id, index=i)
                for i, (name, args, call_id) in enumerate(calls, FIRST_CALL)
            ],
            id=message.id,
        )
    last = AIMessageChunk(content="", usage_metadata=message.usage_metadata, chunk_position="last", id=message.id)
    yield LogprobsGenerationChunk(
        message=last,
        generation_info=answer.generation_info,
        token_logprobs=answer.token_logprobs,
        whole_prompt_tokens=answer.whole_prompt_tokens,
    )


def ai_message(completion: Completion, text_tools: Sequence[str]) -> AIMessage:
    """A completion as a message, its calls parsed."""
    valid: list[ToolCall] = []
    invalid: list[InvalidToolCall] = []
    if text_tools:
        valid, invalid = read_calls(completion.text, text_tools)
    for call_id, name, arguments in completion.tool_calls:
        parsed = _arguments(arguments)
        if isinstance(parsed, str):
            invalid.append(invalid_tool_call(name=name, args=arguments, id=call_id, error=parsed))
        else:
            valid.append(tool_call(name=name, args=parsed, id=call_id))
    return AIMessage(
        content=completion.text,
        tool_calls=valid,
        invalid_tool_calls=invalid,
        additional_kwargs=_reasoning(completion.reasoning),
        usage_metadata=_usage(completion),
    )


def _usage(completion: Completion) -> UsageMetadata:
    usage = UsageMetadata(
        input_tokens=completion.prompt_tokens,
        output_tokens=completion.generated_tokens,
        total_tokens=completion.prompt_tokens + completion.generated_tokens,
    )
    if completion.cached_tokens is not None:
        usage["input_token_details"] = {"cache_read": completion.cached_tokens}
    return usage


def _chunk(content: str = "", **rest: Any) -> ChatGenerationChunk:
    return LogprobsGenerationChunk(message=AIMessageChunk(content=content, **rest))


def _reasoning(said: str) -> dict[str, Any]:
    return {"reasoning_content": said} if said else {}


def _info(completion: Completion) -> dict[str, Any]:
    return {"finish_reason": completion.finish_reason, "model_name": completion.model}


def _arguments(arguments: str) -> dict[str, Any] | str:
    """The arguments, or in words why there are none."""
    try:
        parsed = json.loads(arguments or "{}", strict=False)
    except ValueError as error:
        return str(error)
    if isinstance(parsed, dict):
        return cast(dict[str, Any], parsed)
    return f"arguments are {type(parsed).__name__}, not an object"
