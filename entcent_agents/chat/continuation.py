"""Going on from an assistant's unfinished text: token by token where the server takes tokens, else as a message.

A text read anew may fall into other tokens than it was written in, and a server may begin a new answer instead: both
are looked at, at the joint of old and new.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import accumulate, takewhile
from typing import Any, Final, NamedTuple, Self, assert_never, cast

import numpy as np
from langchain_core.messages import AIMessage
from openai import AsyncOpenAI

from entcent_agents.capture.recorder import LogprobsGeneration
from entcent_agents.chat.clients import shown
from entcent_agents.chat.completion import Completion, CompletionRequest
from entcent_agents.chat.learnt import memory
from entcent_agents.chat.loops import of_loop
from entcent_agents.chat.sampling import token_listener
from entcent_agents.chat.tokenizers import Encoded, LlamaTokenizer, Tokenizer, VllmTokenizer
from entcent_agents.errors import ConfigurationError, ContinuationError, ModelServerError
from entcent_agents.logprobs import TokenLogprobs

_COMPLETION_FIELDS: Final = (
    *("model", "temperature", "top_p", "stop", "seed", "extra_body"),
    *("frequency_penalty", "logit_bias", "presence_penalty", "stream", "stream_options"),
)
"""What both APIs have. Streamed is what the turn was: streams list no text that is held back before a stop string."""
_CONSTRAINTS: Final = re.compile(
    "response_format|grammar|json_schema|regex|ebnf|structural_tag|structured_outputs"
    "|guided_(json|grammar|regex|choice|whitespace_pattern)"
)
"""Fields that llama.cpp, vLLM and SGLang constrain an answer by."""
_SURELY_AGAIN: Final = 8
"""Characters of the old text that no answer begins with by chance."""
_AGREE: Final = 12
"""Characters that a probe compares."""
PROBE_QUESTION: Final = "Count from one to ten in words."
PROBE_TOKENS: Final = 16
_FAILURES: Final = (500, 501)
"""Of servers that may not know the method either, and fail on it."""
_silent: Final[dict[str, bool]] = memory()
"""Servers that tell nothing of their tokenizer."""
_methods: Final[dict[str, ContinuationMethod | None]] = memory()
"""What was measured, by server and model."""


class ContinuationMethod(StrEnum):
    """How a server is made to go on, the surest first."""

    LLAMA_TOKENS = "llama-tokens"
    """llama.cpp: prompt and prefix as tokens, to `/v1/completions`."""
    VLLM_TOKENS = "vllm-tokens"
    """vLLM: the same, with its own way to tokenise a conversation."""
    FINAL_MESSAGE = "continue-final-message"
    """vLLM and SGLang: the prefix as the last message, and a flag to continue it."""
    PREFIX_MESSAGE = "prefix-message"
    """Mistral, and DeepSeek below `/beta`: the last message itself carries the flag."""
    TRAILING_MESSAGE = "trailing-message"
    """llama.cpp: a last message of the assistant is continued."""


class Joint(StrEnum):
    """What is known of the tokens on the old side of the joint."""

    EXACT = "exact"
    """The server went on from the very tokens that were generated."""
    RETOKENISED = "retokenised"
    """It read the same text as other tokens."""
    UNCHECKED = "unchecked"
    """It read the same text; the server does not tell in which tokens, or nobody knows the first ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefix:
    """What the assistant has said already.

    Attributes:
        text: The words.
        pieces: What each of its tokens says; None where only the text is known.
        ids: The tokens' numbers; None where they are not known.
    """

    text: str
    pieces: tuple[bytes, ...] | None = None
    ids: tuple[int, ...] | None = None

    @classmethod
    def of(cls, said: str | TokenLogprobs) -> Self:
        """From a text, or from the tokens of a turn (cut by `TokenLogprobs.head`), up to the last that says something.

        Tokens behind that end the turn, or their text is listed with a later one, as llama.cpp does in whole answers
        where it might begin a stop string: the text alone tells nothing of them, and they are generated again.

        Raises:
            ConfigurationError: Where there is nothing to go on from, or it ends inside a character.
        """
        if not (said if isinstance(said, str) else said.text):
            raise ConfigurationError("an empty prefix continues nothing: call the model instead")
        if isinstance(said, str):
            return cls(text=said)
        try:
            text = said.text.decode()
        except UnicodeDecodeError:
            raise ConfigurationError("the prefix ends inside a character: cut one token earlier or later") from None
        said = said.head(int(np.searchsorted(said.offsets, len(said.text))))
        pieces = tuple(said.token(i) for i in range(len(said)))
        return cls(text=text, pieces=pieces, ids=None if said.ids is None else tuple(said.ids.tolist()))

    def __len__(self) -> int:
        """Tokens, as far as they are known."""
        return len(self.pieces or ())


@dataclass(frozen=True, slots=True, kw_only=True)
class Continued:
    """What a server added to a prefix.

    Attributes:
        text: The whole turn, prefix included, up to its stop string.
        completion: The new text and its log-probabilities, without the prefix.
        method: How.
        joint: What is known of the tokens before.
        reused_tokens: Tokens of the prefix, which nobody generated again; 0 where the server does not tell them.
    """

    text: str
    completion: Completion
    method: ContinuationMethod
    joint: Joint
    reused_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Continuation:
    """A turn that was continued from its prefix.

    Attributes:
        generation: Its message is the whole turn, prefix and tool calls included; its usage and its `token_logprobs`
            are those of the new tokens alone.
        method: How the server was made to go on.
        joint: What is known of the tokens before the joint.
        reused_tokens: Tokens of the prefix, which nobody generated again; 0 where the server does not tell them.
    """

    generation: LogprobsGeneration
    method: ContinuationMethod
    joint: Joint
    reused_tokens: int

    @property
    def message(self) -> AIMessage:
        """The whole turn."""
        return cast(AIMessage, self.generation.message)


async def continued(
    client: AsyncOpenAI, payload: Mapping[str, Any], prefix: Prefix, method: ContinuationMethod
) -> Continued:
    """Have a server go on from a prefix.

    Args:
        client: Whom to ask.
        payload: The chat request that the prefix began to answer; its `max_tokens` are those of the whole turn.
        prefix: What is there already.
        method: How; see `known_method`.

    Raises:
        ConfigurationError: Where the turn is at its `max_tokens`, or was constrained by a schema or grammar.
        ContinuationError: Where the server did not go on from the prefix.
        ModelServerError: Where it cannot be reached or answers with an error.
    """
    _check(payload)
    match method:
        case ContinuationMethod.LLAMA_TOKENS:
            found = await _by_tokens(client, payload, prefix, method, LlamaTokenizer(client))
        case ContinuationMethod.VLLM_TOKENS:
            found = await _by_tokens(client, payload, prefix, method, VllmTokenizer(client, payload["model"]))
        case ContinuationMethod.FINAL_MESSAGE:
            flags = {"continue_final_message": True, "add_generation_prompt": False}
            found = await _by_message(client, _with_extra(payload, flags), prefix, method, {})
        case ContinuationMethod.PREFIX_MESSAGE:
            found = await _by_message(client, payload, prefix, method, {"prefix": True})
        case ContinuationMethod.TRAILING_MESSAGE:
            found = await _by_message(client, payload, prefix, method, {})
        case _:
            assert_never(method)
    return _stopped(found, prefix.text, payload.get("stop") or ())


async def known_method(client: AsyncOpenAI, payload: Mapping[str, Any], *, server: str) -> ContinuationMethod:
    """The best method that works with a server, measured at the first call.

    Args:
        client: Whom to ask.
        payload: A request of `PROBE_QUESTION` for `PROBE_TOKENS` tokens at temperature 0.
        server: What tells this server, and who asks, from others.

    Raises:
        ConfigurationError: Where none works, or the answer tells nothing.
        ModelServerError: Where the server cannot be reached; the next call then measures again.
    """
    key = f"{server} {payload['model']}"
    async with of_loop(_Measuring, _Measuring).lock:  # those who ask at the same time wait for one measurement
        if key not in _methods:
            _methods[key] = await _measured(client, payload)
    method = _methods[key]
    if method is None:
        raise ConfigurationError(
            f"{payload['model']} at {shown(client.base_url)} goes on from no text it is given, in none of "
            f"{len(ContinuationMethod)} ways tried: llama.cpp, vLLM, SGLang and Mistral do; DeepSeek does where "
            "base_url ends in /beta"
        )
    return method


class _Measuring:
    def __init__(self) -> None:
        self.lock = asyncio.Lock()


async def _measured(client: AsyncOpenAI, payload: Mapping[str, Any]) -> ContinuationMethod | None:
    half = half_answer((await CompletionRequest(client, payload).completions())[0])
    if half is None:
        raise ConfigurationError(
            f"how {payload['model']} at {shown(client.base_url)} goes on cannot be measured: its answer was a single "
            "token, or came without log-probabilities; give method="
        )
    failure: ModelServerError | None = None
    for method in ContinuationMethod:
        try:
            if await goes_on(client, payload, half, method):
                return method
        except ModelServerError as error:
            if error.status not in _FAILURES:
                raise
            failure = error
    if failure:  # some servers fail on what they do not know, some by chance: nothing is concluded
        raise failure
    return None


class Half(NamedTuple):
    """An answer, cut in the middle."""

    prefix: Prefix
    rest: str


def half_answer(whole: Completion) -> Half | None:
    """An answer cut in the middle, between characters; None where it is too short, or without log-probabilities."""
    said = whole.logprobs
    cuts = range(len(said) // 2, 0, -1) if said else ()
    # Tokens without text, as that which ends an answer, begin behind the last byte.
    starts = ((cut, int(said.offsets[cut])) for cut in cuts) if said else ()
    cut = next((cut for cut, at in starts if said and at < len(said.text) and said.text[at] & 0xC0 != 0x80), None)
    if said is None or cut is None:
        return None
    prefix = Prefix.of(said.head(cut))
    return Half(prefix, said.text.decode(errors="replace")[len(prefix.text) :][:_AGREE])


async def goes_on(
    client: AsyncOpenAI, payload: Mapping[str, Any], half: Half, method: ContinuationMethod
) -> Continued | None:
    """Whether a server, asked in this way, goes on from half of its answer as it had gone on by itself.

    Raises:
        ConfigurationError: Where the payload constrains the answer.
        ModelServerError: Where the server cannot be reached, or fails otherwise than by refusing the method.
    """
    listener = token_listener.set(None)  # whose call leads to the measurement has not asked for these tokens
    try:
        found = await continued(client, payload, half.prefix, method)
    except ContinuationError:
        return None
    except ModelServerError as error:
        if not is_refused(error):
            raise
        return None
    finally:
        token_listener.reset(listener)
    new = found.completion.text[: len(half.rest)]
    return found if new and half.rest.startswith(new) else None


def _check(payload: Mapping[str, Any]) -> None:
    fields: set[str] = {*payload, *(payload.get("extra_body") or {})}
    if found := sorted(filter(_CONSTRAINTS.fullmatch, fields)):
        raise ConfigurationError(
            f"{found[0]} constrains the answer from its first token, and a continued one would be constrained anew "
            "from the joint: continue unconstrained turns only"
        )


async def _by_tokens(
    client: AsyncOpenAI, payload: Mapping[str, Any], prefix: Prefix, method: ContinuationMethod, tokenizer: Tokenizer
) -> Continued:
    prompt = await tokenizer.prompt(payload)
    ids, joint = await _tokens(tokenizer, prefix)
    body = {key: payload[key] for key in _COMPLETION_FIELDS if key in payload}
    body |= {"prompt": [*prompt, *ids], "logprobs": payload["top_logprobs"]} | _room(payload, len(ids))
    if method is ContinuationMethod.VLLM_TOKENS:
        body = _with_extra(body, {"return_token_ids": True})
    completion = await _whole(client, body)
    if completion.prompt_tokens not in (0, len(body["prompt"])):
        raise ContinuationError(
            f"the server read {completion.prompt_tokens} tokens where {len(prompt)} of prompt and {len(ids)} of prefix "
            "were sent: it did not go on from them"
        )
    text = prefix.text + completion.text
    return Continued(text=text, completion=completion, method=method, joint=joint, reused_tokens=len(ids))


async def _tokens(tokenizer: Tokenizer, prefix: Prefix) -> tuple[Sequence[int], Joint]:
    """The prefix in tokens: its own where they are known and say its text, else those the text falls into.

    llama.cpp lists tokens as one where it held text back: inside a character, or what could begin a stop string. Such a
    piece has the number of the last of them.
    """
    if prefix.ids is not None and await tokenizer.decode(prefix.ids) == prefix.text:
        return prefix.ids, Joint.EXACT
    encoded = await tokenizer.encode(prefix.text)
    return encoded.ids, _compared(encoded, prefix)


def _compared(read: Encoded, prefix: Prefix) -> Joint:
    """Whether a text is read as the tokens it was generated in."""
    if prefix.pieces is None:
        return Joint.UNCHECKED
    if read.pieces is None:
        return Joint.UNCHECKED if len(read.ids) == len(prefix.pieces) else Joint.RETOKENISED
    last_ids = dict(zip(accumulate(map(len, read.pieces)), read.ids, strict=True))
    ends = list(accumulate(map(len, prefix.pieces)))
    if prefix.ids is not None:
        return Joint.EXACT if [last_ids.get(end) for end in ends] == list(prefix.ids) else Joint.RETOKENISED
    said = b"".join(prefix.pieces)
    whole = [end for end in last_ids if end == len(said) or said[end] & 0xC0 != 0x80]  # where a character ends
    return Joint.EXACT if ends == whole else Joint.RETOKENISED


async def _by_message(
    client: AsyncOpenAI,
    payload: Mapping[str, Any],
    prefix: Prefix,
    method: ContinuationMethod,
    flags: Mapping[str, Any],
) -> Continued:
    message = {"role": "assistant", "content": prefix.text, **flags}
    body = {**payload, "messages": [*payload["messages"], message], **_room(payload, len(prefix))}
    completion = _new(await _whole(client, body), prefix.text)
    return Continued(
        text=prefix.text + completion.text,
        completion=completion,
        method=method,
        joint=await _joint(client, payload["model"], prefix),
        reused_tokens=len(prefix),
    )


async def _whole(client: AsyncOpenAI, body: Mapping[str, Any]) -> Completion:
    """The answer, its tokens told to the listener of the rollout that asks."""
    request, listener = CompletionRequest(client, body), token_listener.get()
    async for delta in request.events():
        if listener and delta.tokens:
            listener(delta.tokens)
    return (await request.result())[0]


async def _joint(client: AsyncOpenAI, model: str, prefix: Prefix) -> Joint:
    """Whether the text falls into its own tokens again, where the server has an address that tells."""
    if prefix.pieces is None or str(client.base_url) in _silent:
        return Joint.UNCHECKED
    for tokenizer in (LlamaTokenizer(client), VllmTokenizer(client, model)):
        try:
            return _compared(await tokenizer.encode(prefix.text), prefix)
        except ModelServerError as error:
            if not is_refused(error):
                return Joint.UNCHECKED
    _silent[str(client.base_url)] = True
    return Joint.UNCHECKED


def _new(completion: Completion, prefix: str) -> Completion:
    """Without the prefix, which some servers repeat in the text without generating it.

    Raises:
        ContinuationError: Where it was generated again.
    """
    generated = completion.logprobs.text.decode(errors="replace") if completion.logprobs else ""

    def likeness(said: str) -> tuple[int, int]:
        """To what was generated, which may lack tokens, or have a stop string more."""
        same = takewhile(lambda pair: pair[0] == pair[1], zip(said, generated, strict=False))
        return sum(1 for _ in same), -abs(len(said) - len(generated))

    text = max((completion.text, completion.text.removeprefix(prefix)), key=likeness)
    if len(prefix) >= _SURELY_AGAIN and text.startswith(prefix):
        raise ContinuationError(f"the server did not go on from the prefix but wrote it again: {prefix[:40]!r}")
    return replace(completion, text=text)


def _room(payload: Mapping[str, Any], taken: int) -> dict[str, int]:
    """What is left of the turn's tokens."""
    if "max_tokens" not in payload:
        return {}
    if taken >= payload["max_tokens"]:
        raise ConfigurationError(
            f"the prefix has {taken} tokens and the turn is to have {payload['max_tokens']} at most: raise max_tokens"
        )
    return {"max_tokens": payload["max_tokens"] - taken}


def _with_extra(payload: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    return {**payload, "extra_body": {**(payload.get("extra_body") or {}), **fields}}


def _stopped(found: Continued, prefix: str, stops: Sequence[str]) -> Continued:
    """A stop string across the joint ends the turn too; the server, which saw its second half only, went on."""
    starts = (found.text.find(stop, max(0, len(prefix) - len(stop) + 1)) for stop in stops)
    start = min((start for start in starts if 0 <= start < len(prefix)), default=None)
    if start is None:
        return found
    return replace(found, text=found.text[:start], completion=replace(found.completion, finish_reason="stop"))


def is_refused(error: ModelServerError) -> bool:
    """Whether the server does not know the method, rather than fails or cannot be asked."""
    return error.status is not None and error.status < 500 and error.status not in (401, 403, 408, 429)
