"""Adding lines to a file that several processes add to."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path


def append_lines(path: Path, lines: Sequence[str]) -> bool:
    """Add whole lines at the end of a file: all of them next to each other, or none.

    What a crash or a full disk left of a line that another process wrote is ended first, so that it spoils no other.

    Args:
        path: The file; made where it is not there, for its owner alone.
        lines: Without their ends.

    Returns:
        Whether there was nothing in the file before.

    Raises:
        OSError: It cannot be written.
    """
    data = "".join(f"{line}\n" for line in lines).encode()
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        with _locked(descriptor):
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):  # a pipe or a terminal keeps nothing
                _write(descriptor, data)
                return False
            end = status.st_size
            broken = end > 0 and os.pread(descriptor, 1, end - 1) != b"\n"
            try:
                _write(descriptor, b"\n" + data if broken else data)
            except OSError:
                os.ftruncate(descriptor, end)
                raise
            return end == 0
    finally:
        os.close(descriptor)


def _write(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]


@contextmanager
def _locked(descriptor: int) -> Generator[None]:
    """Alone with the file; closing it lets go of the lock."""
    if sys.platform != "win32":
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX)
    yield
