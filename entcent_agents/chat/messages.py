"""Completions as LangChain messages and generations."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final, cast

from langchain_core.messages import AIMessage, AIMessageChunk, InvalidToolCall, ToolCall
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import invalid_tool_call, tool_call, tool_call_chunk
from langchain_core.outputs import ChatGenerationChunk

from entcent_agents.capture.recorder import LogprobsGeneration, LogprobsGenerationChunk
from entcent_agents.chat.completion import Completion
from entcent_agents.chat.text_tools import read_calls

_FIRST_CALL: Final = 2
"""Index of a streamed turn's first call: LangChain numbers blocks too, and reasoning and text come before."""


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
    )


def text_chunk(text: str) -> ChatGenerationChunk:
    """A piece of a streamed answer."""
    return LogprobsGenerationChunk(message=AIMessageChunk(content=text))


def last_chunk(completion: Completion, text_tools: Sequence[str], *, streamed: bool) -> ChatGenerationChunk:
    """The end of a streamed answer: calls, usage and arrays, and the content where it was not streamed."""
    message = ai_message(completion, text_tools)
    # Chunks are parsed as far as they are JSON, which would make a call of half a call; a JSON string never is one.
    calls = [(call["name"], json.dumps(call["args"]), call["id"]) for call in message.tool_calls]
    calls += [(call["name"], json.dumps(call["args"]), call["id"]) for call in message.invalid_tool_calls]
    chunk = AIMessageChunk(
        content="" if streamed else message.content,
        additional_kwargs=message.additional_kwargs,
        tool_call_chunks=[
            tool_call_chunk(name=name, args=args, id=call_id, index=_FIRST_CALL + i)
            for i, (name, args, call_id) in enumerate(calls)
        ],
        usage_metadata=message.usage_metadata,
        chunk_position="last",
    )
    return LogprobsGenerationChunk(message=chunk, generation_info=_info(completion), token_logprobs=completion.logprobs)


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
        additional_kwargs={"reasoning_content": completion.reasoning} if completion.reasoning else {},
        usage_metadata=UsageMetadata(
            input_tokens=completion.prompt_tokens,
            output_tokens=completion.generated_tokens,
            total_tokens=completion.prompt_tokens + completion.generated_tokens,
        ),
    )


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
