"""A Python object as an environment."""

from __future__ import annotations

import copy
import secrets
import threading
from collections.abc import Mapping
from hashlib import blake2b
from pprint import pformat
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast

from entcent_agents.environments.diff import printable, value_difference
from entcent_agents.environments.protocol import Change
from entcent_agents.errors import ConfigurationError, EnvironmentConflictError, EnvironmentUnusableError

if TYPE_CHECKING:
    from entcent_agents.environments.protocol import ChangeWhat

_NOTHING: Final = object()


class MemoryFork:
    """A rollout's own copy of an object. Tools change `value`, or put another in its place.

    Args:
        environment: What it is a copy of.
        value: The copy.
        base: The real object as it was; nobody changes it.
    """

    def __init__(self, environment: MemoryEnvironment, value: Any, base: Any) -> None:
        self._environment = environment
        self._value = value
        self._base = base
        self._reference = f"memory:{environment.name}:{secrets.token_hex(8)}"
        environment.forks[self._reference] = self

    @property
    def environment(self) -> MemoryEnvironment:
        """What this is a copy of."""
        return self._environment

    @property
    def reference(self) -> str:
        """Handle for `reopen`, in this process."""
        return self._reference

    @property
    def value(self) -> Any:
        """The copy.

        Raises:
            EnvironmentUnusableError: The fork was discarded or committed.
        """
        self._require()
        return self._value

    @value.setter
    def value(self, value: Any) -> None:
        self._require()
        self._value = value

    def fork(self) -> MemoryFork:
        """A copy of this fork as it is now; see `Fork.fork`.

        Raises:
            EnvironmentUnusableError: The fork was discarded or committed, or cannot be copied.
        """
        return MemoryFork(self._environment, _copied(self.value, self._environment.name), self._base)

    def diff(self) -> tuple[Change, ...]:
        """What differs from the base: by key where both are mappings, else as a whole.

        Raises:
            EnvironmentUnusableError: The fork was discarded or committed.
        """
        name = self._environment.name
        sides = (self._base, self.value)
        keyed = all(isinstance(side, Mapping) for side in sides)
        before, after = cast("list[Mapping[Any, Any]]", sides if keyed else [{name: side} for side in sides])
        changes = [
            _change(name, str(key), old, new)
            for key in {**before, **after}
            if _differ(old := before.get(key, _NOTHING), new := after.get(key, _NOTHING))
        ]
        return tuple(sorted(changes, key=lambda change: change.subject))

    def keep(self) -> NoReturn:
        """Forks of objects in memory end with their process.

        Raises:
            ConfigurationError: Always.
        """
        raise ConfigurationError(
            f"the environment {self._environment.name!r} lies in memory, and its forks end with the process: leave out "
            "the durable rollout_checkpointer, or keep its state in a SqliteEnvironment or a DirectoryEnvironment"
        )

    def discard(self) -> None:
        """Forget the copy. Does nothing the second time."""
        self._environment.forks.pop(self._reference, None)

    def seal(self) -> Any:
        """A copy of the value to be made real; the base itself where nothing changed. For `commit` alone.

        Raises:
            EnvironmentConflictError: The real object changed since it was forked.
            EnvironmentUnusableError: The fork was discarded or committed.
        """
        if not _differ(self.value, self._base):
            return self._base
        if _differ(self._environment.value, self._base):
            raise EnvironmentConflictError(
                f"{self._environment.name} changed since it was forked: nothing was committed; run again on the value "
                "as it is now"
            )
        return _copied(self.value, self._environment.name)

    def apply(self, sealed: Any) -> None:
        """Make what was sealed real. For `commit` alone."""
        if sealed is not self._base:
            self._environment.value = sealed
        self.discard()

    def _require(self) -> None:
        if self._reference not in self._environment.forks:
            raise EnvironmentUnusableError(
                f"the fork {self._reference} was discarded or committed: make a new one of {self._environment.name}"
            )


class MemoryEnvironment:
    """An object in memory that rollouts fork. It lives as long as the process, and so do its forks.

    A commit puts a new object in the place of `value`: read the real thing there, not through a variable of your own.

    Args:
        value: Anything that can be copied deeply and equals its copy.
        name: What tools call it.

    Attributes:
        value: The real thing. Whoever changes it by themselves holds `lock` meanwhile.
        lock: Held while it is forked or committed.
        forks: Those that are alive, by reference.

    Raises:
        EnvironmentUnusableError: The value cannot be copied, or does not equal its copy.

    Example:
        >>> from entcent_agents import MemoryEnvironment
        >>> from entcent_agents.environments import commit
        >>> stock = MemoryEnvironment({"bolts": 140}, name="stock")
        >>> fork = stock.fork()
        >>> fork.value["bolts"] = 139
        >>> stock.value
        {'bolts': 140}
        >>> commit([fork])
        >>> stock.value
        {'bolts': 139}
    """

    def __init__(self, value: Any, name: str = "memory") -> None:
        self.name = name
        self.value = value
        self.lock: threading.RLock = threading.RLock()
        self.forks: dict[str, MemoryFork] = {}
        try:
            equal = not _differ(_copied(value, name), value)
        except (TypeError, ValueError) as error:  # an array, for one, has no single answer
            raise EnvironmentUnusableError(
                f"{name} cannot be compared ({error}): wrap it in a class with __eq__"
            ) from error
        if not equal:
            raise EnvironmentUnusableError(
                f"{name} does not equal its own copy, so that no change of it would be seen: give it an __eq__"
            )

    def fork(self) -> MemoryFork:
        """A deep copy of the object, for one rollout.

        Raises:
            EnvironmentUnusableError: It cannot be copied, or is being changed.
        """
        with self.lock:
            base = _copied(self.value, self.name)
        return MemoryFork(self, _copied(base, self.name), base)

    def reopen(self, reference: str) -> MemoryFork:
        """The fork that this process made, by its reference.

        Raises:
            EnvironmentUnusableError: There is no such fork: it was discarded or committed, or its process ended.
        """
        try:
            return self.forks[reference]
        except KeyError:
            raise EnvironmentUnusableError(
                f"{reference} was discarded or committed, or ended with its process: make a new fork of {self.name}"
            ) from None

    def committed(self, reference: str) -> bool:
        """Whether a kept fork of this reference was committed: never, for none can be kept."""
        return False

    def recover(self) -> None:
        """There is nothing to recover."""


def _copied(value: Any, name: str) -> Any:
    try:
        return copy.deepcopy(value)
    except Exception as error:  # of the object's own making, or RuntimeError: it changed size meanwhile
        raise EnvironmentUnusableError(
            f"{name} cannot be copied ({type(error).__name__}: {error}): leave out what has no copy, and change it in "
            "one thread at a time"
        ) from error


def _differ(one: Any, other: Any) -> bool:
    return one is not other and not bool(one == other)


def _change(target: str, subject: str, old: Any, new: Any) -> Change:
    before, after = (None if side is _NOTHING else pformat(side, width=100) for side in (old, new))
    what: ChangeWhat = "created" if before is None else "deleted" if after is None else "changed"
    return Change(
        target=target,
        kind="entry",
        subject=printable(subject),
        what=what,
        text=value_difference(before, after),
        digest=blake2b(repr(after).encode("utf-8", "backslashreplace"), digest_size=16).hexdigest(),
    )
