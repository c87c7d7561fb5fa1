"""The saver that rollouts have where nothing has to outlive the process."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from langgraph.checkpoint.memory import InMemorySaver


class ThreadMemory(InMemorySaver):
    """LangGraph's saver in memory, but for what it takes to forget a thread.

    LangGraph's looks at every key of every thread for that, on the event loop: with hundreds of rollouts under way,
    each of which is forgotten once it is over, that would be most of what a request costs.
    """

    def __init__(self) -> None:
        super().__init__()
        self.writes: Any = _OfThreads(dict)
        self.blobs: Any = _OfThreads()

    def delete_thread(self, thread_id: str) -> None:
        """Delete all checkpoints and writes of a thread."""
        self.storage.pop(thread_id, None)
        for kept in (self.writes, self.blobs):
            assert isinstance(kept, _OfThreads)
            kept.forget(thread_id)


class _OfThreads(defaultdict[Any, Any]):
    """A dict whose keys begin with a thread's id, and which knows the keys of each thread."""

    def __init__(self, default: Any = None) -> None:
        super().__init__(default)
        self._keys: defaultdict[str, set[Any]] = defaultdict(set)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._keys[key[0]].add(key)
        super().__setitem__(key, value)

    def forget(self, thread_id: str) -> None:
        """Remove what was kept of a thread."""
        for key in self._keys.pop(thread_id, ()):
            del self[key]
