"""What forks of every kind of target share: a folder in the staging folder, and its life."""

from __future__ import annotations

import contextlib
import json
import shutil
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from entcent_agents.environments import commit_record
from entcent_agents.environments.staging import BASE, Staging, is_kept
from entcent_agents.errors import EnvironmentUnusableError

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from entcent_agents.environments.protocol import Change, Mechanism, Sealed

E = TypeVar("E", bound="StagedEnvironment")


class StagedFork(Generic[E]):
    """A fork that is a staged copy beside its target.

    Args:
        environment: What it is a copy of.
        folder: The fork's folder.
    """

    def __init__(self, environment: E, folder: Path) -> None:
        self._environment = environment
        self._folder = folder
        self._staging = Staging(environment.path)
        self._path = self._staging.staged(folder)

    @property
    def environment(self) -> E:
        """What this is a copy of."""
        return self._environment

    @property
    def path(self) -> Path:
        """The staged copy."""
        return self._path

    @property
    def reference(self) -> str:
        """Durable handle for `reopen`."""
        return str(self._folder)

    def fork(self) -> Self:
        """A copy of this fork as it is now, on its own from here on; see `Fork.fork`.

        Raises:
            EnvironmentUnusableError: The fork was discarded or committed, is being written, or cannot be copied.
        """
        with new_folder(self._environment.path) as folder:
            self._require()
            copy = type(self)(self._environment, folder)
            self._copy(copy.path)
            shutil.copyfile(self._folder / BASE, folder / BASE)
            return copy

    def keep(self) -> None:
        """Let the fork outlive this process, for another that reopens it by its reference; see `Fork.keep`.

        Raises:
            EnvironmentUnusableError: The fork was discarded or committed, or is being written.
        """
        self._require()
        self._flush()
        self._staging.keep(self._folder)

    def discard(self) -> None:
        """Remove the copy and everything about it. Does nothing the second time."""
        commit_record.discard(self._environment.path, self._folder)

    def diff(self) -> tuple[Change, ...]:
        """What the rollout changed; see `Fork.diff`."""
        raise NotImplementedError

    def seal(self) -> Sealed | None:
        """Make the copy durable and say how to apply it; None where it changed nothing. For `commit` alone.

        Raises:
            EnvironmentUnusableError: The fork was discarded or committed.
        """
        raise NotImplementedError

    def _copy(self, path: Path) -> None:
        """Copy the staged copy, in a moment when nobody writes it, to a path that is not there yet."""
        raise NotImplementedError

    def _flush(self) -> None:
        """Make the staged copy durable."""
        raise NotImplementedError

    def _kept(self) -> bool:
        return is_kept(self._folder)

    def _require(self) -> None:
        if not self._path.exists():
            raise EnvironmentUnusableError(
                f"the fork {self._folder.name} of {self._environment.path} was discarded or committed: make a new one"
            )

    def _base(self) -> Any:
        return json.loads((self._folder / BASE).read_text())


class StagedEnvironment:
    """What environments share whose forks are staged beside their target.

    Attributes:
        name: What tools call it.
        path: Absolute path of the target; it says where forks are staged and whose lock a commit takes.
        mechanism: Makes sealed forks real.
    """

    name: str
    path: Path
    mechanism: Mechanism

    def fork(self) -> StagedFork[Any]:
        """An isolated copy; see `Environment.fork`."""
        raise NotImplementedError

    def reopen(self, reference: str) -> StagedFork[Any]:
        """A fork made earlier; see `Environment.reopen`."""
        raise NotImplementedError

    def committed(self, reference: str) -> bool:
        """Whether the kept fork of this reference was committed, within the last week."""
        staging = Staging(self.path)
        return staging.is_committed(staging.folder(reference))

    def recover(self) -> None:
        """Finish a commit that a crash interrupted, and sweep the forks of dead processes.

        Raises:
            EnvironmentConflictError: Somebody else changed the target after the crash; a person has to decide.
        """
        commit_record.recover(self.path, {self.path: self.mechanism})


@contextlib.contextmanager
def new_folder(target: Path) -> Generator[Path, None, None]:
    """A folder for a new fork, with the target's shared lock held while it is filled; gone again on an error.

    Raises:
        EnvironmentUnusableError: The staging folder cannot be made.
    """
    staging = Staging(target)
    folder = None
    try:
        with staging.lock(shared=True):
            folder = staging.new_fork()
            yield folder
    except BaseException:
        if folder is not None:
            commit_record.discard(target, folder)
        raise


def write_base(folder: Path, base: object) -> None:
    """Note what the target was like when it was forked; now the fork is one."""
    (folder / BASE).write_text(json.dumps(base))


def reopened_folder(target: Path, reference: str) -> Path:
    """The folder of a fork made earlier, owned by this process from now on.

    Raises:
        EnvironmentUnusableError: There is no such fork.
    """
    staging = Staging(target)
    folder = staging.folder(reference)
    with staging.lock(shared=True):
        if staging.is_committed(folder) or not (folder / BASE).exists():
            raise EnvironmentUnusableError(f"{reference} was discarded or committed: make a new fork of {target}")
        staging.own(folder)
    return folder
