"""Writing that survives a crash, and swapping two directories in one step."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
# What the kernel, the C library's emulation or the file system answer where the exchange does not exist.
_NO_EXCHANGE = frozenset({errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM})


def sync_path(path: Path) -> None:
    """Flush one file or directory to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(root: Path) -> None:
    """Flush every file and directory below `root` to the disk."""
    syncfs = _c_function("syncfs")
    if syncfs is not None:  # one call for thousands of files, where one flush a file would take seconds
        descriptor = os.open(root, os.O_RDONLY)
        try:
            if syncfs(descriptor) == 0:
                return
        finally:
            os.close(descriptor)
    for folder, _, files in os.walk(root):
        for path in (Path(folder, name) for name in files):
            if not path.is_symlink():
                sync_path(path)
        sync_path(Path(folder))


def write_durably(path: Path, text: str) -> None:
    """Write a whole text file so that a crash leaves the old one or the new one, and the new one on return."""
    temporary = path.with_name(f"{path.name}.new")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_path(path.parent)


def remove_durably(path: Path) -> None:
    """Remove a file, if it is there, so that it stays removed after a crash."""
    path.unlink(missing_ok=True)
    sync_path(path.parent)


def exchange(first: Path, second: Path) -> bool:
    """Swap two paths in one atomic step.

    Returns:
        False, with nothing done, where the system or the file system has no such step.

    Raises:
        OSError: The step exists and failed.
    """
    renameat2 = _c_function("renameat2")
    if renameat2 is None:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), ctypes.c_uint(_RENAME_EXCHANGE)) == 0:
        return True
    code = ctypes.get_errno()
    if code in _NO_EXCHANGE:
        return False
    raise OSError(code, os.strerror(code), str(first), None, str(second))


def _c_function(name: str) -> Callable[..., int] | None:
    try:
        return getattr(ctypes.CDLL(None, use_errno=True), name, None)
    except (OSError, TypeError):
        return None
