"""Retries inside a rollout: it goes on from its last checkpoint where a model call failed for a passing reason."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import chain, repeat
from random import Random
from typing import Any, Final, TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, wait_exponential

from entcent_agents.chat.retry_after import retry_after_seconds
from entcent_agents.errors import ConfigurationError, ModelServerError, causes_of, http_status
from entcent_agents.ledger.perform import is_cut_off

T = TypeVar("T")

_PASSING: Final = frozenset({408, 409, 425, 429, *range(500, 600)})
"""HTTP statuses of a server that may answer another time; 409 is a lock that was not got in time, with OpenAI."""
_SAYS_SO: Final = (
    *("ConnectionError", "NetworkError", "RemoteProtocolError"),
    *("ChunkedEncodingError", "ClientPayloadError"),
)
"""How classes of HTTP clients are named that are about a connection and derive from no built-in error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """How often, and how patiently, a rollout goes on after a model call failed for a passing reason.

    Attributes:
        attempts: Most attempts of a whole rollout, the first one counted; 1 retries nothing.
        first_seconds: About how long the first pause is; each further one is twice as long.
        max_seconds: Longest pause, whatever the server asks for.

    Raises:
        ConfigurationError: On settings that cannot work.
    """

    attempts: int = 3
    first_seconds: float = 1.0
    max_seconds: float = 30.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ConfigurationError(f"retries: attempts={self.attempts} must be at least 1, which retries nothing")
        if not 0 <= self.first_seconds <= self.max_seconds < float("inf"):
            raise ConfigurationError(
                f"retries: first_seconds={self.first_seconds} and max_seconds={self.max_seconds} must be finite, "
                "at least 0, and the first no more than the other"
            )


class NextWayError(ModelServerError):
    """A way to go on from another rollout's answer failed after it may have generated, and there is another way.

    What it generated is charged, and what is asked next has to be reserved: a further attempt at the rollout does both.
    """


def is_passing(error: BaseException) -> bool:
    """Whether an exception of a model call tells of something that may be over when the server is asked again.

    That is a connection refused or broken, a time-out, or an HTTP status of 408, 409, 425, 429 or 5xx. Of an exception
    and its causes the first that says anything of the kind decides. It is read from attributes and class names, so that
    no client has to be imported.
    """
    for link in causes_of(error):
        status = http_status(link)
        if status is not None:
            return status in _PASSING
        if _is_of_the_connection(link):
            return True
    return False


async def with_retries(
    start: Callable[[], Awaitable[T]],
    go_on: Callable[[], Awaitable[T]],
    failed_model_call: Callable[[BaseException], bool],
    retries: Retries,
    on_retry: Callable[[BaseException, float], None],
) -> T:
    """Start, and go on as often as allowed where a model call failed for a passing reason.

    To the next way of making a branch's turn it goes on at once, and no attempt is counted: there are few of them.

    Args:
        start: The first attempt.
        go_on: Every further one.
        failed_model_call: Whether an exception came out of a model call: of a tool nothing is retried, as its effects
            may have begun (`TurnRecorder.failed_with`).
        retries: How often, and how patiently.
        on_retry: Told of the exception and of the pause in seconds, before each pause.

    Raises:
        Exception: What the last attempt raised, or one that is not retried.
    """
    attempts = chain([start], repeat(go_on))

    async def attempt() -> T:
        while True:
            try:
                return await next(attempts)()
            except Exception as error:
                if not (failed_model_call(error) and any(isinstance(link, NextWayError) for link in causes_of(error))):
                    raise

    def pause(state: RetryCallState) -> float:
        return _pause_seconds(state, retries)

    def tell(state: RetryCallState) -> None:
        on_retry(_error(state), state.upcoming_sleep)

    retrying = AsyncRetrying(
        stop=stop_after_attempt(retries.attempts),
        wait=pause,
        retry=retry_if_exception(lambda error: failed_model_call(error) and is_passing(error)),
        before_sleep=tell,
        reraise=True,
    )
    return await retrying(attempt)


def _pause_seconds(state: RetryCallState, retries: Retries) -> float:
    """Growing, at random between half and all of it, and no shorter than the server asks for.

    Rollouts that shared a request share its exception, and so its pause: their next calls are one request again.
    Rollouts that failed each by itself do not come back all at once.
    """
    error = _error(state)
    grown = wait_exponential(multiplier=retries.first_seconds, max=retries.max_seconds)(state)
    *_, first = causes_of(error)
    shortened = grown * Random(id(first)).uniform(0.5, 1.0)
    return min(max(shortened, _asked_for_seconds(error) or 0.0), retries.max_seconds)


def _error(state: RetryCallState) -> BaseException:
    error = state.outcome and state.outcome.exception()
    assert error, "tenacity pauses after an exception alone"
    return error


def _asked_for_seconds(error: BaseException) -> float | None:
    """What the server asked for, where the exception or one that led to it carries that."""
    for link in causes_of(error):
        headers: Any = getattr(getattr(link, "response", None), "headers", None)
        found = link.retry_after_seconds if isinstance(link, ModelServerError) else None
        if headers is not None and hasattr(headers, "get"):
            found = retry_after_seconds(headers)
        if found is not None:
            return found
    return None


def _is_of_the_connection(error: BaseException) -> bool:
    if isinstance(error, ModelServerError):
        return error.broke_off
    return (
        is_cut_off(error)
        or isinstance(error, ConnectionError)
        or any(kind.__name__.endswith(_SAYS_SO) for kind in type(error).__mro__)
    )
