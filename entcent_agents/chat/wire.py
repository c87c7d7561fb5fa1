"""What chat completion servers send, decoded from bytes: events of a stream, and bodies slice by slice."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from itertools import islice
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from entcent_agents.capture.completions import CompletionLogprobs
from entcent_agents.capture.growing import GrowingLogprobs
from entcent_agents.capture.openai import ChoiceLogprobs, LogprobEntry, NamedEntry
from entcent_agents.chat.turns import turn

SLICE_BYTES: Final = 1 << 18
"""Decoded at once, about a millisecond's work; between slices the event loop has its turn."""


class Function(msgspec.Struct):
    """The function of a native tool call."""

    name: str | None = None
    arguments: str | None = None


class NativeCall(msgspec.Struct):
    """A native tool call, or what an event adds to it."""

    index: int = 0
    id: str | None = None
    function: Function = msgspec.field(default_factory=Function)


class Message(msgspec.Struct):
    """What a model wrote, or what an event adds to it."""

    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[NativeCall] | None = None


class EitherLogprobs(ChoiceLogprobs):
    """The `logprobs` object of a choice, in the chat shape or in that of the legacy completions (parallel lists)."""

    tokens: list[str] | None = None
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float | None] | None] | None = None

    def legacy(self) -> CompletionLogprobs:
        """The lists."""
        return CompletionLogprobs(self.tokens, self.token_logprobs, self.top_logprobs)


class Choice(msgspec.Struct):
    """One choice, or what an event adds to it: of a chat in `delta` or `message`, of a completion in `text`."""

    index: int = 0
    delta: Message | None = None
    message: Message | None = None
    text: str | None = None
    logprobs: EitherLogprobs | None = None
    finish_reason: str | None = None
    token_ids: Any = None
    """What vLLM gives where `return_token_ids` is asked for: a list of numbers."""


class PromptDetails(msgspec.Struct):
    """What is known of a prompt."""

    cached_tokens: int | None = None


class TokenUsage(msgspec.Struct):
    """What the server counted."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: PromptDetails | None = None

    @property
    def cached_tokens(self) -> int | None:
        """Tokens of the prompt that the server had read before; None where it does not say."""
        return self.prompt_tokens_details.cached_tokens if self.prompt_tokens_details else None


class Payload(msgspec.Struct):
    """One event of a stream, or a whole body: they differ in `delta` and `message` only."""

    model: str | None = None
    choices: list[Choice] = []
    usage: TokenUsage | None = None
    error: Any = None


class Decoded(NamedTuple):
    """An event or a body.

    Attributes:
        payload: Its fields, with the log-probabilities that were not sliced off.
        logprobs: One for each choice whose log-probabilities are a list, in their order: those that were sliced off.
            May be shorter.
    """

    payload: Payload
    logprobs: list[GrowingLogprobs]


class _NamedLogprobs(EitherLogprobs):
    content: list[NamedEntry] | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    reasoning_content: list[NamedEntry] | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    refusal: list[NamedEntry] | None = None  # pyright: ignore[reportIncompatibleVariableOverride]


class _NamedChoice(Choice):
    logprobs: _NamedLogprobs | None = None  # pyright: ignore[reportIncompatibleVariableOverride]


class _NamedPayload(Payload):
    choices: list[_NamedChoice] = []  # pyright: ignore[reportIncompatibleVariableOverride]


_PAYLOAD: Final = (msgspec.json.Decoder(Payload), msgspec.json.Decoder(_NamedPayload))
"""Without what alternatives say, and with it."""
_ENTRIES: Final = (msgspec.json.Decoder(list[LogprobEntry]), msgspec.json.Decoder(list[NamedEntry]))
_OPENING: Final = re.compile(
    rb'"logprobs"\s*:\s*\{\s*(?:"refusal"\s*:\s*null\s*,\s*)?"content"\s*:\s*\[(?=\s*(\{"\w+":|\{\s|\]))'
)
"""Where a list of entries begins, and the first key of the first, which no text within a string can look like."""
_LONGEST_OPENING: Final = 128
_LAST: Final = re.compile(rb'\}\]\}(?=\]\s*(?:\}|,\s*"))')
"""The end of the last entry, which ends with its alternatives; text within a string may look like it."""
_BETWEEN: Final = (b"}]}, ", b"}]},")
"""Between one entry and the next, as JSON is written without line breaks."""
_MOST_CUTS: Final = 4
"""Tries to find the end of an entry; one that fails stood in a token's text, or behind the end of the list."""
_ANYTHING: Final = msgspec.json.Decoder(msgspec.Raw)
_STRING_OR_WORD: Final = re.compile(rb'("(?:[^"\\]++|\\.)*+")|-Infinity|NaN', re.DOTALL)
_T = TypeVar("_T")


async def event_data(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The data of each server-sent event; split as bytes: JSON may hold what text calls line breaks (U+2028)."""
    line: list[bytes] = []
    async for chunk in body:
        first, *more = chunk.split(b"\n")
        line.append(first)
        if more:
            lines = [b"".join(line), *more]
            line = [lines.pop()]
            for data in filter(None, map(_data, lines)):
                yield data
    data = _data(b"".join(line))  # some servers end the last line with the stream; others were cut off in it
    if data and _whole(data):
        yield data


async def decoded_event(data: bytes, *, named: bool = False) -> Decoded:
    """An event; a long one, say of a gateway that streams in name only, in slices.

    Args:
        data: The event.
        named: Whether what the alternatives say is to be kept.

    Raises:
        msgspec.DecodeError: Where it is not one.
    """
    if len(data) <= SLICE_BYTES:
        return Decoded(_decoded(_PAYLOAD[named], data), [])
    reading = _Slices(named)
    await reading.add(data)
    return reading.decoded()


async def decoded_body(body: AsyncIterator[bytes], *, named: bool = False) -> Decoded:
    """A whole body, decoded while it arrives.

    Args:
        body: The bytes.
        named: As for `decoded_event`.

    Raises:
        msgspec.DecodeError: Where it is not one.
    """
    reading = _Slices(named)
    async for chunk in body:
        await reading.add(chunk)
    return reading.decoded()


class _Slices:
    """Takes the log-probabilities out of a body in slices; what is left of it is small and decoded at the end.

    A slice begins where an entry does, so that it ends where one does if and only if it is a list when closed: a cut
    is never guessed. What cannot be cut (indented JSON, entries that do not end with their alternatives) stays in.
    """

    def __init__(self, named: bool) -> None:
        self._named = named
        self._left: list[bytes] = []
        self._rest = bytearray()
        self._seen = 0  # of the rest: no list of entries opens before it
        self._key = b""
        self._inside = False
        self._enough = SLICE_BYTES
        self._found: list[GrowingLogprobs] = []

    async def add(self, chunk: bytes) -> None:
        for start in range(0, len(chunk), SLICE_BYTES):
            self._rest += chunk[start : start + SLICE_BYTES]
            more = True
            while more and len(self._rest) >= self._enough:
                async with turn():
                    more = self._step()

    def decoded(self) -> Decoded:
        return Decoded(_decoded(_PAYLOAD[self._named], b"".join([*self._left, self._rest])), self._found)

    def _step(self) -> bool:
        """One slice, or the way to the next; False where more bytes are needed."""
        if not self._inside:
            return self._open()
        if self._slice() or self._end():
            return True
        self._enough = 2 * len(self._rest)  # so that trying again and again costs no more than once
        return False

    def _open(self) -> bool:
        opening = _OPENING.search(self._rest, self._seen)
        if opening is None:
            self._seen = max(0, len(self._rest) - _LONGEST_OPENING)
            return self._leave(self._seen)
        self._key = opening[1]
        self._leave(opening.end())
        self._inside = self._key != b"]"
        self._found.append(GrowingLogprobs())
        return True

    def _leave(self, end: int) -> bool:
        """Put what is no log-probability aside; always False."""
        self._left.append(bytes(self._rest[:end]))
        self._drop(end)
        return False

    def _drop(self, end: int) -> None:
        del self._rest[:end]
        self._seen = 0
        self._enough = SLICE_BYTES

    def _slice(self) -> bool:
        """Take the entries that are whole."""
        end = len(self._rest)
        for _ in range(_MOST_CUTS):
            end = max(self._rest.rfind(between + self._key, 0, end) for between in _BETWEEN)
            if end < 0:
                return False
            if self._take(end + len(b"}]}")):
                del self._rest[0]  # the comma
                return True
        return False

    def _end(self) -> bool:
        """Take the last entries, where the list ends in what is here."""
        for last in islice(_LAST.finditer(bytes(self._rest)), _MOST_CUTS):
            if self._take(last.end()):
                self._inside = False
                return True
        return False

    def _take(self, end: int) -> bool:
        try:
            entries = _decoded(_ENTRIES[self._named], b"[%b]" % self._rest[:end])
        except msgspec.DecodeError:
            return False
        self._found[-1].add(entries)
        self._drop(end)
        return True


def _decoded(decoder: msgspec.json.Decoder[_T], data: bytes) -> _T:
    """What the bytes say; NaN and -Infinity, which Python's servers write though JSON has none, as null."""
    try:
        return decoder.decode(data)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        if b"NaN" not in data and b"-Infinity" not in data:
            raise
        return decoder.decode(_STRING_OR_WORD.sub(lambda match: match[1] or b"null", data))


def _whole(data: bytes) -> bool:
    try:
        _decoded(_ANYTHING, data)
    except msgspec.DecodeError:
        return False
    return True


def _data(line: bytes) -> bytes | None:
    if not line.startswith(b"data:"):
        return None
    data = line[5:].strip()
    return None if data == b"[DONE]" else data
