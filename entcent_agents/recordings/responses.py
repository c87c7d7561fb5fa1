"""Responses with choices: `chat.completion` and `text_completion`; n choices are n candidates.

OpenAI, vLLM, SGLang, llama.cpp, Together and most gateways. A choice of either kind may have its log-probabilities in
either form, `content` or parallel arrays; null is a choice without log-probabilities.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Annotated, Any, Final

import msgspec

from entcent_agents.capture.completions import CompletionLogprobs, alternatives_asked, completion_logprobs
from entcent_agents.capture.openai import LogprobEntry, token_logprobs
from entcent_agents.errors import RecordingError
from entcent_agents.logprobs import TokenLogprobs
from entcent_agents.recordings.generation import generation
from entcent_agents.trajectory import Rollout

_Count = Annotated[int, msgspec.Meta(ge=0)]


class _Function(msgspec.Struct):
    name: str
    arguments: str | dict[str, Any] | None = None


class _Custom(msgspec.Struct):
    name: str
    input: str = ""


class _Call(msgspec.Struct):
    function: _Function | None = None
    custom: _Custom | None = None


class _Message(msgspec.Struct):
    content: str | None = None
    tool_calls: list[_Call] | None = None
    function_call: _Function | None = None


class _Logprobs(msgspec.Struct):
    """Either form; null is nothing recorded, but one of the two has to be there."""

    content: list[LogprobEntry] | msgspec.UnsetType | None = msgspec.UNSET
    tokens: list[str] | msgspec.UnsetType | None = msgspec.UNSET
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float | None] | None] | None = None

    @property
    def arrays(self) -> CompletionLogprobs | None:
        """The legacy form, where the choice has it."""
        if not isinstance(self.tokens, list) or isinstance(self.content, list):
            return None
        return CompletionLogprobs(self.tokens, self.token_logprobs, self.top_logprobs)


class _Choice(msgspec.Struct):
    message: _Message | None = None
    text: str | None = None
    logprobs: _Logprobs | None = None
    delta: msgspec.Raw = msgspec.Raw()


class _Usage(msgspec.Struct):
    prompt_tokens: _Count | None = None
    completion_tokens: _Count | None = None


class _Response(msgspec.Struct):
    choices: list[_Choice]
    usage: _Usage | None = None


_RESPONSE: Final = msgspec.json.Decoder(_Response)


def read_response(data: bytes, where: str, answer: re.Pattern[str] | None) -> list[Rollout]:
    """One candidate a choice.

    The prompt's tokens are shared out among the choices, so that these add up to what the server counts. So are
    generated tokens that are not listed: among the choices that list none, else among all.

    Raises:
        RecordingError: Without choices, or with one that is no whole answer.
    """
    response = _RESPONSE.decode(data)
    choices, usage = response.choices, response.usage or _Usage()
    if not choices:
        raise RecordingError("no choices; expected one or more")
    logprobs = _logprobs(choices, usage)
    generated = _generated([len(found) if found else 0 for found in logprobs], usage.completion_tokens or 0)
    prompts = _shares(usage.prompt_tokens or 0, len(choices))
    return [
        generation(
            where if len(choices) == 1 else f"{where}#{number}",
            logprobs[number],
            answer=_said(choice),
            pattern=answer,
            calls=_calls(choice),
            generated_tokens=generated[number],
            prompt_tokens=prompts[number],
        )
        for number, choice in enumerate(choices)
    ]


def _logprobs(choices: list[_Choice], usage: _Usage) -> list[TokenLogprobs | None]:
    """Those of each choice, all of one k: one number of alternatives was asked for."""
    asked = alternatives_asked([arrays for choice in choices if choice.logprobs and (arrays := choice.logprobs.arrays)])
    found = [_logprobs_of(choice, usage, asked) for choice in choices]
    k = max((each.top_k for each in found if each), default=0)
    return [replace(each, top_k=k) if each else None for each in found]


def _logprobs_of(choice: _Choice, usage: _Usage, asked: int) -> TokenLogprobs | None:
    logprobs = choice.logprobs
    if logprobs is None:
        return None
    if isinstance(logprobs.content, list):
        return token_logprobs(logprobs.content)
    if arrays := logprobs.arrays:
        return _of_arrays(arrays, usage, asked)
    if logprobs.content is msgspec.UNSET and logprobs.tokens is msgspec.UNSET:
        raise RecordingError("logprobs without tokens; expected content, or tokens and token_logprobs, or null")
    return None


def _of_arrays(logprobs: CompletionLogprobs, usage: _Usage, asked: int) -> TokenLogprobs | None:
    sampled = logprobs.token_logprobs or [0.0]
    if sampled[0] is None and usage.completion_tokens is not None and len(sampled) > usage.completion_tokens:
        raise RecordingError("the prompt is among the tokens; expected the generated ones alone, recorded without echo")
    return completion_logprobs(logprobs, asked)


def _said(choice: _Choice) -> str:
    if choice.message is not None:
        return choice.message.content or ""
    if choice.text is not None:
        return choice.text
    if bytes(choice.delta):
        raise RecordingError("a piece of a streamed response; expected whole responses, with a message or a text")
    raise RecordingError("a choice without an answer; expected a message (chat) or a text (completion)")


def _calls(choice: _Choice) -> list[tuple[str, Any]]:
    """What the server says was called; `function_call` is how it was said before there were `tool_calls`."""
    calls: list[tuple[str, Any]] = []
    message = choice.message or _Message()
    if message.function_call and not message.tool_calls:
        return [(message.function_call.name, message.function_call.arguments)]
    for call in message.tool_calls or ():
        if call.function is not None:
            calls.append((call.function.name, call.function.arguments))
        elif call.custom is not None:
            calls.append((call.custom.name, call.custom.input))
        else:
            raise RecordingError("a tool call that calls nothing; expected a function, or a custom tool")
    return calls


def _generated(listed: list[int], counted: int) -> list[int]:
    """Generated tokens of each choice, from those it lists and what the server counts in all."""
    takers = [number for number, tokens in enumerate(listed) if tokens == 0] or range(len(listed))
    for number, more in zip(takers, _shares(max(0, counted - sum(listed)), len(takers)), strict=True):
        listed[number] += more
    return listed


def _shares(total: int, parts: int) -> list[int]:
    """`total` in `parts` nearly equal whole numbers that add up to it."""
    share, rest = divmod(total, parts)
    return [share + (number < rest) for number in range(parts)]
