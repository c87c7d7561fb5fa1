"""A process that dies right after one of the steps that outlive it: between two of them nothing is safe by luck."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any

_ALONE = threading.Lock()
"""Of this process: one that is shared would stay locked when a process dies."""


@dataclass
class Steps:
    """Counts what a process has made durable.

    Attributes:
        taken: How many steps, seen by the process that started this one.
        last: After this step it dies; 0 for never.
    """

    taken: Any
    last: int = 0

    def count(self, target: Any, names: Sequence[str]) -> None:
        """Count calls of these methods, of an object or of a class, asynchronous ones in the former only."""
        for name in names:
            method = getattr(target, name)
            setattr(target, name, self._awaited(method) if not isinstance(target, type) else self._called(method))

    def _awaited(self, method: Any) -> Any:
        @wraps(method)
        async def counted(*args: Any, **kwargs: Any) -> Any:
            result = await method(*args, **kwargs)
            self._take()
            return result

        return counted

    def _called(self, method: Any) -> Any:
        @wraps(method)
        def counted(*args: Any, **kwargs: Any) -> Any:
            result = method(*args, **kwargs)
            self._take()
            return result

        return counted

    def _take(self) -> None:
        with _ALONE:
            self.taken.value += 1
            if self.taken.value == self.last:
                os.kill(os.getpid(), signal.SIGKILL)
