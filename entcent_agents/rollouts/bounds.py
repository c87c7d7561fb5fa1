"""The most that a model call may use, known before it is made."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final, cast

from langchain_core.messages import BaseMessage

from entcent_agents.budget import Amount, Budget
from entcent_agents.capture.usage import model_name, most_generated_tokens, price_of
from entcent_agents.errors import ConfigurationError

TEMPLATE_TOKENS: Final = 512
"""What a chat template may add to what is sent: the framing of messages, and words of its own on the model, the date
and how tools are called."""
_NO_TEXT: Final = frozenset({
    *("image", "image_url", "input_image", "audio", "input_audio", "video", "video_url"),
    *("file", "input_file", "document", "media"),
})  # fmt: skip
"""Kinds of content whose tokens do not follow from their bytes."""
_WITHOUT_TOKENS: Final = ("id", "response_metadata", "usage_metadata", "artifact")
"""What messages carry that no prompt says."""


class Bounds:
    """Bounds of one request's calls.

    A byte-level tokenizer makes at most one token of a byte, so bytes bound tokens. Where the server has counted a
    prompt that this one goes on from, its count stands for that part.

    Args:
        budget: Whose prices count.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._counted: dict[bytes, int] = {}

    def of(self, messages: Sequence[BaseMessage], told: Mapping[str, Any]) -> tuple[Amount, bytes]:
        """The most that a call may use, and a digest of its prompt for `learn`.

        Args:
            messages: The prompt.
            told: What LangChain tells the callbacks of the call's start.

        Raises:
            ConfigurationError: Where nothing bounds it; the message says what to set.
        """
        generated = most_generated_tokens(told)
        if generated is None:
            raise ConfigurationError(
                f"a budget of tokens or cost, and nothing limits an answer of {model_name(told) or 'the model'}: give "
                "the chat model max_tokens=…"
            )
        prompt, digest = self._prompt(messages, told.get("invocation_params") or {})
        return Amount(tokens=prompt + generated, cost=self._cost(prompt, generated, told)), digest

    def learn(self, digest: bytes, prompt_tokens: int) -> None:
        """The server counted this prompt; the largest count stands, as a branch may be asked without the tools."""
        self._counted[digest] = max(prompt_tokens, self._counted.get(digest, 0))

    def _cost(self, prompt: int, generated: int, told: Mapping[str, Any]) -> float:
        price = price_of(told, self._budget.prices)
        if price is not None:
            return price.most(prompt_tokens=prompt, generated_tokens=generated)
        if self._budget.max_cost is None:
            return 0.0
        raise ConfigurationError(
            f"max_cost={self._budget.max_cost}, and nobody knows what {model_name(told)!r} costs: add it to the "
            "budget's prices, which know " + ", ".join(self._budget.prices)
        )

    def _prompt(self, messages: Sequence[BaseMessage], settings: Mapping[str, Any]) -> tuple[int, bytes]:
        tools = _bytes(settings)  # they may all be in the prompt
        state = blake2b(tools, digest_size=16)
        tokens = len(tools) + TEMPLATE_TOKENS
        for message in messages:
            said = _said(message)
            state.update(said)
            tokens = self._counted.get(state.digest(), tokens + len(said))
        return tokens, state.digest()


def _said(message: BaseMessage) -> bytes:
    """All of a message that may be in a prompt, and more: a bound may be too large."""
    if not isinstance(message.content, str):
        _require_text(message.content)
    said = {name: value for name, value in message.__dict__.items() if value and name not in _WITHOUT_TOKENS}
    return _bytes(said)


def _require_text(content: Iterable[Any]) -> None:
    for part in content:
        if not isinstance(part, dict):
            continue
        block = cast("dict[str, Any]", part)
        if block.get("type") in _NO_TEXT:
            raise ConfigurationError(
                f"a budget of tokens or cost, and a message with content of the type {block['type']!r}, whose tokens "
                "nobody can tell before the call: limit max_rollouts and max_seconds in place of tokens and cost"
            )
        if isinstance(inner := block.get("content"), list):
            _require_text(cast("list[Any]", inner))


def _described(value: Any) -> Any:
    """What chat models make of objects among their settings: of classes their JSON schema."""
    schema = getattr(value, "model_json_schema", None)
    return schema() if callable(schema) else repr(value)


def _bytes(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, default=_described).encode("utf-8", "surrogatepass")
