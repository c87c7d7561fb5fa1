"""A directory as an environment."""

from __future__ import annotations

import os
from hashlib import blake2b
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from entcent_agents.environments import tree
from entcent_agents.environments.diff import Content, content_of, file_difference, printable
from entcent_agents.environments.durable import sync_tree
from entcent_agents.environments.forks import StagedEnvironment, StagedFork, new_folder, reopened_folder, write_base
from entcent_agents.environments.protocol import Change, Mechanism, Sealed
from entcent_agents.errors import EnvironmentConflictError, EnvironmentUnusableError, PathEscapeError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from entcent_agents.environments.protocol import ChangeWhat


class DirectoryFork(StagedFork["DirectoryEnvironment"]):
    """A rollout's own copy of a directory. Tools find their files through `resolve`."""

    def resolve(self, relative: str | Path) -> Path:
        """The path in the fork that a tool's argument names; it need not exist.

        Raises:
            PathEscapeError: It is absolute, climbs with `..`, or leads through a link out of the workspace.
            EnvironmentUnusableError: The fork was discarded or committed.
        """
        self._require()
        path = PurePosixPath(relative)
        if "\0" in str(relative):
            raise PathEscapeError(f"{str(relative)!r} holds a zero byte: give a path relative to the workspace")
        if path.is_absolute():
            raise PathEscapeError(f"{relative} is absolute: give a path relative to the workspace")
        if ".." in path.parts:
            raise PathEscapeError(f"{relative} climbs with '..': give a path inside the workspace")
        found = self.path / path
        try:
            real = found.resolve()
        except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
            raise PathEscapeError(f"{relative} cannot be followed ({error}): give another path") from error
        if not real.is_relative_to(self.path.resolve()):
            raise PathEscapeError(f"{relative} leads through a link out of the workspace: give a path inside it")
        return found

    def diff(self) -> tuple[Change, ...]:
        """Every file, link, empty directory and mode that differs.

        Raises:
            EnvironmentConflictError: The directory changed since the fork, so that there is nothing to compare with.
            EnvironmentUnusableError: The fork was discarded or committed, or holds what cannot be read or committed.
        """
        self._require()
        base: dict[str, str] = self._base()
        target = self._environment.path
        with self._staging.lock(shared=True):
            if tree.manifest(target) != base:
                raise EnvironmentConflictError(
                    f"{target} changed since it was forked: take the difference before another fork is committed"
                )
            with tree.readable():
                return tuple(self._changes(base, tree.manifest(self.path)))

    def seal(self) -> Sealed | None:
        """Make the copy durable and say how to apply it; None where it changed nothing. For `commit` alone.

        Raises:
            EnvironmentUnusableError: The fork was discarded or committed.
        """
        self._require()
        base: dict[str, str] = self._base()
        if tree.manifest(self.path) == base:
            return None
        self._flush()
        return Sealed(
            kind="directory",
            target=str(self._environment.path),
            fork=str(self._folder),
            staged=str(self.path),
            base=tree.digest(base),
            mark=tree.mark(self.path),
            kept=self._kept(),
        )

    def _copy(self, path: Path) -> None:
        tree.copy(self.path, path)

    def _flush(self) -> None:
        sync_tree(self.path.parent)

    def _changes(self, before: Mapping[str, str], after: Mapping[str, str]) -> list[Change]:
        changes: list[Change] = []
        filled = {path.rpartition("/")[0] for entries in (before, after) for path in entries}
        for path in sorted({*before, *after}):
            old, new = before.get(path), after.get(path)
            if old == new or ((old is None or new is None) and path in filled):
                continue  # what is inside shows that it came or went
            what: ChangeWhat = "created" if old is None else "deleted" if new is None else "changed"
            sides = (_content(self._environment.path / path, old), _content(self.path / path, new))
            text = _difference(printable(path), old, new, sides)
            if text:
                outcome = blake2b(f"{_nature(new)}\0".encode("utf-8", "surrogateescape"), digest_size=16)
                outcome.update(sides[1].digest if sides[1] else b"")
                changes.append(
                    Change(
                        target=self._environment.name,
                        kind="file",
                        subject=printable(path),
                        what=what,
                        text=text,
                        digest=outcome.hexdigest(),
                    )
                )
        return changes


class DirectoryEnvironment(StagedEnvironment):
    """A directory that rollouts fork. Opening it finishes an interrupted commit and sweeps stale forks.

    A commit puts another directory in this one's place: processes that have it, or one below it, as their working
    directory must enter it again.

    Args:
        path: The directory; it must exist, in a directory that can be written, on the same file system.
        name: What tools call it.

    Raises:
        EnvironmentUnusableError: No such directory, a mount point, or its parent cannot be written.
        EnvironmentConflictError: Somebody changed a target of an interrupted commit; a person has to decide.

    Example:
        >>> from pathlib import Path
        >>> from entcent_agents import DirectoryEnvironment
        >>> Path("notes").mkdir()
        >>> fork = DirectoryEnvironment("notes").fork()
        >>> written = fork.resolve("penguins.md").write_text("Gentoo")
        >>> [(change.subject, change.what) for change in fork.diff()], list(Path("notes").iterdir())
        ([('penguins.md', 'created')], [])
        >>> fork.discard()
    """

    mechanism: Mechanism = tree

    def __init__(self, path: Path | str, name: str = "workspace") -> None:
        self.name = name
        self.path: Path = Path(path).resolve()
        parent = self.path.parent
        if not parent.is_dir():
            raise EnvironmentUnusableError(f"{parent} does not exist: create it, and the workspace in it")
        if not os.access(parent, os.W_OK):
            raise EnvironmentUnusableError(f"cannot stage beside {self.path}: make {parent} writable")
        self.recover()  # first, because an interrupted commit may have moved the directory away for a moment
        if not self.path.exists():
            raise EnvironmentUnusableError(f"{self.path} does not exist: create it with  mkdir {self.path}")
        if not self.path.is_dir():
            raise EnvironmentUnusableError(f"{self.path} is not a directory: pass the directory that holds it")
        if self.path.is_mount():
            raise EnvironmentUnusableError(
                f"{self.path} is a mount point and cannot be replaced: use a directory in it"
            )

    def fork(self) -> DirectoryFork:
        """A copy of the directory for one rollout, links and permissions kept.

        Raises:
            EnvironmentUnusableError: The directory is gone, changes all the time, or holds what cannot be copied.
        """
        with new_folder(self.path) as folder:
            fork = DirectoryFork(self, folder)
            write_base(folder, tree.copy(self.path, fork.path))
            return fork

    def reopen(self, reference: str) -> DirectoryFork:
        """The fork that another process (or this one) made, by its reference.

        Raises:
            EnvironmentUnusableError: There is no such fork: it was discarded or committed.
        """
        return DirectoryFork(self, reopened_folder(self.path, reference))


def _difference(path: str, old: str | None, new: str | None, sides: tuple[Content | None, Content | None]) -> str:
    """Text of one difference; empty where only the time of change differs."""
    lines: list[str] = []
    if _nature(old) != _nature(new) and not (old is None or new is None):
        lines = [f"-{printable(_nature(old))}", f"+{printable(_nature(new))}"]
    elif sides == (None, None):
        lines = [f"{sign}{printable(_nature(entry))}" for sign, entry in (("-", old), ("+", new)) if entry]
    if sides[0] != sides[1]:
        lines.append(file_difference(path, *sides) or "(empty file)")
    return "\n".join(lines)


def _nature(entry: str | None) -> str:
    """A manifest entry without what a rewritten file changes: "file 644", "directory 755", "link target"."""
    if entry is None:
        return ""
    return " ".join(entry.split(" ")[:2]) if entry.startswith("file ") else entry


def _content(path: Path, entry: str | None) -> Content | None:
    return content_of(path) if entry is not None and entry.startswith("file ") else None
