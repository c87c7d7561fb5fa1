"""The folder beside a target that holds its forks, its locks and the traces of a commit under way.

    .entcent-<name of the target>/
      lock                     held shared while forking, exclusively while committing, sweeping or discarding
      pointer.json             a commit is under way: its record's path and its targets
      commit-<id>.json         that record, beside one of its targets; while it exists, the commit is decided
      forks/<id>/              one fork: owner.json, base.json, staged/<name of the target>, kept, applied
      committed/<id>           receipt for a kept fork

The folder goes when nothing is left in it. Owners are processes of one machine; share a target between machines and
their forks are taken for dead ones.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING

from entcent_agents.environments.durable import sync_path
from entcent_agents.errors import EnvironmentUnusableError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

KEPT_SECONDS = 7 * 24 * 3600.0  # how long kept forks and receipts outlive the process that left them
BASE = "base.json"  # what the target was like when it was forked; a fork without this is no fork
_KEPT = "kept"


class Staging:
    """The staging folder of one target.

    Args:
        target: Absolute, resolved path of the target.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path: Path = target.parent / f".entcent-{target.name}"
        self.pointer: Path = self.path / "pointer.json"
        self.forks: Path = self.path / "forks"
        self.receipts: Path = self.path / "committed"

    def exists(self) -> bool:
        """Whether there is anything to recover or to sweep."""
        return self.path.is_dir()

    @contextlib.contextmanager
    def lock(self, *, shared: bool = False) -> Generator[None, None, None]:
        """Hold the target's lock, waiting for it. Not reentrant. Leaving the exclusive one tidies up.

        Raises:
            EnvironmentUnusableError: The folder cannot be made.
        """
        descriptor = self._locked_descriptor(fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        try:
            yield
        finally:
            try:
                if not shared:
                    self._tidy()
            finally:
                os.close(descriptor)

    def _locked_descriptor(self, operation: int) -> int:
        path = self.path / "lock"
        while True:
            try:
                self.path.mkdir(mode=0o700, exist_ok=True)
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except (FileNotFoundError, FileExistsError) as error:
                # Another process tidied the folder away between the two calls, or inside the first of them.
                if self.target.parent.is_dir() and (not self.path.exists() or self.path.is_dir()):
                    continue
                if isinstance(error, FileExistsError):
                    raise EnvironmentUnusableError(f"{self.path} is no folder: move it away") from None
                raise EnvironmentUnusableError(f"{self.target.parent} does not exist: create it first") from None
            except OSError as error:
                raise EnvironmentUnusableError(
                    f"cannot stage beside {self.target} ({error.strerror}): make {self.target.parent} writable"
                ) from error
            fcntl.flock(descriptor, operation)
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_ino == os.fstat(descriptor).st_ino:
                    return descriptor
            os.close(descriptor)  # that lock file is no longer the one others see

    def _tidy(self) -> None:
        for folder in (self.forks, self.receipts):
            with contextlib.suppress(OSError):
                folder.rmdir()
        if [entry.name for entry in self.path.iterdir()] == ["lock"]:
            (self.path / "lock").unlink()
            with contextlib.suppress(OSError):  # someone is waiting in it for the next lock file
                self.path.rmdir()

    def new_fork(self) -> Path:
        """Make a fork's folder, owned by this process. Call it with the lock held."""
        folder = self.forks / secrets.token_hex(8)
        (folder / "staged").mkdir(parents=True, mode=0o700)
        self.own(folder)
        return folder

    def own(self, folder: Path) -> None:
        """Say that a fork belongs to this process."""
        (folder / "owner.json").write_text(json.dumps({"pid": os.getpid(), "started": _started(os.getpid())}))

    def staged(self, folder: Path) -> Path:
        """Where a fork's staged copy lies."""
        return folder / "staged" / self.target.name

    def folder(self, reference: str) -> Path:
        """The folder that a fork's reference names.

        Raises:
            EnvironmentUnusableError: It is not a reference to a fork of this target.
        """
        folder = Path(reference)
        if folder.parent != self.forks:
            raise EnvironmentUnusableError(f"{reference} is not a fork of {self.target}: pass one of its references")
        return folder

    def keep(self, folder: Path) -> None:
        """Exempt a fork, whose staged copy is durable, from sweeping for `KEPT_SECONDS`, after a power cut too."""
        (folder / _KEPT).touch()
        for path in (folder / BASE, folder, self.forks, self.path, self.path.parent):
            sync_path(path)

    def is_committed(self, folder: Path) -> bool:
        """Whether there is a receipt: the commit of this fork, which was kept, is done."""
        return (self.receipts / folder.name).exists()

    def retire(self, folder: Path) -> None:
        """Remove a committed fork, with a receipt for those who kept it. Call it with the exclusive lock held."""
        if is_kept(folder):
            self.write_receipt(folder)
        remove_fork(folder)

    def write_receipt(self, folder: Path) -> None:
        """Leave word that a kept fork was committed."""
        self.receipts.mkdir(exist_ok=True)
        (self.receipts / folder.name).touch()
        sync_path(self.receipts)
        sync_path(self.path)

    def sweep(self) -> None:
        """Remove what dead processes left. Call it with the exclusive lock held and no commit to finish."""
        for folder in _entries(self.forks):
            if self.is_committed(folder) or not (_is_owned(folder) or _is_fresh(folder / _KEPT)):
                remove_fork(folder)
        for receipt in _entries(self.receipts):
            if not _is_fresh(receipt):
                receipt.unlink(missing_ok=True)
        for leftover in (*self.path.glob("image-*"), *self.path.glob("*.new")):
            remove_tree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)


@contextlib.contextmanager
def all_locks(targets: Iterable[Path]) -> Generator[None, None, None]:
    """Hold the exclusive locks of several targets, taken in sorted order so that no two holders wait for each other."""
    with contextlib.ExitStack() as stack:
        for target in sorted(set(targets)):
            stack.enter_context(Staging(target).lock())
        yield


def is_kept(folder: Path) -> bool:
    """Whether a fork was to outlive the process that made it."""
    return (folder / _KEPT).exists()


def remove_fork(folder: Path) -> None:
    """Remove a fork; one whose removal a kill cuts off is swept, kept or not, and cannot be reopened."""
    (folder / _KEPT).unlink(missing_ok=True)
    (folder / BASE).unlink(missing_ok=True)
    remove_tree(folder)


def remove_tree(folder: Path) -> None:
    """Remove a folder with everything in it; not there is fine.

    What lies deep is moved up first: a tool can make trees that are too deep for a recursion, and for paths. What is
    protected from writing is made writable.
    """
    if not folder.is_dir():
        return
    found = [folder]
    for place in found:  # grows meanwhile
        with contextlib.suppress(FileNotFoundError):  # a tool's thread that was not stopped removes things too
            found += _emptied(place, folder)
    for place in reversed(found):
        with contextlib.suppress(FileNotFoundError):
            place.rmdir()


def _emptied(place: Path, top: Path) -> list[Path]:
    """Remove the files in a folder, and move its folders to the top; returns where they are then."""
    place.chmod(0o700)
    folders: list[Path] = []
    with os.scandir(place) as items:
        for item in list(items):
            path = Path(item.path)
            if not item.is_dir(follow_symlinks=False):
                path.unlink(missing_ok=True)
            elif place == top:
                folders.append(path)
            else:
                path.chmod(0o700)  # a folder that is not writable cannot be moved
                folders.append(path.rename(top / secrets.token_hex(16)))
    return folders


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []


def _is_fresh(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime < KEPT_SECONDS
    except FileNotFoundError:
        return False


def _is_owned(folder: Path) -> bool:
    """Whether the process that made the fork lives; a folder without a readable owner is a creation cut short."""
    try:
        owner = json.loads((folder / "owner.json").read_text())
        pid, started = int(owner["pid"]), owner["started"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it lives, and belongs to another user
    return started == _started(pid)


def _started(pid: int) -> str:
    """When a process started, as an opaque text (boot and ticks since): process ids come round again."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return "unknown"
    return f"{boot} {ticks}"
