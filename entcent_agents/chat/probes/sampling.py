"""What a server's sampling settings do to its answers and to their log-probabilities."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from entcent_agents.chat.probes.asking import Alternative, Asking, is_refusal
from entcent_agents.chat.probes.bounds import STORY, WORD
from entcent_agents.chat.probes.measured import Constraint, Measured, Seeding, Semantics, not_measured
from entcent_agents.errors import ModelServerError

LOW_TEMPERATURE: Final = 0.5
MOST_COMPARED: Final = 20
LEAST_COMPARED: Final = 3
LEAST_DIFFERENCE: Final = 0.5
"""Nats between two alternatives; below, a server's rounding would make much of their ratio."""
TOLERANCE: Final = 0.15
"""Of a ratio: real servers compute the same prompt twice with small differences."""
ODD_WORD: Final = "zyxomma"
"""Nobody answers a greeting with a dragonfly: where it is the answer, a constraint made it so."""

SEEDS: Final = (7, 7, 7, 8, 9)
SCHEMA_TOKENS: Final = 64
_UNDECIDED: Final = ("", "{", "<")
"""How an answer begins that may still turn out constrained: with nothing but reasoning, an object, or markup."""

Logprobs = Mapping[tuple[str, tuple[int, ...]], float]


class Ratio(NamedTuple):
    """How much wider differences between log-probabilities became.

    Attributes:
        median: Over the alternatives.
        spread: The median distance from it.
        alternatives: How many could be compared.
    """

    median: float
    spread: float
    alternatives: int


def ratio_of_differences(before: Logprobs, after: Logprobs) -> Ratio | None:
    """Compare the distances of alternatives from the likeliest: normalisation drops out, temperature does not.

    None where too few can be compared.
    """
    common = [identity for identity in before if identity in after]
    if not common:
        return None
    first = max(common, key=lambda identity: before[identity])
    ratios = [
        (after[first] - after[identity]) / (before[first] - before[identity])
        for identity in common
        if before[first] - before[identity] >= LEAST_DIFFERENCE
    ]
    if len(ratios) < LEAST_COMPARED:
        return None
    median = statistics.median(ratios)
    return Ratio(median, statistics.median(abs(ratio - median) for ratio in ratios), len(ratios))


def semantics(ratio: Ratio, temperature: float) -> Semantics:
    """What a ratio says, measured between temperature 1 and another."""
    if ratio.spread > TOLERANCE * abs(ratio.median):
        return Semantics.UNKNOWN
    for expected, meaning in ((1.0, Semantics.RAW), (1.0 / temperature, Semantics.TEMPERED)):
        if abs(ratio.median / expected - 1.0) <= TOLERANCE:
            return meaning
    return Semantics.UNKNOWN


def truncation(before: Logprobs, after: Logprobs) -> str:
    """What a sampling cut did to the alternatives: "ignored", "renormalised", "cut", or "cut and renormalised"."""
    common = [identity for identity in before if identity in after]
    shift = statistics.median(after[identity] - before[identity] for identity in common) if common else 0.0
    if len(after) >= len(before):  # the last ones may change places: real servers round differently each time
        return "ignored" if abs(shift) < TOLERANCE else "renormalised"
    return "cut and renormalised" if shift >= TOLERANCE else "cut"


async def temperature(asking: Asking) -> Measured:
    """Whether log-probabilities are those before or after the temperature, and what cuts do to them."""
    before = await _first(asking, temperature=1.0)
    after = await _first(asking, temperature=LOW_TEMPERATURE)
    if before is None or after is None:
        return not_measured("the server refuses a temperature of 1 or 0.5")
    ratio = ratio_of_differences(before, after)
    if ratio is None:
        return not_measured(f"too few alternatives to compare ({len(before)} and {len(after)})")
    value = semantics(ratio, LOW_TEMPERATURE)
    cuts = {
        "top_p": await _cut(asking, before, top_p=0.5),
        "top_k": await _cut(asking, before, bound={"extra_body": {"top_k": 3}}),
    }
    means = _SEMANTICS[value]
    harmful = [name for name, effect in cuts.items() if effect not in ("ignored", "refused")]
    if harmful:
        means += f"; {' and '.join(harmful)} change them too: keep equal or unset"
    return Measured(
        value=value,
        shown=f"{value} (ratio {ratio.median:.2f})",
        means=means,
        details={
            "ratio": ratio.median,
            "spread": ratio.spread,
            "alternatives": ratio.alternatives,
            "temperatures": [1.0, LOW_TEMPERATURE],
            "raw_ratio": 1.0,
            "tempered_ratio": 1.0 / LOW_TEMPERATURE,
            **cuts,
        },
    )


_SEMANTICS: Final = {
    Semantics.RAW: "scores do not depend on temperature",
    Semantics.TEMPERED: "scores depend on temperature: keep it equal within a comparison",
    Semantics.UNKNOWN: "neither raw (1.00) nor tempered (2.00): compare only equal settings",
}


async def seed(asking: Asking) -> Measured:
    """Whether a seed makes sampling repeatable, and another seed other samples.

    The first run may differ from the next: a prompt that is read and one that is cached round differently.
    """
    texts = [
        (await asking.answer(asking.payload(STORY, max_tokens=12, seed=number))).choices[0].text for number in SEEDS
    ]
    cold, warm, again, *_ = texts
    if len(set(texts)) == 1:
        value, shown, means = Seeding.FIXED, "fixed", "every seed gives one text: rollouts would be copies"
    elif warm != again:
        value, shown, means = Seeding.UNREPEATABLE, "not repeatable", "runs cannot be repeated exactly"
    elif cold != warm:
        value, shown = Seeding.REPEATABLE, "repeatable when warm"
        means = "a seed repeats a run whose prompt is cached; the first may differ"
    else:
        value, shown, means = Seeding.REPEATABLE, "repeatable", "a seed repeats a run, alone on the server"
    details = {"seeds": list(SEEDS), "different": len(set(texts)), "cold_differs": cold != warm}
    return Measured(value=value, shown=shown, means=means, details=details)


async def json_schema(asking: Asking) -> Measured:
    """Whether a JSON schema constrains the answer: it asks for one that only a constraint explains."""
    schema = {
        "type": "object",
        "properties": {"word": {"type": "string", "enum": [ODD_WORD]}},
        "required": ["word"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}
    payload = asking.payload("Say hello.", max_tokens=SCHEMA_TOKENS, temperature=0.0, response_format=form)
    try:
        answer = await asking.answer(payload)
    except ModelServerError as error:
        if not is_refusal(error):
            raise
        return Measured(
            value=Constraint.REFUSED,
            shown=Constraint.REFUSED,
            means="response_format is no help here: ask for JSON in the prompt",
            details={"said": str(error)},
        )
    text, finish_reason = answer.choices[0].text, answer.choices[0].finish_reason
    if ODD_WORD not in text and finish_reason == "length" and text.lstrip()[:1] in _UNDECIDED:
        return not_measured(f"the answer was cut off after {SCHEMA_TOKENS} tokens, before it could tell")
    value = Constraint.ENFORCED if ODD_WORD in text else Constraint.IGNORED
    return Measured(value=value, shown=value, means=_CONSTRAINTS[value], details={"answer": text[:200]})


_CONSTRAINTS: Final = {
    Constraint.ENFORCED: "structured output can be relied on",
    Constraint.IGNORED: "taken and not followed: check what comes back",
}


async def _first(asking: Asking, **fields: Any) -> Logprobs | None:
    """The alternatives of the first token; None where the server refuses the settings."""
    k = min(MOST_COMPARED, asking.most_alternatives)
    fields = {"temperature": 1.0, **fields, "top_logprobs": k}
    try:
        rows = await asking.alternatives(asking.payload(WORD, max_tokens=1, stream=False, **fields))
    except ModelServerError as error:
        if not is_refusal(error):
            raise
        return None
    return _present(rows[0]) if rows else {}


def _present(row: Sequence[Alternative]) -> Logprobs:
    return {top.identity: top.logprob for top in row if top.logprob is not None and top.present}


async def _cut(asking: Asking, before: Logprobs, **fields: Any) -> str:
    after = await _first(asking, **fields)
    return "refused" if after is None else truncation(before, after)
