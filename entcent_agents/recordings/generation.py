"""One generated text as a rollout of one turn."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from entcent_agents.logprobs import TokenLogprobs
from entcent_agents.outcomes import outcome_key
from entcent_agents.recordings.texts import said_in
from entcent_agents.trajectory import Rollout, Trajectory, Turn, Usage


def generation(
    where: str,
    logprobs: TokenLogprobs | None,
    *,
    answer: str,
    pattern: re.Pattern[str] | None,
    calls: Sequence[tuple[str, Any]] = (),
    generated_tokens: int = 0,
    prompt_tokens: int = 0,
) -> Rollout:
    """A finished rollout of one turn.

    Args:
        where: Its identifier.
        logprobs: Of its tokens; None where none were recorded.
        answer: Its text.
        pattern: Where in the text its answer is.
        calls: Its tool calls as (name, arguments); without any, those written in the text count.
        generated_tokens: As the server counts; the recorded tokens where these are more.
        prompt_tokens: Its share of the prompt.
    """
    generated = max(generated_tokens, len(logprobs) if logprobs else 0)
    if not calls:
        calls, answer = said_in(answer)
    turn = Turn(message_id=where, generated_tokens=generated, logprobs=logprobs)
    return Rollout(
        index=0,
        thread_id=where,
        status="finished",
        trajectory=Trajectory(turns=(turn,)),
        usage=Usage(prompt_tokens=prompt_tokens, generated_tokens=generated, model_calls=1),
        vote_key=outcome_key(calls, answer, pattern),
    )
