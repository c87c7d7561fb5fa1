"""Chat completions from the wire: typed decoding of server-sent events and bodies straight into arrays."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, cast

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

    id: str = ""
    model: str = ""
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: msgspec.Raw | None = None


_DECODER: Final = msgspec.json.Decoder(_Payload)


class Delta(NamedTuple):
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

    async def events(self) -> AsyncIterator[Delta]:
        """Send the request and yield what arrives, event by event (one for all where it does not stream).

        Raises:
            ModelServerError: Where the server cannot be reached or answers with an error.
        """
        create = self._client.chat.completions.with_streaming_response.create
        try:
            async with create(**cast(Any, self._payload)) as response:
                if self._payload.get("stream"):
                    async for line in response.iter_lines():
                        if line.startswith("data:") and (data := line[5:].strip()) != "[DONE]":
                            for delta in self._take(data.encode()):
                                yield delta
                else:
                    for delta in self._take(await response.read()):
                        yield delta
        except (APIStatusError, APIConnectionError) as error:
            raise server_error(error, str(self._client.base_url)) from error

    async def completions(self) -> list[Completion]:
        """Send the request and wait for all choices."""
        async for _ in self.events():
            pass
        return self.result()

    def result(self) -> list[Completion]:
        """The choices, after the last event, by index."""
        if not self._parts:
            raise ModelServerError(f"{self._client.base_url} answered without a single choice")
        usage = self._usage or _Usage()
        share, rest = divmod(usage.prompt_tokens, len(self._parts))
        return [
            self._completion(parts, share + rest * (i == 0), usage.completion_tokens if len(self._parts) == 1 else 0)
            for i, (_, parts) in enumerate(sorted(self._parts.items()))
        ]

    def _take(self, data: bytes) -> list[Delta]:
        try:
            payload = _DECODER.decode(data)
        except msgspec.DecodeError as error:
            raise ModelServerError(
                f"{self._client.base_url} does not answer as an OpenAI chat API does: {error}"
            ) from error
        if payload.error is not None:
            raise ModelServerError(f"{self._client.base_url} broke off: {bytes(payload.error).decode()[:300]}")
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
                (call.id or f"call_{key}", call.function.name or "", call.function.arguments or "")
                for key, call in sorted(parts.calls.items())
            ),
            logprobs=token_logprobs(parts.entries),
            finish_reason=parts.finish_reason,
            prompt_tokens=prompt_tokens,
            generated_tokens=max(generated, len(parts.entries)),
            model=self._model,
        )


def server_error(error: APIStatusError | APIConnectionError, base_url: str) -> ModelServerError:
    """Our error for one of the SDK's: what was asked, what was seen, what to do; never a key."""
    if isinstance(error, APITimeoutError):
        return ModelServerError(f"{base_url} did not answer in time: raise timeout_seconds, or ask for fewer tokens")
    if isinstance(error, APIConnectionError):
        return ModelServerError(f"no model server answers at {base_url}: start one, or correct the address")
    body = error.body if isinstance(error.body, Mapping) else {}
    said = cast(Mapping[str, Any], body).get("message") or error.message
    return ModelServerError(f"{base_url} answered {error.status_code}: {' '.join(str(said).split())[:300]}")
