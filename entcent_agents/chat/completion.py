"""Chat completions from the wire: typed decoding of server-sent events and bodies straight into arrays."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast
from uuid import uuid4

import httpx2
import msgspec
from openai import APIConnectionError, APIStatusError, APITimeoutError, AsyncOpenAI

from entcent_agents.capture.openai import ChoiceLogprobs, LogprobEntry, token_logprobs
from entcent_agents.errors import ModelServerError
from entcent_agents.logprobs import TokenLogprobs


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(msgspec.Struct):
    index: int = 0
    id: str | None = None
    function: _Function = msgspec.field(default_factory=_Function)


class _Message(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    delta: _Message | None = None
    message: _Message | None = None
    logprobs: ChoiceLogprobs | None = None
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Payload(msgspec.Struct):
    """One event of a stream, or a whole body: they differ in `delta` and `message` only."""

    model: str | None = None
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


_SAID: Final = 500
"""Most characters of an error message; cut only after keys are masked."""
_DECODER: Final = msgspec.json.Decoder(_Payload)


@dataclass(frozen=True, slots=True)
class Delta:
    """What one event added to one choice."""

    index: int
    text: str
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One choice, whole.

    Attributes:
        text: What the model wrote, without native tool calls.
        reasoning: What a reasoning model wrote before, where the server gives it apart.
        tool_calls: Native calls as (id, name, arguments as JSON text).
        logprobs: Of all tokens the server gave them for; None where it gave none.
        finish_reason: As the server says.
        prompt_tokens: This choice's share of the prompt, so that the choices of a request add up to what is billed.
        generated_tokens: Tokens sampled for this choice.
        model: The model's name, as the server says.
    """

    text: str
    reasoning: str
    tool_calls: tuple[tuple[str, str, str], ...]
    logprobs: TokenLogprobs | None
    finish_reason: str
    prompt_tokens: int
    generated_tokens: int
    model: str


@dataclass(slots=True)
class _ChoiceParts:
    text: list[str] = field(default_factory=list[str])
    reasoning: list[str] = field(default_factory=list[str])
    calls: dict[int, _ToolCall] = field(default_factory=dict[int, _ToolCall])
    entries: list[LogprobEntry] = field(default_factory=list[LogprobEntry])
    finish_reason: str = ""


class CompletionRequest:
    """One request for n choices; iterate its events, then take the completions.

    Args:
        client: Whom to ask.
        payload: The body, as the chat completions API has it.
        n: How many choices.
    """

    def __init__(self, client: AsyncOpenAI, payload: Mapping[str, Any], n: int = 1) -> None:
        self._client = client
        self._payload = {**payload, "n": n} if n > 1 else dict(payload)
        self._n = n
        self._parts: dict[int, _ChoiceParts] = {}
        self._usage: _Usage | None = None
        self._model = ""
        self._base_url = str(client.base_url)

    async def events(self) -> AsyncIterator[Delta]:
        """Send the request and yield what arrives, event by event (one for all where it does not stream).

        Raises:
            ModelServerError: Where the server cannot be reached, answers with an error or breaks off.
        """
        create = cast(Any, self._client.chat.completions.with_streaming_response.create)
        try:
            async with create(**self._payload) as response:
                body: AsyncIterator[bytes] = response.iter_bytes()
                async for data in _event_data(body) if self._payload.get("stream") else _whole(body):
                    for delta in self._take(data):
                        yield delta
            failure = self._incomplete()
        except (APIStatusError, APIConnectionError, httpx2.HTTPError) as error:
            failure = server_error(error, self._base_url)
        if failure:  # raised out here, unchained: what the SDK's errors quote may hold the key
            raise self._without_key(failure)

    async def completions(self) -> list[Completion]:
        """Send the request and wait for all choices."""
        async for _ in self.events():
            pass
        return self.result()

    def result(self) -> list[Completion]:
        """The choices, after the last event, by index."""
        if not self._parts:
            raise ModelServerError(f"{self._base_url} answered without a single choice")
        usage = self._usage or _Usage()
        choices = [parts for _, parts in sorted(self._parts.items())]
        unlisted = max(0, usage.completion_tokens - sum(len(parts.entries) for parts in choices))
        shares = zip(_shares(usage.prompt_tokens, len(choices)), _shares(unlisted, len(choices)), strict=True)
        return [
            self._completion(parts, prompt, len(parts.entries) + more)
            for parts, (prompt, more) in zip(choices, shares, strict=True)
        ]

    def _incomplete(self) -> ModelServerError | None:
        """A connection that is closed early looks like an end, but no choice says why it finished."""
        if all(parts.finish_reason for parts in self._parts.values()) or not self._payload.get("stream"):
            return None
        return ModelServerError(f"{self._base_url} broke off in the middle of its answer: see the server's log")

    def _without_key(self, error: ModelServerError) -> ModelServerError:
        return ModelServerError(str(error).replace(self._client.api_key, "***")[:_SAID])

    def _take(self, data: bytes) -> list[Delta]:
        try:
            payload = _DECODER.decode(data)
        except msgspec.DecodeError as error:
            raise ModelServerError(f"{self._base_url} does not answer as an OpenAI chat API does: {error}") from error
        if payload.error is not None:
            raise self._without_key(ModelServerError(f"{self._base_url} broke off: {_said(payload.error)}"))
        self._model = payload.model or self._model
        self._usage = payload.usage or self._usage
        return [self._add(choice) for choice in payload.choices]

    def _add(self, choice: _Choice) -> Delta:
        parts = self._parts.setdefault(choice.index, _ChoiceParts())
        message = choice.delta or choice.message or _Message()
        text = message.content or ""
        parts.text.append(text)
        parts.reasoning.append(message.reasoning_content or "")
        for position, call in enumerate(message.tool_calls or ()):
            key = call.index if choice.delta else position
            known = parts.calls.setdefault(key, _ToolCall())
            known.id = known.id or call.id
            known.function.name = known.function.name or call.function.name
            known.function.arguments = (known.function.arguments or "") + (call.function.arguments or "")
        entries = (choice.logprobs.content if choice.logprobs else None) or []
        parts.entries.extend(entries)
        parts.finish_reason = choice.finish_reason or parts.finish_reason
        return Delta(choice.index, text, len(entries) or bool(text))

    def _completion(self, parts: _ChoiceParts, prompt_tokens: int, generated: int) -> Completion:
        return Completion(
            text="".join(parts.text),
            reasoning="".join(parts.reasoning),
            tool_calls=tuple(
                (call.id or f"call_{uuid4().hex[:24]}", call.function.name or "", call.function.arguments or "")
                for _, call in sorted(parts.calls.items())
            ),
            logprobs=token_logprobs(parts.entries),
            finish_reason=parts.finish_reason,
            prompt_tokens=prompt_tokens,
            generated_tokens=generated,
            model=self._model,
        )


def server_error(error: APIStatusError | APIConnectionError | httpx2.HTTPError, base_url: str) -> ModelServerError:
    """Our error for one of the SDK's or the wire's: what was asked, what was seen, what to do."""
    if isinstance(error, APITimeoutError | httpx2.TimeoutException):
        return ModelServerError(f"{base_url} did not answer in time: raise timeout_seconds, or ask for fewer tokens")
    if isinstance(error, APIConnectionError):
        why = _line(str(error.__cause__ or error))
        return ModelServerError(f"no model server answers at {base_url} ({why}): start one, or correct the address")
    if isinstance(error, httpx2.HTTPError):
        return ModelServerError(f"{base_url} broke off in the middle of its answer ({_line(str(error))})")
    return ModelServerError(f"{base_url} answered {error.status_code}: {_said(error.body) or _line(error.message)}")


def _said(error: Any) -> str:
    """What an error object of the API says."""
    said = cast(dict[str, Any], error).get("message") if isinstance(error, dict) else error
    return _line(str(said or ""))


def _line(said: str) -> str:
    return " ".join(said.split())


def _shares(total: int, parts: int) -> list[int]:
    """`total` in `parts` nearly equal whole numbers that add up to it."""
    share, rest = divmod(total, parts)
    return [share + rest, *[share] * (parts - 1)]


async def _event_data(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The data of each server-sent event; split as bytes: JSON may hold what text calls line breaks (U+2028)."""
    rest = b""
    async for chunk in body:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line.startswith(b"data:") and (data := line[5:].strip()) != b"[DONE]":
                yield data


async def _whole(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield b"".join([chunk async for chunk in body])
