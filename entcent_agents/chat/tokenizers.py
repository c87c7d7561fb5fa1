"""What model servers tell of their tokenizer: the tokens of a conversation, of a text, and the text of tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

import httpx2
import msgspec
from openai import APIConnectionError, APIStatusError, AsyncOpenAI

from entcent_agents.chat.clients import shown
from entcent_agents.chat.completion import server_error, without_key
from entcent_agents.errors import ModelServerError

_TEMPLATE_FIELDS: Final = ("messages", "tools", "tool_choice")
"""What of a chat request decides how its prompt reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """The tokens of a text.

    Attributes:
        ids: Their numbers.
        pieces: What each says, as bytes; None where the server does not tell.
    """

    ids: tuple[int, ...]
    pieces: tuple[bytes, ...] | None = None


class Tokenizer(Protocol):
    """A server's tokenizer.

    Raises:
        ModelServerError: From every method, where the server cannot be reached or has no such address (`status` 404).
    """

    async def prompt(self, payload: Mapping[str, Any]) -> tuple[int, ...]:
        """The tokens that a chat request is read as, up to where the answer begins."""
        ...

    async def encode(self, text: str) -> Encoded:
        """The tokens of a text within a conversation."""
        ...

    async def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens; U+FFFD where they end inside a character."""
        ...


class _Piece(msgspec.Struct):
    id: int
    piece: str | list[int]


class _Pieces(msgspec.Struct):
    tokens: list[_Piece]


class _Tokens(msgspec.Struct):
    tokens: list[int]


class _Prompt(msgspec.Struct):
    prompt: str


class _Content(msgspec.Struct):
    content: str


@dataclass(frozen=True, slots=True)
class LlamaTokenizer:
    """That of a llama.cpp server."""

    client: AsyncOpenAI

    async def prompt(self, payload: Mapping[str, Any]) -> tuple[int, ...]:
        """The chat template's text, in the tokens that the server makes of it."""
        template = await _post(self.client, "apply-template", _conversation(payload), _Prompt)
        return (await self._tokens(template.prompt, add_special=True)).ids

    async def encode(self, text: str) -> Encoded:
        """The tokens, with what each says."""
        return await self._tokens(text, add_special=False)

    async def decode(self, ids: Sequence[int]) -> str:
        """The text."""
        return (await _post(self.client, "detokenize", {"tokens": list(ids)}, _Content)).content

    async def _tokens(self, text: str, *, add_special: bool) -> Encoded:
        body = {"content": text, "add_special": add_special, "parse_special": True, "with_pieces": True}
        found = (await _post(self.client, "tokenize", body, _Pieces)).tokens
        pieces = (each.piece.encode() if isinstance(each.piece, str) else bytes(each.piece) for each in found)
        return Encoded(ids=tuple(each.id for each in found), pieces=tuple(pieces))


@dataclass(frozen=True, slots=True)
class VllmTokenizer:
    """That of a vLLM server."""

    client: AsyncOpenAI
    model: str

    async def prompt(self, payload: Mapping[str, Any]) -> tuple[int, ...]:
        """The tokens of the conversation."""
        return await self._tokens({**_conversation(payload), "add_generation_prompt": True})

    async def encode(self, text: str) -> Encoded:
        """The tokens alone: their strings are the tokenizer's own spelling, not what they say."""
        return Encoded(ids=await self._tokens({"prompt": text, "add_special_tokens": False}))

    async def decode(self, ids: Sequence[int]) -> str:
        """The text."""
        return (await _post(self.client, "detokenize", {"model": self.model, "tokens": list(ids)}, _Prompt)).prompt

    async def _tokens(self, body: Mapping[str, Any]) -> tuple[int, ...]:
        return tuple((await _post(self.client, "tokenize", {"model": self.model, **body}, _Tokens)).tokens)


def _conversation(payload: Mapping[str, Any]) -> dict[str, Any]:
    return {key: payload[key] for key in _TEMPLATE_FIELDS if key in payload} | (payload.get("extra_body") or {})


_T = TypeVar("_T", bound=msgspec.Struct)


async def _post(client: AsyncOpenAI, path: str, body: Mapping[str, Any], answer: type[_T]) -> _T:
    """Ask beside the API: these addresses stand next to `/v1`, not below."""
    root = str(client.base_url).rstrip("/").removesuffix("/v1")
    try:
        said = await client.post(f"{root}/{path}", body=body, cast_to=httpx2.Response)
        return msgspec.json.decode(said.content, type=answer)
    except msgspec.DecodeError as error:
        failure = ModelServerError(f"{shown(root)}/{path} does not answer as expected: {error}", status=200)
    except (APIStatusError, APIConnectionError, httpx2.HTTPError) as error:
        failure = server_error(error, f"{shown(root)}/{path}")
    raise without_key(failure, client.api_key)  # out here, unchained: what the SDK's errors quote may hold the key
