"""What a process holds: taken before and after, it shows what was left behind."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

STAY = ("entcent-forks",)
"""How threads are named that stay as long as the process: eight at most, which remove forks."""


@dataclass(frozen=True, kw_only=True)
class Holdings:
    """Threads, files and processes, each by what tells it from others of its kind."""

    threads: frozenset[str]
    files: frozenset[str]
    children: frozenset[str]

    @classmethod
    def now(cls) -> Holdings:
        """Those of this process."""
        gc.collect()  # what nobody refers to any more is closed
        return cls(
            threads=frozenset(f"{thread.name} {thread.ident}" for thread in threading.enumerate()),
            files=frozenset(_open_files()),
            children=frozenset(f"{child.pid} {child.name()}" for child in psutil.Process().children(recursive=True)),
        )

    def left_since(self, before: Holdings) -> list[str]:
        """What has come to it, a line each that begins with its kind; what may stay is not told."""
        threads = [name for name in self.threads - before.threads if not name.startswith(STAY)]
        return [
            *(f"leftover thread: {name}" for name in sorted(threads)),
            *(f"leftover open file: {name}" for name in sorted(self.files - before.files)),
            *(f"leftover process: {name}" for name in sorted(self.children - before.children)),
        ]


@dataclass(frozen=True, kw_only=True)
class Memory:
    """How much a process holds.

    Attributes:
        done: How many requests are.
        megabytes: Resident, in units of a million bytes.
        objects: Of this library's classes, those that garbage collection knows of.
    """

    done: int
    megabytes: float
    objects: int

    @classmethod
    def now(cls, done: int) -> Memory:
        """That of this process."""
        gc.collect()
        ours = sum(str(type(thing).__module__).startswith("entcent_agents") for thing in gc.get_objects())
        return cls(done=done, megabytes=psutil.Process().memory_info().rss / 1e6, objects=ours)


def _open_files() -> Iterable[str]:
    for entry in Path("/dev/fd").iterdir():
        try:
            target = str(entry.readlink())
        except OSError:  # the descriptor of the listing itself, or a system without links here
            continue
        if not target.startswith("/proc"):  # likewise
            yield f"{entry.name} {target}"
