"""The largest `top_logprobs` and the largest `n` that a server really gives."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from entcent_agents.chat.probes.asking import Answer, Asking, is_refusal
from entcent_agents.chat.probes.measured import Measured
from entcent_agents.errors import ModelServerError

MOST_ALTERNATIVES: Final = 128
MOST_CHOICES: Final = 64
WORD: Final = "Say one word, any word you like."
"""Its first token could be almost anything."""
STORY: Final = "Invent a name for a ship and say where it sails."


async def largest(given: Callable[[int], Awaitable[int | None]], most: int) -> int:
    """The largest number up to `most` that is given in full.

    Args:
        given: Asks for so many, and says how many came; None where they are refused.
        most: Asked for first; a server without a limit is asked once.

    Returns:
        0 where nothing is given.
    """
    low, high, asked = 0, most + 1, most
    while high - low > 1:
        came = await given(asked)
        if came is not None and low < came < asked:  # fewer, not refused: most likely all there are
            high, asked = came + 1, came
            continue
        if came is not None and came >= asked:
            low = asked
        else:
            high = asked
        asked = (low + high) // 2
    return low


async def top_logprobs(asking: Asking) -> Measured:
    """The largest `top_logprobs` whose answer has so many different alternatives."""

    async def given(k: int) -> int | None:
        try:
            rows = await asking.alternatives(asking.payload(WORD, max_tokens=1, stream=False, top_logprobs=k))
        except ModelServerError as error:
            if not is_refusal(error):
                raise
            return None
        return len({top.identity for top in rows[0] if top.present}) if rows else 0

    most = await largest(given, MOST_ALTERNATIVES)
    asking.most_alternatives = max(most, asking.most_alternatives)
    unlimited = most == MOST_ALTERNATIVES
    means = "top_logprobs up to this" if most >= asking.wanted_alternatives else f"set top_logprobs={most} or less"
    extra = await _beyond_asked(asking, min(2, most))
    if extra["more_than_asked"]:
        means += "; one more comes where the sampled token is not among them"
    if extra["repeated"]:
        means += "; a token may be listed twice, which distorts entropies"
    return Measured(
        value=most,
        shown=f"at least {most}" if unlimited else str(most),
        means=f"{means}; keep it equal within a comparison",
        details={"at_least": unlimited, **extra},
    )


async def _beyond_asked(asking: Asking, k: int) -> dict[str, bool]:
    """Whether the sampled token is listed beside the k, or again, where it is not one of them."""
    payload = asking.payload(STORY, max_tokens=12, temperature=1.5, stream=False, top_logprobs=k)
    try:
        rows = await asking.alternatives(payload)
    except ModelServerError as error:
        if not is_refusal(error):
            raise
        rows = []
    return {
        "more_than_asked": any(len(row) > k for row in rows),
        "repeated": any(len({top.identity for top in row}) < len(row) for row in rows),
    }


async def choices(asking: Asking) -> Measured:
    """The largest `n` that is given, and whether its choices are samples of their own."""

    async def given(n: int) -> int | None:
        try:
            return len((await asking.answer(asking.payload("Hi", max_tokens=1), n)).choices)
        except ModelServerError as error:
            if not is_refusal(error):
                raise
            return None

    most = await largest(given, MOST_CHOICES)
    if most < 2:
        return Measured(value=most, shown=str(most), means="each rollout is a request: the prompt is read n times")
    n = min(most, 4)
    answer = await asking.answer(asking.payload(STORY, max_tokens=8, seed=11), n)
    details = _details(answer) | {"at_least": most == MOST_CHOICES}
    return Measured(
        value=most,
        shown=f"at least {most}" if most == MOST_CHOICES else str(most),
        means=_meaning(details),
        details=details,
    )


def _details(answer: Answer) -> dict[str, int | bool | None]:
    listed = sum(len(choice.logprobs) for choice in answer.choices if choice.logprobs)
    scored = [choice for choice in answer.choices if choice.logprobs and choice.logprobs.scored_tokens]
    counted = answer.usage.completion_tokens if answer.usage else None
    return {
        "asked": len(answer.choices),
        "different": len({choice.text for choice in answer.choices}),
        "with_logprobs": len(scored),
        "tokens_listed": listed,
        "tokens_counted": counted,
        "usage_counts_all": None if counted is None else counted >= listed,
    }


def _meaning(details: dict[str, int | bool | None]) -> str:
    if details["with_logprobs"] != details["asked"]:
        return (
            f"only {details['with_logprobs']} of {details['asked']} choices have log-probabilities: sample one by one"
        )
    if details["different"] == 1:
        return "the choices are copies of one sample: set coalesce=False"
    means = "rollouts share a request, larger groups are split"
    if details["usage_counts_all"] is False:
        means += "; its usage counts one choice, ours all that came"
    return means
