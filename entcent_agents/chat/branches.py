"""A turn once more from one of its tokens on, with another token there: continued, forced or made anew.

`Asks` does the asking; the rest decides what is asked, and what becomes of the answers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, cast

import numpy as np
from langchain_core.messages import AIMessage
from openai import AsyncOpenAI

from entcent_agents.branching import BranchPoint
from entcent_agents.capture.recorder import LogprobsGeneration
from entcent_agents.chat.completion import Completion
from entcent_agents.chat.continuation import ContinuationMethod, Continued, Joint, Prefix, continued, is_refused
from entcent_agents.chat.digests import prompt_digest
from entcent_agents.chat.forcing import WantedCalls, wanted_calls
from entcent_agents.chat.sampling import SamplingPool, current_pool, makes_one_attempt
from entcent_agents.chat.text_tools import read_calls
from entcent_agents.errors import ConfigurationError, ContinuationError, ModelServerError
from entcent_agents.logprobs import TokenLogprobs, token_offsets
from entcent_agents.segments import SegmentKind
from entcent_agents.trajectory import BranchMethod

BRANCH_METHODS: Final[tuple[BranchMethod, ...]] = ("continued", "forced", "resampled")
"""The best first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asks:
    """How a branch's model is asked.

    Attributes:
        client: Of its server.
        method: Finds out how the server is made to go on.
        send: Asks for whole answers: (payload, choices, seed).
        own_seed: The model's own; outside rollouts the seed of each branch follows from it.
    """

    client: AsyncOpenAI
    method: Callable[[], Awaitable[ContinuationMethod]]
    send: Callable[[Mapping[str, Any], int, int | None], Awaitable[list[Completion]]]
    own_seed: int | None = None

    async def continued(self, payload: Mapping[str, Any], prefix: Prefix) -> Continued:
        """What the server adds to a prefix."""
        method = await self.method()
        seed = self._seed(payload, prefix.text)
        return await continued(self.client, payload if seed is None else {**payload, "seed": seed}, prefix, method)

    async def sampled(self, payload: Mapping[str, Any], branch: str) -> Completion:
        """One whole answer, for the branch that begins with this text."""
        return (await self.send(payload, 1, self._seed(payload, branch)))[0]

    def _seed(self, payload: Mapping[str, Any], branch: str) -> int | None:
        """Another one than the parent's, and than that of other branches."""
        pool = current_pool() or SamplingPool(self.own_seed)
        return pool.seed_of(prompt_digest(payload, branch), self.own_seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchedTurn:
    """The turn of a branch.

    Attributes:
        completion: The whole turn: its text and log-probabilities are those of the reused tokens and of the new ones,
            `generated_tokens` and the prompt what the server counted for this request.
        method: How it was made.
        reused_tokens: The parent's, and the alternative, which nobody generated for this turn; 0 unless continued.
        joint: What is known of the tokens before the new ones; None unless continued.
        passed_over: Why the better methods were not used.
    """

    completion: Completion
    method: BranchMethod
    reused_tokens: int = 0
    joint: Joint | None = None
    passed_over: Mapping[BranchMethod, str] = field(default_factory=dict[BranchMethod, str])


@dataclass(frozen=True, slots=True, kw_only=True)
class Branched:
    """The turn of a branch, as a generation.

    Attributes:
        generation: Its message is the whole turn, tool calls parsed, its `token_logprobs` those of the whole turn; its
            usage is what the server counted for this request.
        method: How the turn was made.
        reused_tokens: The first of its tokens, which nobody generated for it: the parent's bit for bit, then the
            alternative. 0 unless continued.
        joint: What is known of the tokens before the new ones; None unless continued.
        passed_over: Why the better methods were not used.
    """

    generation: LogprobsGeneration
    method: BranchMethod
    reused_tokens: int
    joint: Joint | None
    passed_over: Mapping[BranchMethod, str]

    @property
    def message(self) -> AIMessage:
        """The whole turn."""
        return cast(AIMessage, self.generation.message)

    @property
    def generated_tokens(self) -> int:
        """Tokens that the server generated for it, as it counts them."""
        usage = self.message.usage_metadata
        return usage["output_tokens"] if usage else 0


async def branched(
    asks: Asks,
    payload: Mapping[str, Any],
    turn: TokenLogprobs,
    point: BranchPoint,
    *,
    text_tools: Sequence[Mapping[str, Any]] = (),
    allowed: Collection[BranchMethod] = BRANCH_METHODS,
) -> BranchedTurn:
    """A turn once more, with the alternative of a point in place of the token there.

    Args:
        asks: Whom to ask.
        payload: The request that the turn answered.
        turn: The parent's tokens.
        point: Where, and what instead.
        text_tools: The tools that the payload describes in its text.
        allowed: Which methods may be used.

    Raises:
        ContinuationError: Where none of them worked; it says why.
        ModelServerError: Where the server cannot be reached, or fails otherwise than by refusing a method.
        LogprobsMalformedError: On log-probabilities that cannot be.
    """
    started = branch_start(turn, point)
    ways: dict[BranchMethod, Callable[[], Awaitable[BranchedTurn]]] = {
        "continued": lambda: _continued(asks, payload, started),
        "forced": lambda: _forced(asks, payload, started, wanted_calls(payload, turn, point, text_tools), allowed),
        "resampled": lambda: _resampled(asks, payload, started),
    }
    passed_over: dict[BranchMethod, str] = {}
    for method in BRANCH_METHODS:
        if method not in allowed:
            continue
        try:
            return replace(await ways[method](), passed_over=passed_over)
        except (ConfigurationError, ContinuationError) as error:
            if isinstance(error, ContinuationError) and makes_one_attempt():
                error.way = method
                raise  # it may be billed, and a budget has reserved for one
            passed_over[method] = str(error)
        except ModelServerError as error:
            if not is_refused(error):
                raise
            passed_over[method] = str(error)
    raise ContinuationError(f"no branch: {'; '.join(f'{way}: {why}' for way, why in passed_over.items())}")


def branch_start(turn: TokenLogprobs, point: BranchPoint) -> TokenLogprobs:
    """What a branch begins with: the parent's tokens bit for bit, then the alternative in its distribution."""
    kept = turn.head(point.token)
    row = slice(point.token, point.token + 1)
    alternative = TokenLogprobs(
        text=point.alternative,
        offsets=token_offsets([point.alternative]),
        logprob=np.array([point.logprob], np.float32),
        entropy=turn.entropy[row].copy(),
        residual=turn.residual[row].copy(),
        confidence=turn.confidence[row].copy(),
        top_k=turn.top_k,
        ids=None if point.id is None or point.id < 0 else np.array([point.id], np.int32),
    )
    return kept.followed_by(alternative)


async def _continued(asks: Asks, payload: Mapping[str, Any], started: TokenLogprobs) -> BranchedTurn:
    ended = _ended(payload, started)
    if ended:
        return BranchedTurn(completion=ended, method="continued", reused_tokens=len(started), joint=Joint.EXACT)
    found = await asks.continued(payload, Prefix.of(started))
    new = found.completion.logprobs
    whole = started.followed_by(new) if new else started
    completion = replace(found.completion, text=found.text, logprobs=whole)
    return BranchedTurn(
        completion=_with_native_calls(completion, whole, payload.get("tools") or ()),
        method="continued",
        reused_tokens=found.reused_tokens or len(started),
        joint=found.joint,
    )


def _ended(payload: Mapping[str, Any], started: TokenLogprobs) -> Completion | None:
    """The whole turn where its beginning is all of it: the alternative completes a stop string, or is the last token.

    A server is not asked then: it saw nothing of the stop string's beginning, and would go on.
    """
    text = started.text.decode(errors="replace")
    at = min((at for stop in payload.get("stop") or () if (at := text.find(stop)) >= 0), default=None)
    if at is None and len(started) < payload.get("max_tokens", math.inf):
        return None
    return Completion(
        text=text[:at],
        reasoning="",
        tool_calls=(),
        logprobs=started,
        finish_reason="length" if at is None else "stop",
        prompt_tokens=0,
        cached_tokens=None,
        generated_tokens=0,
        model=payload["model"],
    )


def _with_native_calls(completion: Completion, tokens: TokenLogprobs, tools: Sequence[Mapping[str, Any]]) -> Completion:
    """Native calls taken out of the raw text that was continued, as the server takes them out of its own answers."""
    calls = read_calls(completion.text, [tool["function"]["name"] for tool in tools]).valid if tools else []
    if not calls or completion.tool_calls:
        return completion
    said = {SegmentKind.ANSWER: b"", SegmentKind.REASONING: b""}
    for part in tokens.segments():
        if part.kind in said:
            said[part.kind] += tokens.text[int(tokens.offsets[part.start]) : int(tokens.offsets[part.end])]
    answer, reasoning = (text.decode(errors="replace").strip() for text in said.values())
    native = tuple((call["id"] or "", call["name"], json.dumps(call["args"])) for call in calls)
    return replace(completion, text=answer, reasoning=reasoning, tool_calls=native)


async def _forced(
    asks: Asks,
    payload: Mapping[str, Any],
    started: TokenLogprobs,
    wanted: WantedCalls,
    allowed: Collection[BranchMethod],
) -> BranchedTurn:
    """The turn anew, with the call that the alternative stands for; a server that does not obey has made it anew."""
    completion = await asks.sampled(wanted.payload, started.text.decode(errors="replace"))
    if wanted.obeyed(completion):
        return BranchedTurn(completion=completion, method="forced")
    if "resampled" not in allowed:
        raise ContinuationError("the server did not heed the choice of tools")
    return BranchedTurn(completion=completion, method="resampled")


async def _resampled(asks: Asks, payload: Mapping[str, Any], started: TokenLogprobs) -> BranchedTurn:
    """The turn anew; the seed tells it from its parent and from other branches."""
    branch = started.text.decode(errors="replace")
    return BranchedTurn(completion=await asks.sampled(payload, branch), method="resampled")
