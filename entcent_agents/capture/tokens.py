"""Token counts for when the server does not tell."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Final

import tiktoken
from langchain_core.messages import BaseMessage, convert_to_openai_messages
from langchain_core.utils.function_calling import convert_to_openai_tool

BYTES_PER_TOKEN: Final = 4.0
"""The stated estimate where no tokenizer is at hand: about four bytes of UTF-8 a token."""

MESSAGE_TOKENS: Final = 3
"""What frames each message, as OpenAI publishes it for its chat models; as many again open the answer."""


def estimated_tokens(text: str, model: str = "") -> int:
    """Tokens in `text`: tiktoken's count for OpenAI models where its vocabulary is at hand, else bytes over 4."""
    encoding = _encoding(model)
    if encoding is not None:
        return len(encoding.encode_ordinary(text))
    return math.ceil(len(text.encode("utf-8", "surrogatepass")) / BYTES_PER_TOKEN)


def estimated_prompt_tokens(messages: Sequence[BaseMessage], model: str = "", tools: Sequence[Any] = ()) -> int:
    """About how many tokens a request's prompt has, before it is sent.

    For OpenAI models with tiktoken, close for text; a server's own usage figures are better wherever it gives them.
    Tools count as their JSON, which is more than they take; images and audio do not count at all. For any other model,
    and where tiktoken's vocabulary is not at hand (its first use fetches it), four bytes of UTF-8 count as a token.

    Args:
        messages: The conversation.
        model: The model's name, as OpenAI knows it.
        tools: Whatever `bind_tools` takes.
    """
    said = convert_to_openai_messages(list(messages))
    framed = MESSAGE_TOKENS * (len(said) + 1)
    texts = [text for message in said for text in _texts(message)]
    texts += [json.dumps(convert_to_openai_tool(tool), separators=(",", ":")) for tool in tools]
    return framed + sum(estimated_tokens(text, model) for text in texts)


def _texts(message: Mapping[str, Any]) -> Iterator[str]:
    content: str | Sequence[Mapping[str, Any]] = message.get("content") or ""
    yield str(message["role"])
    yield str(message.get("name") or "")
    if isinstance(content, str):
        yield content
    else:
        yield from (str(part["text"]) for part in content if part.get("type") == "text")
    calls: Sequence[Mapping[str, Any]] = message.get("tool_calls") or ()
    for call in calls:
        yield f"{call['function']['name']}{call['function']['arguments']}"


@cache
def _encoding(model: str) -> tiktoken.Encoding | None:
    try:
        return tiktoken.encoding_for_model(model)
    except Exception:  # unknown model, or a vocabulary that cannot be fetched: tiktoken raises what requests raises
        return None
