"""The model of a run: several answers to one prompt, each with its log-probabilities and its tokens."""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, cast, runtime_checkable

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import Runnable, RunnableBinding

from entcent_agents.branching import BranchPoint
from entcent_agents.capture import with_logprobs
from entcent_agents.capture.alternatives import keep_alternatives
from entcent_agents.capture.recorder import TurnRecorder
from entcent_agents.chat.model import ChatLogprobs
from entcent_agents.cli.serving import serve
from entcent_agents.errors import ConfigurationError
from entcent_agents.logprobs import TokenLogprobs
from entcent_agents.trajectory import BranchMethod, Turn
from evals.runner.settings import RunSettings
from evals.suites.protocol import ToolSpec

WHOLE: Final[dict[str, Any]] = {"disable_streaming": True}
"""How answers are asked for: of a stream, llama.cpp gives no log-probabilities for the token that ends an answer, which
short answers are below the floor without."""
SILENCE_SECONDS: Final = 3600.0
"""Nothing is heard until the last of all answers is done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer of a model.

    Attributes:
        message: What it wrote.
        turn: Its tokens.
        prompt_tokens: What was read for it: its share, where several answers share a prompt.
        method: How a branch's answer was made; None of the others.
    """

    message: AIMessage
    turn: Turn
    prompt_tokens: int
    method: BranchMethod | None = None


class Model(Protocol):
    """Answers prompts."""

    @property
    def seeded(self) -> bool:
        """Whether seeds are sent."""
        ...

    async def ask(
        self, messages: Sequence[BaseMessage], n: int, tools: Sequence[ToolSpec], seed: int | None
    ) -> list[Answer]:
        """`n` answers to one prompt.

        Raises:
            Exception: Whatever the model raises; none of the answers is there then.
        """
        ...


@runtime_checkable
class BranchingModel(Model, Protocol):
    """Answers prompts, and goes on from the middle of its answers."""

    async def branch(
        self,
        messages: Sequence[BaseMessage],
        said: TokenLogprobs,
        point: BranchPoint,
        tools: Sequence[ToolSpec],
        seed: int | None,
    ) -> Answer:
        """Another answer to the same prompt, which leaves one that was given at a point.

        Args:
            messages: The prompt.
            said: The tokens of the answer that was given.
            point: Where.
            tools: As for `ask`.
            seed: As for `ask`.

        Raises:
            Exception: Whatever the model raises.
        """
        ...


@dataclass(frozen=True, slots=True)
class Served:
    """`ChatLogprobs`: one request for all answers.

    Attributes:
        chat: Whom to ask.
        branches: Whether answers are to be branched from.
    """

    chat: ChatLogprobs
    branches: bool = False

    @property
    def seeded(self) -> bool:
        """Yes."""
        return True

    async def ask(
        self, messages: Sequence[BaseMessage], n: int, tools: Sequence[ToolSpec], seed: int | None
    ) -> list[Answer]:
        """As `Model.ask`."""
        recorder = TurnRecorder()
        specifications = [tool.as_openai() for tool in tools]
        with keep_alternatives(self.branches):
            found = await self.chat.agenerate_n(
                list(messages),
                n,
                tools=specifications,
                config={"callbacks": [recorder]},
                seed=seed,
            )
        return [_answer(cast(AIMessage, one.message), recorder) for one in found]

    async def branch(
        self,
        messages: Sequence[BaseMessage],
        said: TokenLogprobs,
        point: BranchPoint,
        tools: Sequence[ToolSpec],
        seed: int | None,
    ) -> Answer:
        """As `Model.branch`."""
        specifications = [tool.as_openai() for tool in tools]
        with keep_alternatives():
            found = await self.chat.abranch(list(messages), said, point, tools=specifications, seed=seed)
        message = cast(AIMessage, found.generation.message)
        # As the parent's tokens count: a server that reads their text as others counts those.
        reused = point.token + 1 if found.reused_tokens else 0
        turn = Turn(
            message_id=str(message.id),
            generated_tokens=reused + found.generated_tokens,
            logprobs=found.generation.token_logprobs,
            reused_tokens=reused,
        )
        return Answer(message=message, turn=turn, prompt_tokens=_prompt_tokens(message), method=found.method)


@dataclass(frozen=True, slots=True)
class Foreign:
    """Any other chat model of LangChain: a request for each answer, sampled as the model was built to."""

    chat: Runnable[Any, AIMessage]

    @property
    def seeded(self) -> bool:
        """No: few integrations take a seed for a call."""
        return False

    async def ask(
        self, messages: Sequence[BaseMessage], n: int, tools: Sequence[ToolSpec], seed: int | None
    ) -> list[Answer]:
        """As `Model.ask`."""
        return list(await asyncio.gather(*(self._ask(messages, tools) for _ in range(n))))

    async def _ask(self, messages: Sequence[BaseMessage], tools: Sequence[ToolSpec]) -> Answer:
        recorder = TurnRecorder()
        chat = _with_tools(self.chat, tools) if tools else self.chat
        return _answer(await chat.ainvoke(list(messages), {"callbacks": [recorder]}), recorder)


@asynccontextmanager
async def open_model(settings: RunSettings, *, context_tokens: int) -> AsyncGenerator[Model]:
    """Have the model of a run answer while the block runs.

    Args:
        settings: Of the run; the model is a name of `entcent models list`, a .gguf file, http://…/v1#name, or
            MODULE:NAME of a chat model or of a function that makes one.
        context_tokens: Of each rollout on the embedded server.

    Raises:
        EntcentError: Where there is no such model, its server does not start, or it gives no log-probabilities.
    """
    if settings.as_built:
        yield _imported(settings)
        return
    async with serve(settings.model, settings.n, context_tokens=context_tokens) as served:
        chat = ChatLogprobs(
            model=served.name,
            base_url=served.base_url,
            api_key=served.api_key,  # pyright: ignore[reportArgumentType]  pydantic makes a secret of it
            tool_calling=settings.tool_calling,
            temperature=settings.temperature,
            top_p=settings.top_p,
            max_tokens=settings.max_tokens,
            top_logprobs=settings.top_logprobs,
            timeout_seconds=SILENCE_SECONDS,
            **WHOLE,
        )
        await chat.acheck()
        yield Served(chat, settings.branches)


def _imported(settings: RunSettings) -> Model:
    module, _, name = settings.model.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found: Any = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(f"--model {settings.model}: {error}; it is MODULE:NAME of a chat model") from None
    chat: Any = found() if isinstance(found, type) or not hasattr(found, "ainvoke") else found
    if isinstance(chat, ChatLogprobs):
        return Served(chat.model_copy(update={**WHOLE, "top_logprobs": settings.top_logprobs}), settings.branches)
    if settings.branches:
        raise ConfigurationError(
            f"--mode {settings.mode}: rollouts branch with ChatLogprobs alone, which --model {settings.model} is not"
        )
    if isinstance(chat, RunnableBinding):  # set up by hand, as with_logprobs asks for models that it does not know
        return Foreign(cast("RunnableBinding[Any, AIMessage]", chat))
    if not isinstance(chat, BaseChatModel):
        raise ConfigurationError(f"--model {settings.model} is {type(chat).__name__}, and no chat model")
    return Foreign(with_logprobs(chat, settings.top_logprobs))


def _with_tools(chat: Runnable[Any, AIMessage], tools: Sequence[ToolSpec]) -> Runnable[Any, AIMessage]:
    """Bound tools; what a binding has set stays set."""
    bound: Any = chat.bound if isinstance(chat, RunnableBinding) else chat
    settings: dict[str, Any] = dict(getattr(chat, "kwargs", {}))
    return bound.bind_tools([tool.as_openai() for tool in tools]).bind(**settings)


def _answer(message: AIMessage, recorder: TurnRecorder) -> Answer:
    turn = recorder.turn_of(message)
    assert turn is not None, "the recorder is told of every generation"
    return Answer(message=message, turn=turn, prompt_tokens=_prompt_tokens(message))


def _prompt_tokens(message: AIMessage) -> int:
    return message.usage_metadata["input_tokens"] if message.usage_metadata else 0
