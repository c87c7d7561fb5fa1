"""What an environment promises: the three words fork, commit and discard.

An environment is a part of the world that tools change. `Environment.fork` gives a rollout its own copy of it;
`entcent_agents.environments.commit` makes one copy real; `Fork.discard` forgets a copy. The calls block: run them
in a thread from asynchronous code. An environment of one's own extends `StagedEnvironment`, and its forks `StagedFork`:
`commit` knows those, and has a `Mechanism` apply them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ChangeKind = Literal["table", "view", "index", "trigger", "file", "entry"]
ChangeWhat = Literal["created", "changed", "deleted"]
State = Literal["before", "partly", "after", "other"]
"""Where a real thing stands beside a fork of it: as it was forked, with some or all of the fork's changes, or changed
by somebody else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One thing that a fork changed, for people to read.

    Attributes:
        target: Name of the environment.
        kind: What sort of thing: a file; a table, view, index or trigger; or an entry, where things have keys.
        subject: Its name in the database, its path relative to the directory, or its key.
        what: What happened to it.
        text: A text in the manner of a unified diff, cut at `diff.LINES` lines (the last line says how many more).
        digest: Of all that differs, nothing cut: equal forks' equal changes have equal digests.
    """

    target: str
    kind: ChangeKind
    subject: str
    what: ChangeWhat
    text: str
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """A fork made ready to be applied: all that a later process needs to finish a commit. Plain JSON-able values.

    Attributes:
        kind: What sort of target it is; says which code applies it.
        target: Absolute path of the real thing.
        fork: Absolute path of the fork's own folder.
        staged: Absolute path of the staged copy in it.
        base: Digest of the target as it was when it was forked.
        mark: What identifies the target once this is applied: a digest, or an inode number.
        kept: Whether the fork was kept for other processes, which are then left a receipt.
    """

    kind: str
    target: str
    fork: str
    staged: str
    base: str
    mark: str
    kept: bool

    def as_dict(self) -> Mapping[str, str | bool]:
        """Plain values, as written to disk."""
        return asdict(self)


class Mechanism(Protocol):
    """How sealed forks of one kind become real. For `commit` alone, which holds the target's lock meanwhile."""

    def state(self, sealed: Sealed) -> State:
        """Where the target stands; after a crash too, in another process."""
        ...

    def replace(self, sealed: Sealed, then: Callable[[], None]) -> None:
        """Check the target against its base, call `then`, and bring the target to what was sealed.

        Between the check and the end nobody else should be able to write, as far as that can be had. Called again
        where an earlier attempt broke off, it does what is left.

        Raises:
            EnvironmentConflictError: The target is not what was forked; nothing was done.
        """
        ...


@runtime_checkable
class Fork(Protocol):
    """A rollout's own copy of an environment. Its methods may be called from any thread."""

    @property
    def environment(self) -> Environment:
        """What this is a copy of."""
        ...

    @property
    def reference(self) -> str:
        """Durable handle: `Environment.reopen` takes it, in another process too if the fork was kept."""
        ...

    def fork(self) -> Fork:
        """A copy of this fork as it is now, on its own from here on.

        Its changes and its conflicts are counted from what the real thing was when this one was forked from it. It is
        kept only once `keep` is called on it.

        Raises:
            EnvironmentUnusableError: The fork was discarded or committed, is being written, or cannot be copied.
        """
        ...

    def diff(self) -> tuple[Change, ...]:
        """What the rollout changed, sorted by subject. Take it before any fork of the environment is committed.

        Raises:
            EnvironmentConflictError: The real thing changed since the fork, so that there is nothing to compare with.
            EnvironmentUnusableError: The fork was discarded or committed.
        """
        ...

    def keep(self) -> None:
        """Let the fork outlive this process, for another that reopens it by its reference. For a week at most.

        What it holds now survives a power cut too. Later changes survive a killed process; call this again to have
        them survive more, and for another week.

        Raises:
            ConfigurationError: Forks of this environment end with their process.
            EnvironmentUnusableError: The fork was discarded or committed, or is being written.
        """
        ...

    def discard(self) -> None:
        """Remove the copy and everything about it. Does nothing the second time."""
        ...


class Environment(Protocol):
    """A part of the world that can be forked. Making one finishes a commit that a crash interrupted.

    Example:
        >>> from entcent_agents import Environment, MemoryEnvironment
        >>> worlds: list[Environment] = [MemoryEnvironment({"bolts": 140}, name="stock")]
        >>> [(world.name, world.fork().diff()) for world in worlds]
        [('stock', ())]
    """

    @property
    def name(self) -> str:
        """What tools call it: the argument of `current_environment`."""
        ...

    def fork(self) -> Fork:
        """An isolated copy of the real thing.

        Raises:
            EnvironmentUnusableError: The real thing is gone or locked, or it cannot be copied.
        """
        ...

    def reopen(self, reference: str) -> Fork:
        """The fork that another process (or this one) made, by its reference. It now belongs to this process.

        Raises:
            EnvironmentUnusableError: There is no such fork of this environment: it was discarded or committed.
        """
        ...

    def committed(self, reference: str) -> bool:
        """Whether the kept fork of this reference was committed, within the last week."""
        ...

    def recover(self) -> None:
        """Finish a commit that a crash interrupted, and sweep the forks of dead processes.

        Raises:
            EnvironmentConflictError: Somebody else changed the target after the crash; a person has to decide.
        """
        ...
