"""Making the writes of a journal on the real thing, one after the other, each once.

Nothing here is atomic: what can be had is that nobody's change is overwritten unseen, and that no write is made twice.
Before the first write, everything that the rollout saw is compared; then the intent is noted. Before each write its
key is looked at, and after it the new version is noted. Where a process died between the two, the key tells: its
expected version means that the write was not made, its new value that it was, and anything else is for a person.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from entcent_agents.environments.overlay import Overlay, Write, open_overlay
from entcent_agents.errors import EnvironmentConflictError, EnvironmentFault

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from entcent_agents.environments.journal import JournalTarget
    from entcent_agents.environments.protocol import Sealed, State


class Replay:
    """Applies journals to one real thing.

    Args:
        target: The real thing.
    """

    def __init__(self, target: JournalTarget) -> None:
        self._target = target

    def state(self, sealed: Sealed) -> State:
        """Where the real thing stands; asks it."""
        with open_overlay(Path(sealed.staged)) as overlay:
            writes, done = overlay.writes(), overlay.done()
            if done == len(writes):
                return "after"
            following, versions = writes[done], overlay.versions()
            if overlay.begun and self._made(following, versions) is not None:
                return "partly"
            if done:
                return "partly" if self._awaits(following, versions) else "other"
            return "before" if all(self._version(key) == seen for key, seen in versions.items()) else "other"

    def replace(self, sealed: Sealed, then: Callable[[], None]) -> None:
        """Compare what was seen, call `then`, and make the writes that are not made yet.

        Raises:
            EnvironmentConflictError: Something that was seen changed; no write was made.
            EnvironmentFault: Somebody changed a key between two writes; those before it are made.
            Exception: What the target raised; the next attempt finds out whether the write was made.
        """
        if self.state(sealed) == "other":
            raise EnvironmentConflictError(
                f"{sealed.target} changed since it was forked: nothing was committed; run again on what is there now"
            )
        then()
        with open_overlay(Path(sealed.staged), durable=True) as overlay:
            in_doubt = overlay.begun
            overlay.begin()
            versions = overlay.versions()
            for write in overlay.writes()[overlay.done() :]:
                made = self._made(write, versions) if in_doubt else None
                versions[write.key] = made or self._make(write, overlay, versions)
                overlay.mark(write.number, versions[write.key])

    def _make(self, write: Write, overlay: Overlay, versions: Mapping[str, str]) -> str:
        """Make one write; returns the version that it led to."""
        try:
            if not self._awaits(write, versions):
                raise EnvironmentConflictError(f"{write.key!r} was changed by somebody else during the commit")
            return self._target.write(write.key, write.value, versions[write.key])
        except EnvironmentConflictError as conflict:
            if done := overlay.done():
                raise EnvironmentFault(
                    f"{conflict}: the commit stopped after {done} of {len(overlay.writes())} writes; put the key right "
                    "and open the environment again, which says how"
                ) from conflict
            overlay.take_back()
            raise

    def _made(self, write: Write, versions: Mapping[str, str]) -> str | None:
        """The version that a write led to which nobody noted; None where it was not made."""
        found = self._target.read(write.key)
        return found.version if found.version != versions[write.key] and found.value == write.value else None

    def _awaits(self, write: Write, versions: Mapping[str, str]) -> bool:
        return self._version(write.key) == versions[write.key]

    def _version(self, key: str) -> str:
        return self._target.read(key).version
