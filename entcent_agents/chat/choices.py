"""Several choices of one prompt: in one request where the server takes so many, else in as few as it takes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from entcent_agents.chat.completion import Completion
from entcent_agents.chat.learnt import memory
from entcent_agents.chat.sampling import Outcome, TokenListener
from entcent_agents.errors import ModelServerError

Request = Callable[[int, int | None, Sequence[TokenListener]], Awaitable[list[Completion]]]
"""Sends one request: (choices, seed, one listener a choice) → the choices that came, one at least."""

_taken: Final[dict[str, int]] = memory()
"""The most choices of one request that a server takes, once it has refused more."""


async def choices(
    request: Request, n: int, seed: int | None, listeners: Sequence[TokenListener], *, server: str
) -> list[Outcome]:
    """`n` outcomes: what a server refuses is halved, what it leaves out is asked for again.

    Args:
        request: How to ask.
        n: How many.
        seed: Of the first choice; the others count on from it, in whatever request they come.
        listeners: One a choice, or none.
        server: Whom is asked; how many choices it takes is remembered.

    Raises:
        ModelServerError: Where the one request that was sent fails otherwise than by its number of choices.
    """
    most = _taken.get(server, n)
    if n > most:
        return await _parts(request, range(0, n, most), n, seed, listeners, server)
    try:
        first = (await request(n, seed, listeners))[:n]
    except ModelServerError as error:
        if n == 1 or not _refuses_n(error):
            raise
        _taken[server] = min(_taken.get(server, n), n // 2)
        return await choices(request, n, seed, listeners, server=server)
    return [*first, *await _parts(request, range(len(first), n, len(first)), n, seed, listeners, server)]


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
    said = str(error)
    return error.status in (400, 422) and any(hint in said for hint in ("'n'", "n >", "n must", "choices"))
