"""One external call through a ledger: intent before, result after."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final, TypeVar

from entcent_agents.blocking import CLEAN_UP_SECONDS
from entcent_agents.errors import LedgerError, LedgerVersionError, causes_of
from entcent_agents.ledger.answer import Answer
from entcent_agents.ledger.calls import ExternalCall, Position, use_idempotency_key
from entcent_agents.ledger.decision import Claim, Step, claim, complete, doubt, outcome_of, renew, resolve, withdraw
from entcent_agents.ledger.outcome import Done, Failed, Outcome
from entcent_agents.ledger.protocol import EffectLedger
from entcent_agents.ledger.record import EffectRecord
from entcent_agents.ledger.settings import LedgerSettings
from entcent_agents.ledger.values import StoredValue, error_line

T = TypeVar("T")

_log = logging.getLogger(__name__)
_DEFAULTS: Final = LedgerSettings()
_PAUSES_SECONDS: Final = (0.1, 0.5, 2.0)
"""Between tries to record what came of a call: it is the one write that cannot be made up for later."""
_BEATS: Final = 3
_SAYS_SO: Final = ("Timeout", "TimeoutError", "TimeoutException")
"""How classes of HTTP clients are named that derive from no built-in timeout."""


def is_uncertain(error: BaseException) -> bool:
    """Whether an exception leaves open if the call had its effect: a time-out, or a connection that broke.

    Causes count too. A refused connection does not: nothing was sent. Everything else is taken for the tool's word that
    the call failed, as agents take it without a ledger.
    """
    return any(is_cut_off(link) for link in causes_of(error))


def is_cut_off(error: BaseException) -> bool:
    """Whether this exception, whatever led to it, is a time-out or a connection that broke."""
    return (
        isinstance(error, TimeoutError | EOFError)
        or (isinstance(error, ConnectionError) and not isinstance(error, ConnectionRefusedError))
        or any(kind.__name__.endswith(_SAYS_SO) for kind in type(error).__mro__)
    )


async def perform(
    ledger: EffectLedger,
    call: ExternalCall,
    run: Callable[[], Awaitable[Any]],
    *,
    settings: LedgerSettings = _DEFAULTS,
    uncertain: Callable[[BaseException], bool] = is_uncertain,
    control_flow: tuple[type[Exception], ...] = (),
) -> Outcome:
    """Make an external call, unless it was made before, is being made, or may have been made.

    Args:
        ledger: Where intents and results are kept.
        call: What is called, and where in its rollout.
        run: Makes the call; the tool finds its key by `current_idempotency_key()`. Awaited once at most.
        settings: Times and limits.
        uncertain: Whether an exception of the tool leaves open if the effect happened.
        control_flow: Exceptions that are none, such as a framework's interrupts: raised again, with the intent taken
            back. A tool must raise them before it does anything.

    Returns:
        What came of it, now or before. A result is what the ledger keeps of it: JSON, else text.

    Raises:
        LedgerError: Before the call, which then was not made; or after it, where its result could not be recorded,
            and it will be in doubt.
        asyncio.CancelledError: Cancelled; before the call the intent was taken back, during it the call is in doubt
            (or free to be repeated, where it may be).
    """
    claimed, cancelled = await _to_the_end(ledger.transact(call.position, partial(claim, call=call, settings=settings)))
    if isinstance(claimed, Claim) and cancelled:
        await _record(ledger, call, partial(withdraw, claim=claimed))
    if cancelled:
        raise asyncio.CancelledError
    if not isinstance(claimed, Claim):
        return claimed
    async with _kept_alive(ledger, claimed, settings):
        return await _made(ledger, call, claimed, run, settings, uncertain, control_flow)


async def settle(
    ledger: EffectLedger, position: Position, answer: Answer, *, settings: LedgerSettings = _DEFAULTS
) -> EffectRecord | None:
    """Record what a person says about a call in doubt.

    Returns:
        The record as the answer left it. None where the doubt that it is about is gone, and nothing was changed: it was
        answered before, the truth came in, or the call was made again since.

    Raises:
        LedgerError: The ledger cannot be written.
    """
    return await ledger.transact(position, partial(resolve, answer=answer, settings=settings))


async def _made(
    ledger: EffectLedger,
    call: ExternalCall,
    claimed: Claim,
    run: Callable[[], Awaitable[Any]],
    settings: LedgerSettings,
    uncertain: Callable[[BaseException], bool],
    control_flow: tuple[type[Exception], ...],
) -> Outcome:
    try:
        with use_idempotency_key(claimed.record.idempotency_key):
            value = await run()
    except control_flow:
        await _record(ledger, call, partial(withdraw, claim=claimed))
        raise
    except Exception as error:
        line = error_line(error)
        if uncertain(error):
            return outcome_of(await _record(ledger, call, partial(doubt, claim=claimed, reason=line)), call)
        recorded = await _record(ledger, call, partial(complete, claim=claimed, came=line))
        if recorded.error == line:
            return Failed(error=line, replayed=False, exception=error)
        return _too_late(recorded, call)
    except GeneratorExit:
        raise  # nothing can be awaited any more; the lease runs out
    except BaseException as stop:
        reason = f"the call was stopped by {type(stop).__name__} while it was being made"
        await _record(ledger, call, partial(doubt, claim=claimed, reason=reason))
        raise
    came = StoredValue.of(value, settings.max_result_characters)
    recorded = await _record(ledger, call, partial(complete, claim=claimed, came=came))
    return Done(value=came.value, replayed=False) if recorded.result == came else _too_late(recorded, call)


def _too_late(recorded: EffectRecord, call: ExternalCall) -> Outcome:
    """What was decided while the call was taken for dead stands; that it came back is at least said."""
    _log.warning(
        "%s at %s came back after its lease had run out, and its record is %s by now", call.tool, call.position,
        recorded.state.value,
    )  # fmt: skip
    return outcome_of(recorded, call)


async def _record(ledger: EffectLedger, call: ExternalCall, step: Step[T]) -> T:
    """Record what came of a call, cancelled or not, and try for a while."""
    answer, cancelled = await _to_the_end(_insist(ledger, call, step))
    if cancelled:
        raise asyncio.CancelledError
    return answer


async def _insist(ledger: EffectLedger, call: ExternalCall, step: Step[T]) -> T:
    for pause in (*_PAUSES_SECONDS, None):
        try:
            return await ledger.transact(call.position, step)
        except LedgerVersionError:
            raise
        except LedgerError as error:
            if pause is None:
                raise LedgerError(
                    f"{call.tool} at {call.position} ended, but what came of it could not be recorded, "
                    f"and it will be in doubt: {error}"
                ) from error
        await asyncio.sleep(pause)
    raise AssertionError("the last try returns or raises")


@asynccontextmanager
async def _kept_alive(ledger: EffectLedger, claimed: Claim, settings: LedgerSettings) -> AsyncGenerator[None]:
    beat = asyncio.create_task(_renew(ledger, claimed, settings))
    try:
        yield
    finally:
        beat.cancel()


async def _renew(ledger: EffectLedger, claimed: Claim, settings: LedgerSettings) -> None:
    """Renew a lease until it is gone; where the ledger cannot be reached, the next beat may do better."""
    position, alive = claimed.record.position, True
    while alive:
        await asyncio.sleep(settings.lease_seconds / _BEATS)
        try:
            alive = await ledger.transact(position, partial(renew, claim=claimed, settings=settings))
        except LedgerError as error:
            _log.warning("the lease on %s at %s could not be renewed: %s", claimed.record.tool, position, error)


async def _to_the_end(work: Coroutine[Any, Any, T]) -> tuple[T, bool]:
    """Await what must not stop half-way; say whether the caller was cancelled meanwhile.

    Raises:
        asyncio.CancelledError: The caller was cancelled, and the work failed or took longer than a clean-up may.
    """
    task = asyncio.ensure_future(work)
    limit: float | None = None
    while not task.done():
        try:
            await asyncio.wait([task], timeout=limit)
        except asyncio.CancelledError:
            limit = CLEAN_UP_SECONDS
            continue
        if limit is not None and not task.done():
            task.cancel()
            raise asyncio.CancelledError
    if limit is not None and (task.cancelled() or task.exception() is not None):
        _log.warning("recording an external call failed under cancellation: %s", task)
        raise asyncio.CancelledError
    return task.result(), limit is not None
