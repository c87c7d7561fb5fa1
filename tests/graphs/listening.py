"""Servers in processes of their own: where they may listen, and when they do."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path

_START_SECONDS = 300.0


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def wait_until_it_listens(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Wait for a process to listen; its log is shown if it does not."""
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError(f"{process.args} did not start:\n{log.read_text()[-3000:]}")
