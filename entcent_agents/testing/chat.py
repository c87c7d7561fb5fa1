"""A scripted chat model with log-probabilities. No mocks needed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import tool_call
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from pydantic import ConfigDict, Field

from entcent_agents.blocking import run_sync
from entcent_agents.capture.recorder import LogprobsGeneration, LogprobsGenerationChunk, hand_over
from entcent_agents.chat.sampling import rollout_index
from entcent_agents.logprobs import TokenLogprobs
from entcent_agents.testing.rollouts import scripted_logprobs


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptedTurn:
    """What the model says at one turn.

    Attributes:
        text: The content.
        tool_calls: As (name, arguments).
        entropy: Nats of the turn's tokens, as many as it has; empty for a turn without log-probabilities.
        generated_tokens: What the server reports; default: as many as there are entropies.
        error: Raised instead of answering.
        delay_seconds: Waited before answering.

    Example:
        >>> from entcent_agents import ScriptedTurn
        >>> call = ScriptedTurn(tool_calls=[("search", {"query": "penguins"})], entropy=[1.2] * 30)
        >>> answer = ScriptedTurn(text="Gentoo.", entropy=[0.1] * 5)
        >>> len(call.entropy) + len(answer.entropy)  # one token for each
        35
    """

    text: str = ""
    tool_calls: Sequence[tuple[str, dict[str, Any]]] = ()
    entropy: Sequence[float] = ()
    generated_tokens: int | None = None
    error: Exception | None = None
    delay_seconds: float = 0.0


Script = Sequence[ScriptedTurn] | Callable[[Sequence[BaseMessage]], ScriptedTurn]
"""Turns in order, or a function from the conversation so far to the next turn."""


class ScriptedChat(BaseChatModel):
    """Says what it is told to: rollout i, or candidate i, follows script i (modulo their number), turn by turn.

    Args:
        scripts: One for each rollout; the first of them outside rollouts. A list of turns counts the AI messages that
            the model is shown; where they are not the model's own (a summarised history, several agents), pass
            functions of the conversation.

    Example:
        >>> from entcent_agents import ScriptedChat, ScriptedTurn
        >>> model = ScriptedChat(scripts=[[ScriptedTurn(text="Gentoo.", entropy=[0.1] * 5)]])
        >>> model.invoke("Which are the heaviest?").text
        'Gentoo.'
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(arbitrary_types_allowed=True)
    scripts: Sequence[Script] = Field(repr=False)
    model: str = "scripted"
    """What it says it is called."""
    max_tokens: int | None = None
    """What it says is the limit of a turn; budgets ask for it."""

    @property
    def _llm_type(self) -> str:
        return "entcent-scripted"

    def bind_tools(self, tools: Any, **kwargs: Any) -> Runnable[Any, AIMessage]:
        """The script knows what to call."""
        return self  # type: ignore[return-value]

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return run_sync(self._play(messages, run_manager))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return await self._play(messages, run_manager)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        played = (await self._play(messages, run_manager)).generations[0]
        logprobs: TokenLogprobs | None = getattr(played, "token_logprobs", None)
        hand_over(logprobs, run_manager)
        yield LogprobsGenerationChunk(
            message=AIMessageChunk(**played.message.model_dump(exclude={"type"})), token_logprobs=logprobs
        )

    async def _play(self, messages: Sequence[BaseMessage], run_manager: Any) -> ChatResult:
        metadata: dict[str, Any] = run_manager.metadata if run_manager else {}
        thread = str(metadata.get("thread_id", ""))
        number = thread.rpartition(":")[2]
        index = int(number) if number.isdigit() else rollout_index.get()
        said = sum(isinstance(message, AIMessage) for message in messages)
        turn = _turn(self.scripts[index % len(self.scripts)], index, messages, said)
        await asyncio.sleep(turn.delay_seconds)
        if turn.error:
            raise turn.error
        generated = len(turn.entropy) if turn.generated_tokens is None else turn.generated_tokens
        message = AIMessage(
            content=turn.text,
            tool_calls=[
                tool_call(name=name, args=arguments, id=f"call_{index}_{said}_{i}")
                for i, (name, arguments) in enumerate(turn.tool_calls)
            ],
            usage_metadata=UsageMetadata(input_tokens=1, output_tokens=generated, total_tokens=generated + 1),
        )
        return ChatResult(
            generations=[LogprobsGeneration(message=message, token_logprobs=scripted_logprobs(turn.entropy))]
        )


def _turn(script: Script, index: int, messages: Sequence[BaseMessage], said: int) -> ScriptedTurn:
    if callable(script):
        return script(messages)
    if said >= len(script):
        raise IndexError(f"script {index} has {len(script)} turns, and the agent asks for turn {said + 1}")
    return script[said]
