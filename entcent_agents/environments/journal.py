"""What cannot be copied as an environment: writes are recorded, and the winner's are replayed on the real thing."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from entcent_agents.environments import commit_record, pages
from entcent_agents.environments.diff import printable, value_difference
from entcent_agents.environments.durable import sync_path
from entcent_agents.environments.forks import StagedEnvironment, StagedFork, new_folder, reopened_folder, write_base
from entcent_agents.environments.overlay import make_overlay, open_overlay
from entcent_agents.environments.protocol import Change, Mechanism, Sealed
from entcent_agents.environments.replay import Replay
from entcent_agents.errors import EnvironmentUnusableError

if TYPE_CHECKING:
    from entcent_agents.environments.protocol import ChangeWhat


@dataclass(frozen=True, slots=True, kw_only=True)
class Versioned:
    """What is at a key of a real thing.

    Attributes:
        value: JSON-able; None where there is nothing.
        version: Differs whenever the value does: a counter, an ETag, a time that never repeats, a digest.
    """

    value: Any
    version: str

    @classmethod
    def of(cls, value: Any) -> Self:
        """A value with a digest of it as its version, for real things that count no versions."""
        return cls(value=value, version=_digest(value))


class JournalTarget(Protocol):
    """A real thing that cannot be copied, seen as values under keys. You write this one.

    Both methods are called from threads. What they raise ends the tool call or the commit.
    """

    def read(self, key: str) -> Versioned:
        """What is there now, value and version taken in one look."""
        ...

    def write(self, key: str, value: Any, expected: str) -> str:
        """Put a whole new value there, or nothing (None), and return its version.

        Where the real thing can write on a condition, make it the expected version, and raise
        `EnvironmentConflictError` if it does not hold: then nobody can come between the look and the write.

        Raises:
            EnvironmentConflictError: Another version is there; nothing was written.
        """
        ...


class JournalFork(StagedFork["JournalEnvironment"]):
    """A rollout's own view of a real thing: what is there, with the rollout's writes on top."""

    def read(self, key: str) -> Any:
        """The value at a key as this rollout left it, or as it was when the rollout first looked; None for nothing.

        Raises:
            EnvironmentUnusableError: The fork was discarded or committed.
        """
        self._require()
        with open_overlay(self.path) as overlay:
            return overlay.value(key, self._look)

    def write(self, key: str, value: Any) -> None:
        """Put a whole new value at a key, or nothing (None). The real thing sees it at the commit.

        Raises:
            TypeError: The value is not JSON-able.
            EnvironmentUnusableError: The fork was discarded or committed.
        """
        self._require()
        with open_overlay(self.path) as overlay:
            overlay.write(key, value, self._look)

    def diff(self) -> tuple[Change, ...]:
        """Every key whose value is to be another than the one that was seen; does not ask the real thing.

        Raises:
            EnvironmentUnusableError: The fork was discarded or committed.
        """
        self._require()
        with open_overlay(self.path) as overlay:
            return tuple(_change(self._environment.name, key, *sides) for key, sides in overlay.changes().items())

    def seal(self) -> Sealed | None:
        """Make the journal durable and say how to apply it; None where it changed nothing. For `commit` alone.

        Raises:
            EnvironmentUnusableError: The fork was discarded or committed.
        """
        self._require()
        with open_overlay(self.path) as overlay:
            changes, seen = overlay.changes(), overlay.seen()
        if not changes:
            return None
        self._flush()
        return Sealed(
            kind="journal",
            target=str(self._environment.path),
            fork=str(self._folder),
            staged=str(self.path),
            base=_digest(seen),
            mark=_digest(changes),
            kept=self._kept(),
        )

    def _look(self, key: str) -> tuple[Any, str]:
        found = self._environment.target.read(key)
        return found.value, found.version

    def _copy(self, path: Path) -> None:
        try:
            with contextlib.closing(pages.open_database(self.path)) as connection:
                pages.copy_database(connection, path)
        except sqlite3.Error as error:
            raise EnvironmentUnusableError(f"{self.path} cannot be copied ({error}): check the disk") from error

    def _flush(self) -> None:
        sync_path(self.path)
        sync_path(self.path.parent)


class JournalEnvironment(StagedEnvironment):
    """A real thing that cannot be copied. Opening it finishes an interrupted commit and sweeps stale forks.

    Args:
        target: The real thing.
        path: What the files of its forks are named after, in an existing directory; nothing is made at the path
            itself. All processes that commit to the real thing give the same path: it is what they lock.
        name: What tools call it.

    Raises:
        EnvironmentUnusableError: The directory is not there.
        EnvironmentConflictError: Somebody changed a target of an interrupted commit; a person has to decide.
        Exception: What the target raised when an interrupted commit was to be finished.
    """

    def __init__(self, target: JournalTarget, path: Path | str, name: str = "journal") -> None:
        self.name = name
        self.path: Path = Path(path).resolve()
        self.target = target
        self.mechanism: Mechanism = Replay(target)
        if not self.path.parent.is_dir():
            raise EnvironmentUnusableError(f"{self.path.parent} does not exist: create it, or give another path")
        self.recover()

    def fork(self) -> JournalFork:
        """A fresh journal for one rollout, once a commit that broke off is finished.

        Raises:
            EnvironmentUnusableError: The directory is gone or cannot be written.
            EnvironmentConflictError: A commit broke off and cannot be finished; a person has to decide.
        """
        if commit_record.read_pointer(self.path):
            self.recover()
        with new_folder(self.path) as folder:
            fork = JournalFork(self, folder)
            make_overlay(fork.path)
            write_base(folder, None)
            return fork

    def reopen(self, reference: str) -> JournalFork:
        """The fork that another process (or this one) made, by its reference.

        Raises:
            EnvironmentUnusableError: There is no such fork: it was discarded or committed.
        """
        return JournalFork(self, reopened_folder(self.path, reference))


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _change(target: str, key: str, before: Any, after: Any) -> Change:
    what: ChangeWhat = "created" if before is None else "deleted" if after is None else "changed"
    texts = [
        None if side is None else json.dumps(side, indent=1, sort_keys=True, ensure_ascii=False)
        for side in (before, after)
    ]
    return Change(
        target=target,
        kind="entry",
        subject=printable(key),
        what=what,
        text=value_difference(*texts),
        digest=_digest(after),
    )
