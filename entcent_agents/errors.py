"""Every error this library raises on purpose.

::

    EntcentError
    ├── ConfigurationError            a setting that cannot work; raised before any model call, if it can be known then
    │   ├── EffectError               what a tool does to the world cannot be as it is declared, or cannot be honoured
    │   └── MissingExtraError         an optional package is absent; the message has the pip command
    ├── LogprobsError
    │   ├── LogprobsMalformedError    log-probabilities that cannot be what they claim to be
    │   └── LogprobsMissingError      no candidate carries log-probabilities and nothing may stand in
    ├── ModelError
    │   ├── ModelUnknownError         no such model in the store
    │   ├── ModelDownloadError        every source of a model failed, or delivered other bytes
    │   ├── ModelFileError            a model file on disk is not the file it should be
    │   ├── ModelServerError          a model server cannot be started or reached, or answers with an error
    │   └── ContinuationError         a model server did not go on from the text it was given
    ├── RecordingError                a record that cannot be read, of generations or of a rollout: where, why, what was
    │                                 expected
    ├── RolloutError
    │   ├── BudgetExceededError       a model call, or rollouts, that the request's budget has no room for
    │   └── RolloutsFailedError       fewer rollouts finished or are held than the quorum asks for
    ├── LedgerError                   the effect ledger cannot be read or written
    │   ├── LedgerVersionError        a ledger, or a record in it, of a version that this release does not read
    │   └── LedgerAnswerError         what a person answered about a call in doubt is no answer
    └── EnvironmentFault
        ├── EnvironmentUnusableError  the target is not what the environment needs
        ├── EnvironmentConflictError  the real world changed since the fork
        └── PathEscapeError           a path leads out of its workspace

Messages say what was seen and what to do about it, in one line: the command line prints them as they are.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Final

_STATUS_NAMES: Final = ("status_code", "status", "code")
"""How exceptions call their HTTP status: those of the SDKs; of aiohttp and this library; of Google and urllib."""


class EntcentError(Exception):
    """Root of the tree: catch it to catch everything this library raises on purpose.

    Example:
        >>> from entcent_agents import EntcentError, PhaseConfig
        >>> try:
        ...     PhaseConfig(top_percent=101)
        ... except EntcentError as error:
        ...     print(error)
        top_percent=101 is not a percentage between 0 and 100
    """


class ConfigurationError(EntcentError):
    """A setting that cannot work; raised before any model call, if it can be known then."""


class EffectError(ConfigurationError):
    """What a tool does to the world cannot be as it is declared, or cannot be honoured."""


class MissingExtraError(ConfigurationError):
    """An optional package is not installed.

    Args:
        package: The distribution that is missing.
        extra: The extra of this library that brings it.
    """

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed: run  pip install 'entcent-agents[{extra}]'")


class LogprobsError(EntcentError):
    """Something is wrong with log-probabilities."""


class LogprobsMalformedError(LogprobsError):
    """Log-probabilities that cannot be what they claim to be (a positive value, a wrong shape)."""


class LogprobsMissingError(LogprobsError):
    """No candidate carries log-probabilities, and nothing was allowed to stand in for them."""


class ModelError(EntcentError):
    """Something is wrong with a model, its file or its server."""


class ModelUnknownError(ModelError):
    """No such model in the store."""


class ModelDownloadError(ModelError):
    """Every source of a model failed, or delivered other bytes than it should."""


class ModelFileError(ModelError):
    """A model file on disk is not the file it should be."""


class ModelServerError(ModelError):
    """A model server cannot be started or reached, or answers with an error.

    Args:
        message: What was seen, and what to do.
        status: The HTTP status of the answer, or the one that an error in a good answer names; None where there was
            none, or where a good one was broken off.
        broke_off: Whether the server was not reached, fell silent or broke off: asked again, it may answer.
        reached: Whether the server may have the request.
        retry_after_seconds: How long it asks to be left alone; None where it does not say.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        broke_off: bool = False,
        reached: bool = True,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.broke_off = broke_off
        self.reached = reached
        self.retry_after_seconds = retry_after_seconds


class ContinuationError(ModelError):
    """A model server did not go on from the text it was given, but began anew or read another text.

    Attributes:
        way: The way to make a branch's turn that was asked for and failed so; None where nothing was asked for.
    """

    way: str | None = None


class RecordingError(EntcentError):
    """A record that cannot be read, of generations or of a rollout; says where, why, and what was expected."""


class RolloutError(EntcentError):
    """Something is wrong with rollouts as a whole; a single bad rollout is data, not an error."""


class BudgetExceededError(RolloutError):
    """A model call, or rollouts, that the request's budget has no room for; the message names the limit."""


class RolloutsFailedError(RolloutError):
    """Fewer rollouts finished or are held than the quorum asks for; external calls that were made are named.

    Its `__cause__` is what they failed with, a group of exceptions where that is not the same.
    """


class LedgerError(EntcentError):
    """The effect ledger cannot be read or written."""


class LedgerVersionError(LedgerError):
    """A ledger, or a record in it, is of a version that this release does not read."""


class LedgerAnswerError(LedgerError):
    """What a person answered about a call in doubt is no answer."""


class EnvironmentFault(EntcentError):
    """Something is wrong with the world that tools act on."""


class EnvironmentUnusableError(EnvironmentFault):
    """The target is not what the environment needs (not a SQLite database, not a directory, not writable)."""


class EnvironmentConflictError(EnvironmentFault):
    """The real world changed since the fork, so that committing would overwrite somebody's work."""


class PathEscapeError(EnvironmentFault):
    """A path leads out of its workspace."""


def causes_of(error: BaseException) -> Generator[BaseException]:
    """An exception of anybody's, and those that led to it."""
    link: BaseException | None = error
    seen: set[int] = set()
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def one_of(errors: Iterable[Exception]) -> Exception | None:
    """One exception for several: a group where they differ."""
    different = [*{f"{type(error)} {error}": error for error in errors}.values()]
    return ExceptionGroup("several errors", different) if len(different) > 1 else next(iter(different), None)


def http_status(error: BaseException) -> int | None:
    """The HTTP status, 400 or above, that an exception of anybody's carries; its causes are not looked at."""
    holders = (error, getattr(error, "response", None))
    found = (getattr(holder, name, None) for holder in holders for name in _STATUS_NAMES)
    return next((int(status) for status in found if isinstance(status, int) and 400 <= status < 600), None)
