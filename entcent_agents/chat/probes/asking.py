"""Asking a server on behalf of the probes: the chat model's own payloads over its own request path, counted."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx2
import msgspec
from langchain_core.messages import HumanMessage
from openai import APIConnectionError, APIStatusError

from entcent_agents.chat.clients import shown
from entcent_agents.chat.completion import Completion, CompletionRequest, server_error, without_key
from entcent_agents.chat.model import ChatLogprobs
from entcent_agents.chat.payload import chat_payload
from entcent_agents.chat.wire import TokenUsage
from entcent_agents.entropy import ABSENT_BELOW
from entcent_agents.errors import ModelServerError

REFUSALS: Final = frozenset({400, 413, 422, 500, 501})
"""Statuses of a server that will not have a field: 500 too, which llama.cpp and others answer where they fail on it."""
NEUTRAL: Final[dict[str, int | None]] = {"top_p": None, "stop": None, "seed": None, "n": 1, "callbacks": None}
"""Settings of the user's that a measurement must not depend on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a measurement took: requests to the model, and for the list of models; retries of the SDK not counted."""

    requests: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came of one request.

    Attributes:
        choices: Its completions.
        usage: What the server counted; None where it does not count.
        pieces: How many events brought tokens or text.
    """

    choices: tuple[Completion, ...]
    usage: TokenUsage | None
    pieces: int


class Alternative(msgspec.Struct, frozen=True):
    """One of the likeliest tokens at a place, with what it says: `TokenLogprobs` does not keep that."""

    token: str = ""
    bytes: list[int] | None = None
    logprob: float | None = None

    @property
    def identity(self) -> tuple[str, tuple[int, ...]]:
        """What tells it from the others; pieces of characters all read as U+FFFD."""
        return self.token, tuple(self.bytes or ())

    @property
    def present(self) -> bool:
        """Whether it has a probability at all."""
        return self.logprob is not None and self.logprob > ABSENT_BELOW


class _Entry(msgspec.Struct):
    top_logprobs: list[Alternative] | None = None


class _Logprobs(msgspec.Struct):
    content: list[_Entry] | None = None


class _Choice(msgspec.Struct):
    logprobs: _Logprobs | None = None


class _Body(msgspec.Struct):
    choices: list[_Choice] = []
    usage: TokenUsage | None = None


class ServedModel(msgspec.Struct, frozen=True):
    """A model as the server lists it."""

    id: str = ""
    owned_by: str | None = None


class _Models(msgspec.Struct):
    data: list[ServedModel] = []


class Asking:
    """Asks one server, and counts what it costs.

    Args:
        model: Whom to ask; of its settings those count that reach the server: address, key, retries, extra fields.

    Attributes:
        wanted_alternatives: The `top_logprobs` of the user's model.
        most_alternatives: The largest that is known to work; the probe of it raises this.
    """

    def __init__(self, model: ChatLogprobs) -> None:
        self.wanted_alternatives: int = model.top_logprobs
        self._model = model.model_copy(update=NEUTRAL)
        self._requests = self._prompt_tokens = self._generated_tokens = 0
        self._started = time.perf_counter()
        self.most_alternatives = 2  # the least that an entropy can be computed from

    @property
    def cost(self) -> Cost:
        """So far."""
        return Cost(
            requests=self._requests,
            prompt_tokens=self._prompt_tokens,
            generated_tokens=self._generated_tokens,
            seconds=time.perf_counter() - self._started,
        )

    def add(self, *, requests: int = 0, prompt_tokens: int = 0, generated_tokens: int = 0) -> None:
        """Count what was spent."""
        self._requests += requests
        self._prompt_tokens += prompt_tokens
        self._generated_tokens += generated_tokens

    def model(self, **settings: Any) -> ChatLogprobs:
        """The chat model with these settings, and as many alternatives as the user wants and the server gives."""
        top = min(self.wanted_alternatives, self.most_alternatives)
        return self._model.model_copy(update={"top_logprobs": top, **settings})

    def payload(
        self,
        says: str,
        *,
        max_tokens: int,
        temperature: float = 1.0,
        stream: bool | None = None,
        model: ChatLogprobs | None = None,
        bound: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> dict[str, Any]:
        """The body that the chat model would send.

        Args:
            says: The user's message.
            max_tokens: Most tokens of the answer.
            temperature: Sampling temperature.
            stream: None leaves it to the chat model.
            model: The chat model, where it has other settings.
            bound: What `bind_tools` or `bind` bound.
            **fields: Further fields of the body; these win.
        """
        settings = {**(bound or {}), "max_tokens": max_tokens, "temperature": temperature}
        messages = [HumanMessage(says)]
        body = chat_payload(model or self.model(), messages, None, settings)
        if stream is not None:
            body["stream"] = stream
            body.pop("stream_options", None)
            if stream:
                body["stream_options"] = {"include_usage": True}
        return {**body, **fields}

    async def answer(self, payload: Mapping[str, Any], n: int = 1) -> Answer:
        """Send a request and wait for its choices.

        Raises:
            ModelServerError: As `CompletionRequest` does.
            LogprobsMalformedError: On log-probabilities that cannot be.
        """
        self.add(requests=1)
        request = CompletionRequest(self.client(), payload, n)
        pieces = 0
        async for delta in request.events():
            pieces += bool(delta.tokens)
        choices = tuple(await request.result())
        self.add(
            prompt_tokens=sum(choice.prompt_tokens for choice in choices),
            generated_tokens=sum(choice.generated_tokens for choice in choices),
        )
        return Answer(choices=choices, usage=request.usage, pieces=pieces)

    async def alternatives(self, payload: Mapping[str, Any]) -> list[list[Alternative]]:
        """The alternatives at each token of an unstreamed answer's only choice.

        Raises:
            ModelServerError: As `answer`.
        """
        self.add(requests=1)
        create = self.client().chat.completions.with_raw_response.create
        body = await self._body(lambda: create(**payload), _Body)
        if body.usage:
            self.add(prompt_tokens=body.usage.prompt_tokens, generated_tokens=body.usage.completion_tokens)
        logprobs = body.choices[0].logprobs if body.choices else None
        entries = logprobs.content if logprobs else None
        return [entry.top_logprobs or [] for entry in entries or ()]

    async def models(self) -> list[ServedModel]:
        """What the server lists at `/models`.

        Raises:
            ModelServerError: Where it does not.
        """
        self.add(requests=1)
        listing = self.client().models.with_raw_response.list
        return (await self._body(listing, _Models)).data

    def client(self) -> Any:
        """The chat model's client on this event loop; what is asked by it is not counted."""
        return self._model.client()

    async def _body(self, send: Callable[[], Awaitable[Any]], kind: type[Any]) -> Any:
        client = self.client()
        address = shown(client.base_url)
        try:
            return msgspec.json.decode((await send()).content, type=kind)
        except msgspec.DecodeError as error:
            failure = ModelServerError(f"{address} does not answer as an OpenAI API does: {error}")
        except (APIStatusError, APIConnectionError, httpx2.HTTPError) as error:
            failure = server_error(error, address)
        raise without_key(failure, client.api_key)  # out here, unchained: what the SDK's errors quote may hold the key


def is_refusal(error: ModelServerError) -> bool:
    """Whether the server answered and would not, rather than could not be heard."""
    return error.status in REFUSALS
