"""Directory trees: what is in one, whether it changed, and putting a staged one in the target's place."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from entcent_agents.environments.durable import exchange, sync_path
from entcent_agents.environments.staging import remove_tree
from entcent_agents.errors import EnvironmentConflictError, EnvironmentUnusableError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from entcent_agents.environments.protocol import Sealed

DEEPEST = 200  # directories in one another; Python copies and walks by recursion, and paths have an end
_COPY_ATTEMPTS = 3
_BYTES_A_CALL = 1 << 30
_CREATED = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK  # it was a file a moment ago: follow no link, wait at no pipe


def manifest(root: Path) -> dict[str, str]:
    """Every path below `root` (relative, itself as ".") with type, mode, size and time of change, as one text each.

    Raises:
        EnvironmentUnusableError: There is something that cannot be copied (a socket, a pipe, a device, what is not
            readable, directories that are too deep).
        FileNotFoundError: The tree changed under the walk, or is not there.
    """
    entries = {".": _entry(root)}
    pending = [root]
    with readable():
        while pending:
            with os.scandir(pending.pop()) as found:
                for item in found:
                    path = Path(item.path)
                    relative = path.relative_to(root)
                    if len(relative.parts) > DEEPEST:
                        raise EnvironmentUnusableError(f"{root} has more than {DEEPEST} directories in one another")
                    entries[relative.as_posix()] = _entry(path)
                    if item.is_dir(follow_symlinks=False):
                        pending.append(path)
    return entries


@contextlib.contextmanager
def readable() -> Generator[None, None, None]:
    """Say which path cannot be read, where there is one.

    Raises:
        EnvironmentUnusableError: There is one.
        FileNotFoundError: The tree changed meanwhile.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except PermissionError as error:
        raise EnvironmentUnusableError(f"{error.filename} cannot be read: make it readable") from error
    except OSError as error:
        raise EnvironmentUnusableError(f"{error.filename} cannot be read ({error.strerror}): move it away") from error


def copy(source: Path, path: Path) -> dict[str, str]:
    """Copy a tree, links and permissions kept, in a moment when nobody changes it.

    Returns:
        The manifest of both.

    Raises:
        EnvironmentUnusableError: It is gone, changes all the time, or holds what cannot be copied.
    """
    fault = f"{source} kept changing while it was copied: stop what writes to it"
    for _ in range(_COPY_ATTEMPTS):
        try:
            before = manifest(source)
            shutil.copytree(source, path, symlinks=True, copy_function=_copy_file)
            if before == manifest(source) == manifest(path):
                return before
        except PermissionError as error:  # copytree's own, of a directory
            raise EnvironmentUnusableError(f"{error.filename} cannot be read: make it readable") from error
        except (FileNotFoundError, shutil.Error) as error:
            if not source.is_dir():
                raise EnvironmentUnusableError(f"{source} does not exist any more: create it again") from error
            if isinstance(error, shutil.Error):  # with a triple for each file: from, to, why
                fault = f"{source} cannot be copied ({error.args[0][0][2]}): look at that file, and at the disk"
        remove_tree(path)
    raise EnvironmentUnusableError(fault)


def digest(entries: Mapping[str, str]) -> str:
    """SHA-256 of a manifest."""
    lines = "\n".join(f"{path}\0{entry}" for path, entry in sorted(entries.items()))
    return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()


def mark(root: Path) -> str:
    """What stays with a tree when it is renamed: its inode. Device numbers are left out: they change on reboot."""
    return str(root.stat().st_ino)


def state(sealed: Sealed) -> Literal["before", "after", "other"]:
    """Where the target stands: as it was when forked, as it will be, or changed by somebody else."""
    target = Path(sealed.target)
    if not target.exists():
        return "before" if _previous(sealed).exists() else "other"
    if mark(target) == sealed.mark:
        return "after"
    return "before" if digest(manifest(target)) == sealed.base else "other"


def replace(sealed: Sealed, then: Callable[[], None]) -> None:
    """Check the target against its base, call `then`, and put the staged tree in the target's place.

    Raises:
        EnvironmentConflictError: The target is not what was forked; nothing was done.
        OSError: The file system refuses the exchange.
    """
    target, staged, previous = Path(sealed.target), Path(sealed.staged), _previous(sealed)
    if state(sealed) != "before":
        raise EnvironmentConflictError(
            f"{target} changed since it was forked: nothing was committed; run again on the directory as it is now"
        )
    then()
    if not target.exists():  # an earlier attempt stopped between the two renames below
        staged.rename(target)
    elif not exchange(staged, target):
        target.rename(previous)
        try:
            staged.rename(target)
        except OSError:
            previous.rename(target)
            raise
    sync_path(target.parent)
    sync_path(staged.parent)


def _previous(sealed: Sealed) -> Path:
    return Path(sealed.fork) / "previous"


def _copy_file(source: str, target: str) -> None:
    """Copy a file with its mode and times; the copy shares its blocks until one side writes, where that is possible."""
    try:
        with _descriptor(source, _READ) as original, _descriptor(target, _CREATED) as copied:
            while os.copy_file_range(original, copied, _BYTES_A_CALL):
                pass
        shutil.copystat(source, target)
    except (AttributeError, OSError):  # neither every system nor every file system can, and the plain copy says why
        shutil.copy2(source, target, follow_symlinks=False)


@contextlib.contextmanager
def _descriptor(path: str, flags: int) -> Generator[int, None, None]:
    """An open file without the objects around it, which take longer than the copying of a small file."""
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _entry(path: Path) -> str:
    status = path.lstat()
    mode = f"{stat.S_IMODE(status.st_mode):o}"
    if stat.S_ISLNK(status.st_mode):
        return f"link {path.readlink()}"
    if stat.S_ISDIR(status.st_mode):
        return f"directory {mode}"
    if stat.S_ISREG(status.st_mode):
        return f"file {mode} {status.st_size} {status.st_mtime_ns}"
    raise EnvironmentUnusableError(f"{path} is neither a file, a directory nor a link: move it out of the workspace")
