"""Whose tokens are whose: what a server counted for a request, shared out among its choices."""

from __future__ import annotations

from collections.abc import Sequence


def generated_tokens(listed: Sequence[int], unlisted: Sequence[int], counted: int | None) -> list[int]:
    """The tokens that were generated for each choice.

    Servers count all choices, the first alone, or none; what was listed is there in any case. Where the count leaves
    fewer for what came unlisted than the text needs, several choices were counted as one, and the text is believed: a
    token that is taken for absent would make its choice look complete.

    Args:
        listed: Tokens of each choice that came with log-probabilities, or with a null in their place.
        unlisted: An estimate of the others, from what each choice says.
        counted: What the server says it generated in all; None where it does not count.
    """
    rest = (counted or 0) - sum(listed)
    if len(listed) == 1 and counted and rest >= 0:
        return [counted]
    spare = shares(max(0, rest - sum(unlisted)), len(listed))
    return [there + missing + more for there, missing, more in zip(listed, unlisted, spare, strict=True)]


def shares(total: int, parts: int) -> list[int]:
    """`total` in `parts` nearly equal whole numbers that add up to it."""
    share, rest = divmod(total, parts)
    return [share + 1] * rest + [share] * (parts - rest)
