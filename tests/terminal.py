"""A terminal of its own for a process: what it shows can be waited for, and answers typed."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Final, Self

_STEERING: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """Runs a command with a pseudo-terminal for standard input and standard error; standard output is a pipe.

    Args:
        command: What to run.
        cwd: Where.
        env: Its environment.
    """

    def __init__(self, command: Sequence[str], cwd: os.PathLike[str], env: Mapping[str, str]) -> None:
        self._ours, theirs = pty.openpty()
        self._process = subprocess.Popen(
            command, cwd=cwd, env=env, stdin=theirs, stderr=theirs, stdout=subprocess.PIPE, text=True
        )
        os.close(theirs)
        self._raw = ""
        self._read = 0

    @property
    def shown(self) -> str:
        """All that was shown so far, without colours and movements of the cursor."""
        return _STEERING.sub("", self._raw)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        os.close(self._ours)

    def answer(self, prompt: str, line: str) -> None:
        """Wait until this is shown, after what was waited for before, and type a line."""
        self.wait_for(prompt)
        os.write(self._ours, f"{line}\n".encode())

    def interrupt(self, prompt: str) -> None:
        """Wait until this is shown, and press Ctrl-C.

        A hand is slower than a test: Python misses a signal that comes just between its last look and the call that
        waits for a line, and would take the next one.
        """
        self.wait_for(prompt)
        time.sleep(0.5)
        self._process.send_signal(signal.SIGINT)

    def wait_for(self, words: str, seconds: float = 60.0) -> None:
        until = time.monotonic() + seconds
        while words not in self.shown[self._read :]:
            assert time.monotonic() < until and self._take(), f"{words!r} was not shown, but: {self.shown}"
        self._read = self.shown.index(words, self._read) + len(words)

    def end(self, seconds: float = 60.0) -> tuple[int, str]:
        """Its exit code and standard output."""
        until = time.monotonic() + seconds
        while self._take():
            assert time.monotonic() < until, f"it does not end, but shows: {self.shown}"
        assert self._process.stdout is not None
        output = self._process.stdout.read()
        return self._process.wait(10), output

    def _take(self) -> bool:
        """Read what is there; whether the terminal is still open."""
        if not select.select([self._ours], [], [], 0.5)[0]:
            return True
        try:
            data = os.read(self._ours, 65536)
        except OSError:  # Linux says so where the other side is closed
            return False
        self._raw += data.decode(errors="replace").replace("\r\n", "\n")
        return bool(data)
