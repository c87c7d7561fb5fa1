"""One request for chat completions: its events, its choices with their arrays, and its errors in words."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any, Final, cast
from uuid import uuid4

import httpx2
import msgspec
from openai import APIConnectionError, APIStatusError, APITimeoutError, AsyncOpenAI

from entcent_agents.capture.alternatives import keeps_alternatives
from entcent_agents.capture.arrays import vocabulary_numbers
from entcent_agents.capture.completions import completion_entries
from entcent_agents.capture.growing import GrowingLogprobs
from entcent_agents.capture.tokens import BYTES_PER_TOKEN
from entcent_agents.chat.clients import NO_KEY, shown
from entcent_agents.chat.counting import generated_tokens, shares
from entcent_agents.chat.retry_after import retry_after_seconds
from entcent_agents.chat.turns import turn
from entcent_agents.chat.wire import (
    Choice,
    Decoded,
    EitherLogprobs,
    Message,
    NativeCall,
    Payload,
    TokenUsage,
    decoded_body,
    decoded_event,
    event_data,
)
from entcent_agents.errors import LogprobsMalformedError, ModelServerError
from entcent_agents.logprobs import TokenLogprobs

_SAID: Final = 500
"""Most characters of an error message; cut only after keys are masked."""


@dataclass(frozen=True, slots=True)
class Delta:
    """What one event added to one choice."""

    index: int
    text: str
    reasoning: str
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
        cached_tokens: Of these, what the server had read before; None where it does not say.
        generated_tokens: Tokens sampled for this choice.
        model: The model's name, as the server says.
        whole_prompt_tokens: Of the request that this choice is of; 0 where the server does not count.
    """

    text: str
    reasoning: str
    tool_calls: tuple[tuple[str, str, str], ...]
    logprobs: TokenLogprobs | None
    finish_reason: str
    prompt_tokens: int
    cached_tokens: int | None
    generated_tokens: int
    model: str
    whole_prompt_tokens: int = 0


@dataclass(slots=True)
class _CallParts:
    id: str | None = None
    name: str | None = None
    arguments: list[str] = field(default_factory=list[str])

    def add(self, call: NativeCall) -> None:
        self.id = self.id or call.id
        self.name = self.name or call.function.name
        self.arguments.append(call.function.arguments or "")


@dataclass(slots=True)
class _ChoiceParts:
    text: list[str] = field(default_factory=list[str])
    reasoning: list[str] = field(default_factory=list[str])
    calls: dict[int, _CallParts] = field(default_factory=dict[int, _CallParts])
    logprobs: GrowingLogprobs = field(default_factory=GrowingLogprobs)
    token_ids: list[Any] = field(default_factory=list[Any])
    finish_reason: str = ""

    def add(self, message: Message, *, streamed: bool) -> None:
        self.text.append(message.content or "")
        self.reasoning.append(message.reasoning_content or "")
        for position, call in enumerate(message.tool_calls or ()):
            self.calls.setdefault(call.index if streamed else position, _CallParts()).add(call)

    def arrays(self) -> TokenLogprobs | None:
        """The tokens, with their numbers in the vocabulary where those came apart and are as many."""
        arrays = self.logprobs.arrays()
        if arrays is None or len(self.token_ids) != len(arrays):
            return arrays
        return replace(arrays, ids=vocabulary_numbers(self.token_ids))

    def unlisted_tokens(self, listed: TokenLogprobs | None) -> int:
        """An estimate of the tokens that came without log-probabilities, from what the choice says."""
        calls = (piece for call in self.calls.values() for piece in (call.name or "", *call.arguments))
        said = "".join([*self.reasoning, *self.text, *calls]).encode("utf-8", "surrogatepass")
        return math.ceil(max(0, len(said) - (len(listed.text) if listed else 0)) / BYTES_PER_TOKEN)


class CompletionRequest:
    """One request for n choices; iterate its events, then take the completions.

    Args:
        client: Whom to ask.
        payload: The body, as the chat completions API has it, or with a `prompt` the legacy completions API.
        n: How many choices.
    """

    def __init__(self, client: AsyncOpenAI, payload: Mapping[str, Any], n: int = 1) -> None:
        self._client = client
        self._payload: dict[str, Any] = {**payload, "n": n} if n > 1 else dict(payload)
        self._n = n
        self._named = keeps_alternatives()
        self._parts: dict[int, _ChoiceParts] = {}
        self._usage: TokenUsage | None = None
        self._lasts: list[TokenUsage] = []
        self._model = ""
        self._base_url = shown(client.base_url)

    async def events(self) -> AsyncIterator[Delta]:
        """Send the request and yield what arrives, event by event (one for all where it does not stream).

        Raises:
            ModelServerError: Where the server cannot be reached, answers with an error or breaks off.
        """
        try:
            async with self._created() as response:
                body: AsyncIterator[bytes] = response.iter_bytes()
                async for decoded in self._decoded(body):
                    for delta in self._take(decoded):
                        yield delta
            failure = self._incomplete()
        except msgspec.DecodeError as error:
            failure = ModelServerError(f"{self._base_url} does not answer as an OpenAI chat API does: {error}")
        except (APIStatusError, APIConnectionError, httpx2.HTTPError) as error:
            failure = server_error(error, self._base_url)
        if failure:  # raised out here, unchained: what the SDK's errors quote may hold the key
            raise without_key(failure, self._client.api_key)

    def _created(self) -> Any:
        """The SDK's call, not yet sent.

        What it is given as parameters the SDK walks through message by message, by their types: about as much work as
        all else of a call together. What it is given as `extra_body` it sends as it is.
        """
        sent: dict[str, Any] = dict(self._payload)
        sent |= sent.pop("extra_body", None) or {}
        if "prompt" in sent:
            return cast(Any, self._client.completions.with_streaming_response.create)(
                model="", prompt="", extra_body=sent
            )
        return cast(Any, self._client.chat.completions.with_streaming_response.create)(
            model="", messages=(), extra_body=sent
        )

    @property
    def usage(self) -> TokenUsage | None:
        """What the server counted; None before the last event, and where it does not count."""
        return self._usage

    async def completions(self) -> list[Completion]:
        """Send the request and wait for all choices."""
        async for _ in self.events():
            pass
        return await self.result()

    async def result(self) -> list[Completion]:
        """The choices, after the last event, by index.

        Raises:
            ModelServerError: Where there is none.
            LogprobsMalformedError: On log-probabilities that cannot be.
        """
        whole: list[Completion] = []
        for outcome in await self.outcomes():
            if isinstance(outcome, LogprobsMalformedError):
                raise outcome
            whole.append(outcome)
        return whole

    async def outcomes(self) -> list[Completion | LogprobsMalformedError]:
        """What became of each choice, after the last event, by index: one that cannot be is no fault of the others.

        Raises:
            ModelServerError: Where there is none.
        """
        if not self._parts:
            raise ModelServerError(f"{self._base_url} answered without a single choice")
        choices = [parts for _, parts in sorted(self._parts.items())]
        logprobs: list[TokenLogprobs | LogprobsMalformedError | None] = []
        for parts in choices:
            async with turn():
                try:
                    logprobs.append(parts.arrays())
                except LogprobsMalformedError as error:
                    logprobs.append(error)
        generated = self._generated(choices, logprobs)
        prompts = shares(self._usage.prompt_tokens if self._usage else 0, len(choices))
        cached = self._usage.cached_tokens if self._usage else None
        cached = [None] * len(choices) if cached is None else shares(cached, len(choices))
        return [self._completion(*each) for each in zip(choices, logprobs, prompts, cached, generated, strict=True)]

    def _generated(
        self, choices: Sequence[_ChoiceParts], logprobs: Sequence[TokenLogprobs | LogprobsMalformedError | None]
    ) -> list[int]:
        unlisted = [
            0 if isinstance(found, LogprobsMalformedError) else parts.unlisted_tokens(found)
            for parts, found in zip(choices, logprobs, strict=True)
        ]
        if self._usage is None:  # of what lists nothing the recorder estimates the whole, by the model's tokenizer
            unlisted = [missing if found else 0 for missing, found in zip(unlisted, logprobs, strict=True)]
        counted = self._usage.completion_tokens if self._usage else None
        return generated_tokens([len(parts.logprobs) for parts in choices], unlisted, counted)

    def _incomplete(self) -> ModelServerError | None:
        """A connection that is closed early looks like an end, but no choice says why it finished."""
        if all(parts.finish_reason for parts in self._parts.values()) or not self._payload.get("stream"):
            return None
        return ModelServerError(
            f"{self._base_url} broke off in the middle of its answer: see the server's log", broke_off=True
        )

    async def _decoded(self, body: AsyncIterator[bytes]) -> AsyncIterator[Decoded]:
        if not self._payload.get("stream"):
            yield await decoded_body(body, named=self._named)
            return
        async for data in event_data(body):
            yield await decoded_event(data, named=self._named)

    def _take(self, decoded: Decoded) -> list[Delta]:
        payload = decoded.payload
        if payload.error is not None:
            began = bool(self._parts)  # else it is a refusal in the guise of an answer
            said = f"{self._base_url} broke off: {_said(payload.error)}"
            broken = ModelServerError(said, status=None if began else _code(payload.error), broke_off=began)
            raise without_key(broken, self._client.api_key)
        self._model = payload.model or self._model
        self._count(payload)
        sliced = iter(decoded.logprobs)
        return [self._add(choice, position, sliced) for position, choice in enumerate(payload.choices)]

    def _count(self, payload: Payload) -> None:
        """Counts stand in the last event, or grow in each; llama.cpp counts each choice in a last one of its own."""
        if payload.usage is None:
            return
        if payload.choices:
            self._usage = payload.usage
            return
        self._lasts.append(payload.usage)
        generated = sum(usage.completion_tokens for usage in self._lasts[-self._n :])
        self._usage = msgspec.structs.replace(payload.usage, completion_tokens=generated)

    def _add(self, choice: Choice, position: int, sliced: Iterator[GrowingLogprobs]) -> Delta:
        """Add to the choice of that number; in a body they stand in order, whatever numbers they carry."""
        streamed = choice.message is None
        index = choice.index if streamed else position
        parts = self._parts.setdefault(index, _ChoiceParts())
        message = choice.delta or choice.message or Message(content=choice.text)
        parts.add(message, streamed=streamed)
        before = len(parts.logprobs)
        if choice.logprobs is not None:
            self._add_logprobs(parts.logprobs, choice.logprobs, sliced)
        if isinstance(choice.token_ids, list):
            parts.token_ids += cast(list[Any], choice.token_ids)
        parts.finish_reason = choice.finish_reason or parts.finish_reason
        text, reasoning = message.content or "", message.reasoning_content or ""
        return Delta(index, text, reasoning, len(parts.logprobs) - before or bool(text or reasoning))

    def _add_logprobs(
        self, growing: GrowingLogprobs, logprobs: EitherLogprobs, sliced: Iterator[GrowingLogprobs]
    ) -> None:
        """In the order they were generated in: reasoning, answer, refusal."""
        if logprobs.tokens is not None:
            asked = self._payload.get("logprobs" if "prompt" in self._payload else "top_logprobs")
            growing.add(completion_entries(logprobs.legacy(), asked, named=self._named))
        growing.add(logprobs.reasoning_content or ())
        if logprobs.content is not None:
            if (earlier := next(sliced, None)) is not None:
                growing.join(earlier)
            growing.add(logprobs.content)
        growing.add(logprobs.refusal or ())

    def _completion(
        self,
        parts: _ChoiceParts,
        logprobs: TokenLogprobs | LogprobsMalformedError | None,
        prompt: int,
        cached: int | None,
        generated: int,
    ) -> Completion | LogprobsMalformedError:
        if isinstance(logprobs, LogprobsMalformedError):
            return logprobs
        return Completion(
            text="".join(parts.text),
            reasoning="".join(parts.reasoning),
            tool_calls=tuple(
                (call.id or f"call_{uuid4().hex[:24]}", call.name or "", "".join(call.arguments))
                for _, call in sorted(parts.calls.items())
            ),
            logprobs=logprobs,
            finish_reason=parts.finish_reason,
            prompt_tokens=prompt,
            cached_tokens=cached,
            generated_tokens=generated,
            model=self._model,
            whole_prompt_tokens=self._usage.prompt_tokens if self._usage else 0,
        )


def server_error(error: APIStatusError | APIConnectionError | httpx2.HTTPError, base_url: str) -> ModelServerError:
    """Our error for one of the SDK's or the wire's: what was asked, what was seen, what to do."""
    silent = isinstance(error, APITimeoutError | httpx2.TimeoutException)
    if silent and not isinstance(error.__cause__, httpx2.ConnectTimeout):
        seen = "did not answer in time: raise timeout_seconds, or ask for fewer tokens"
        return ModelServerError(f"{base_url} {seen}", broke_off=True)
    if isinstance(error, APIConnectionError):
        why = _line(str(error.__cause__ or "")) or "it does not take the connection"
        seen = f"no model server answers at {base_url} ({why}): start one, or correct the address"
        unreached = isinstance(error.__cause__, httpx2.ConnectError | httpx2.ConnectTimeout)
        return ModelServerError(seen, broke_off=True, reached=not unreached)
    if isinstance(error, httpx2.HTTPError):
        seen = f"{base_url} broke off in the middle of its answer ({_line(str(error))})"
        return ModelServerError(seen, broke_off=True)
    said = _said(error.body) or _line(error.message)
    return ModelServerError(
        f"{base_url} answered {error.status_code}: {said}",
        status=error.status_code,
        retry_after_seconds=retry_after_seconds(error.response.headers),
    )


def without_key(error: ModelServerError, api_key: str) -> ModelServerError:
    """The error as it may be shown: what a server says of a key may quote it."""
    said = str(error) if api_key == NO_KEY else str(error).replace(api_key, "***")
    masked = copy(error)
    masked.args = (said[:_SAID],)
    return masked


def _code(error: Any) -> int | None:
    """The status that gateways name in an error whose answer had a good one; None where it is none."""
    code = cast(dict[str, Any], error).get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) and 400 <= code < 600 else None


def _said(error: Any) -> str:
    """What an error object of the API says."""
    said = cast(dict[str, Any], error).get("message") if isinstance(error, dict) else error
    return _line(str(said or ""))


def _line(said: str) -> str:
    return " ".join(said.split())
