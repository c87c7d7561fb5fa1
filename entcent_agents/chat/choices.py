"""Several choices of one prompt: in one request where the server takes so many, else in as few as it takes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from entcent_agents.chat.learnt import memory
from entcent_agents.chat.sampling import Outcome, TokenListener
from entcent_agents.errors import ModelServerError

Request = Callable[[int, int | None, Sequence[TokenListener]], Awaitable[Sequence[Outcome]]]
"""Sends one request: (choices, seed, one listener a choice) → what became of those that came, one at least."""

_taken: Final[dict[str, int]] = memory()
"""The most choices of one request that a server has taken, once it has refused more."""
_OF_N: Final = re.compile(r"(?<!\w)n(?!\w)")
"""Names the parameter, in whatever quotes; the letter stands alone in few other messages."""


async def choices(
    request: Request, n: int, seed: int | None, listeners: Sequence[TokenListener], *, server: str
) -> list[Outcome]:
    """`n` outcomes: of what a server refuses fewer are asked for, what it leaves out is asked for again.

    Args:
        request: How to ask.
        n: How many.
        seed: Of the first choice; the others count on from it, in whatever request they come.
        listeners: One a choice, or none.
        server: Whom is asked, and which model; how many choices it takes is remembered.

    Raises:
        ModelServerError: Where the first request that is not refused for its number of choices fails.
    """
    most = _taken.get(server)
    if most is not None and n > most:
        return await _parts(request, range(0, n, most), n, seed, listeners, server)
    size = n
    while True:
        try:
            first = await request(size, seed, listeners[:size])
            break
        except ModelServerError as error:
            if size == 1 or not _refuses_n(error):
                raise
            size = _fewer(str(error), size)
    if size < n:
        _taken[server] = size
    step = min(size, len(first))
    return [*first[:size], *await _parts(request, range(step, n, step), n, seed, listeners, server)]


async def _parts(
    request: Request, starts: range, n: int, seed: int | None, listeners: Sequence[TokenListener], server: str
) -> list[Outcome]:
    """The choices from each start to the next, all at once."""
    parts = (_part(request, start, min(starts.step, n - start), seed, listeners, server) for start in starts)
    return [outcome for outcomes in await asyncio.gather(*parts) for outcome in outcomes]


async def _part(
    request: Request, start: int, n: int, seed: int | None, listeners: Sequence[TokenListener], server: str
) -> Sequence[Outcome]:
    """Some of the choices; what becomes of them is theirs alone."""
    own_seed = None if seed is None else seed + start
    try:
        return await choices(request, n, own_seed, listeners[start : start + n], server=server)
    except Exception as error:  # delivered to whoever waits for these choices
        return [error] * n


def _refuses_n(error: ModelServerError) -> bool:
    return error.status in (400, 422) and bool(_OF_N.search(str(error)))


def _fewer(said: str, refused: int) -> int:
    """The largest number below the refused one that the refusal names, as limits are; else half."""
    named = [int(number) for number in re.findall(r"(?<![\w.])\d{1,3}(?![\w.])", said)]
    return max((number for number in named if 1 < number < refused), default=refused // 2)
