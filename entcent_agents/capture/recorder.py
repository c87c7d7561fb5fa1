"""A callback that keeps each model call's log-probabilities as arrays and takes the raw ones out of the messages."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar
from uuid import UUID

from langchain_core.callbacks import BaseRunManager
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, LLMResult
from pydantic import ConfigDict, Field

from entcent_agents.budget import Prices
from entcent_agents.capture.handlers import ModelAndToolHandler, single
from entcent_agents.capture.messages import RAW, capture_logprobs, strip_logprobs
from entcent_agents.capture.tokens import estimated_tokens
from entcent_agents.capture.usage import counted_usage, generations_of, may_have_generated, price_of
from entcent_agents.errors import LogprobsMalformedError, causes_of
from entcent_agents.logprobs import TokenLogprobs
from entcent_agents.trajectory import Turn, Usage

TurnListener = Callable[[Turn], None]


class LogprobsGeneration(ChatGeneration):
    """A generation that carries its arrays beside the message, never in it, and what its request's prompt took."""

    model_config: ClassVar[ConfigDict] = ConfigDict(arbitrary_types_allowed=True)
    token_logprobs: TokenLogprobs | None = Field(default=None, exclude=True, repr=False)
    whole_prompt_tokens: int | None = Field(default=None, exclude=True, repr=False)


class LogprobsGenerationChunk(ChatGenerationChunk):
    """A chunk of a streamed generation; the last carries the arrays of the whole, and so does a sum of chunks."""

    model_config: ClassVar[ConfigDict] = ConfigDict(arbitrary_types_allowed=True)
    token_logprobs: TokenLogprobs | None = Field(default=None, exclude=True, repr=False)
    whole_prompt_tokens: int | None = Field(default=None, exclude=True, repr=False)

    def __add__(self, other: ChatGenerationChunk | list[ChatGenerationChunk]) -> ChatGenerationChunk:
        """Concatenate, and keep the arrays."""
        total = super().__add__(other)
        chunks = (self, *(other if isinstance(other, list) else (other,)))
        return LogprobsGenerationChunk(
            message=total.message,
            generation_info=total.generation_info,
            token_logprobs=_first(chunks, "token_logprobs"),
            whole_prompt_tokens=_first(chunks, "whole_prompt_tokens"),
        )


@dataclass(slots=True)
class _Call:
    """A model call under way: what its model costs, and the tokens that were seen to arrive."""

    price: Prices | None = None
    arrived: int = 0
    chunks: int = 0


class TurnRecorder(ModelAndToolHandler):
    """Records every model call below a rollout, by message id.

    Works with any LangChain chat model whose messages `capture_logprobs` understands, and with `ChatLogprobs`, whose
    arrays ride beside the message.

    Args:
        on_turn: Called with each recorded turn.
        prices: What models cost, by name.
    """

    hears_starts = True
    hears_answers = True

    def __init__(self, on_turn: TurnListener | None = None, prices: Mapping[str, Prices] | None = None) -> None:
        self.turns: dict[str, Turn] = {}
        self.usage: Usage = Usage()
        self._ids_by_words: dict[str, str] = {}
        self._words: dict[str, str] = {}
        self._streamed: dict[UUID, TokenLogprobs] = {}
        self._reuse: tuple[TokenLogprobs, int] | None = None
        self._again: str | None = None
        self._on_turn = on_turn
        self._prices = prices or {}
        self._calls: dict[UUID, _Call] = {}
        self._counting = threading.Lock()
        self._failed_calls: list[BaseException] = []
        self._failed_tools: list[tuple[str, BaseException]] = []
        self._running_tools: dict[UUID, str] = {}

    def failed_with(self, error: BaseException, *, repeatable: Collection[str] = ()) -> bool:
        """Whether an exception came out of a model call, and no tool has to be run again for that call to be.

        That is: it went through no tool (one that asked a model may have acted before), and none was cut off when
        LangGraph cancelled what ran beside the call.

        Args:
            error: What the graph raised.
            repeatable: Names of tools that may be run again all the same.
        """
        links = [*causes_of(error)]
        if not any(error is link for error in self._failed_calls for link in links):
            return False
        through = {name for name, error in self._failed_tools for link in links if error is link}
        return through.union(self._running_tools.values()) <= {*repeatable}

    def words_of(self, turn: Turn) -> str:
        """What the message of a turn says: by it a message is known again that a node rebuilt."""
        return self._words.get(turn.message_id, "")

    def remember(self, turn: Turn, words: str) -> None:
        """Take up a turn that another recorder recorded."""
        self.turns[turn.message_id] = turn
        self._ids_by_words[words] = turn.message_id
        self._words[turn.message_id] = words

    def turn_of(self, message: AIMessage) -> Turn | None:
        """The turn of a message that the agent kept, also where a node rebuilt it under another id."""
        return self.turns.get(str(message.id)) or self.turns.get(self._ids_by_words.get(_said(message), ""))

    def reuse(self, logprobs: TokenLogprobs | None, tokens: int) -> None:
        """The first tokens of an answer that is to come were not generated for it, but for another rollout."""
        self._reuse = None if logprobs is None else (logprobs, tokens)

    def give_again(self, message_id: str | None) -> None:
        """An answer is given to the graph anew; where its turn is known, its tokens were counted."""
        self._again = message_id if message_id in self.turns else None

    def gives_again(self, response: LLMResult) -> bool:
        """Whether no model was asked for an answer, and what it took was counted before."""
        messages = (getattr(generation, "message", None) for generation in generations_of(response))
        return self._again is not None and any(message and message.id == self._again for message in messages)

    def count(self, usage: Usage) -> None:
        """Add to the usage, from whatever thread."""
        with self._counting:
            self.usage = self.usage + usage

    def close(self) -> None:
        """Nothing will be heard of the calls that are under way: they count as cut off."""
        for run_id in (*self._calls,):
            self._cut_off(run_id)

    def forget(self, run_id: UUID) -> None:
        """A call that was told of was not made."""
        self._calls.pop(run_id, None)

    def arrived(self, run_id: UUID, tokens: int) -> None:
        """Tokens of a call arrived, in whatever way the chat model tells."""
        if call := self._calls.get(run_id):
            call.arrived += tokens

    def on_chat_model_start(self, serialized: Any, messages: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """A call begins."""
        self._calls[run_id] = _Call(price_of(kwargs, self._prices))

    def on_llm_start(self, serialized: Any, prompts: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """A call of a model without messages begins."""
        self._calls[run_id] = _Call(price_of(kwargs, self._prices))

    def on_llm_new_token(self, token: Any, *, chunk: Any = None, run_id: UUID, **kwargs: Any) -> None:
        """Keep the arrays that come with the last chunk: LangChain drops them where it makes one message of chunks."""
        if token and (call := self._calls.get(run_id)):
            call.chunks += 1  # of one token at least
        logprobs = getattr(chunk, "token_logprobs", None)
        if logprobs is not None:
            self.on_logprobs(logprobs, run_id=run_id)

    def on_logprobs(self, logprobs: TokenLogprobs, *, run_id: UUID) -> None:
        """Keep the arrays of a streamed answer until its end."""
        self._streamed[run_id] = logprobs

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """A call that failed has no turn; with what it failed is remembered."""
        self._streamed.pop(run_id, None)
        self._failed_calls.append(error)
        if may_have_generated(error):
            self._cut_off(run_id)
        self._calls.pop(run_id, None)

    def on_tool_start(self, serialized: dict[str, Any] | None, input_str: str, *, run_id: UUID, **kwargs: Any) -> None:
        """A tool runs until its end or error; one that was cut off has neither."""
        self._running_tools[run_id] = str((serialized or {}).get("name", kwargs.get("name")))

    def on_tool_end(self, output: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """The tool is done."""
        self._running_tools.pop(run_id, None)

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """What a tool raised is remembered, whoever raised it first.

        To be cut off is no error of the tool's. langchain-core tells of it from 1.8 on, and before that of nothing.
        """
        if not isinstance(error, Exception):
            return
        self._failed_tools.append((self._running_tools.pop(run_id, ""), error))

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        """Record each generation and strip its raw log-probabilities."""
        streamed = self._streamed.pop(run_id, None)
        call = self._calls.pop(run_id, None) or _Call()
        again = self.gives_again(response)
        self.count(Usage(model_calls=0 if again else len(response.generations)))
        for generation in generations_of(response):
            message = getattr(generation, "message", None)
            counted = counted_usage(generation)
            if generation.generation_info:
                generation.generation_info.pop(RAW, None)  # the message has them too, for now
            turn = None
            if isinstance(message, AIMessage):
                turn = self._record(message, getattr(generation, "token_logprobs", None) or streamed, f"{run_id}")
            if not again:
                self.count(_used(counted, turn, call.price))
            if turn and self._on_turn:
                self._on_turn(turn)

    def _record(self, message: AIMessage, logprobs: TokenLogprobs | None, run_id: str) -> Turn:
        if logprobs is None:
            try:
                logprobs = capture_logprobs(message)
            except LogprobsMalformedError:
                logprobs = None  # missing, as coverage will say; the rollout itself is sound
        strip_logprobs(message)
        reused = self._reuse[1] if self._reuse and self._reuse[0] is logprobs else 0
        turn = Turn(
            message_id=message.id or run_id,
            generated_tokens=_generated(message, logprobs, reused),
            logprobs=logprobs,
            reused_tokens=reused,
        )
        self.remember(turn, _said(message))
        return turn

    def _cut_off(self, run_id: UUID) -> None:
        if call := self._calls.pop(run_id, None):
            seen = max(call.arrived, call.chunks)
            self.count(Usage(generated_tokens=seen, cut_calls=1, cost=_cost(call.price, Usage(generated_tokens=seen))))


def _first(chunks: Sequence[ChatGenerationChunk], name: str) -> Any:
    """What the first chunk has that has it."""
    found = (getattr(chunk, name, None) for chunk in chunks)
    return next((value for value in found if value is not None), None)


def _used(counted: Usage | None, turn: Turn | None, price: Prices | None) -> Usage:
    """By the server's count; without one the tokens that are there, or seem to be."""
    usage = counted or Usage(cut_calls=1)
    if turn:
        usage = replace(usage, generated_tokens=turn.generated_tokens - turn.reused_tokens)
    return replace(usage, cost=_cost(price, usage))


def _cost(price: Prices | None, usage: Usage) -> float | None:
    if price is None:
        return None
    return price.cost(
        prompt_tokens=usage.prompt_tokens,
        generated_tokens=usage.generated_tokens,
        cached_tokens=usage.cached_tokens,
    )


def hand_over(logprobs: TokenLogprobs | None, run: BaseRunManager | None) -> None:
    """Give the recorders that follow a call its arrays, where LangChain makes events of chunks and drops them.

    Args:
        logprobs: Of the answer.
        run: The call; None where chunks reach the callbacks as they are.
    """
    if run is None or logprobs is None:
        return
    for handler in single(run.handlers):
        if isinstance(handler, TurnRecorder):
            handler.on_logprobs(logprobs, run_id=run.run_id)


def _generated(message: AIMessage, logprobs: TokenLogprobs | None, reused: int) -> int:
    """Tokens of the whole turn; the server counts what it generated now."""
    reported = reused + message.usage_metadata["output_tokens"] if message.usage_metadata else 0
    rows = len(logprobs) if logprobs else 0
    return max(reported, rows) or estimated_tokens(_said(message), _model_name(message.response_metadata))


def _said(message: AIMessage) -> str:
    return str(message.text) + "".join(f"{call['name']}{call['args']}" for call in message.tool_calls)


def _model_name(metadata: Mapping[str, Any]) -> str:
    return str(metadata.get("model_name") or metadata.get("model") or "")
