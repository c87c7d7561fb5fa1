"""Making forks real, several together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from entcent_agents.environments import journal
from entcent_agents.environments.staging import Staging, all_locks
from entcent_agents.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from entcent_agents.environments.protocol import Fork, Sealed


def _ignore(_step: str) -> None:
    pass


def commit(forks: Sequence[Fork], *, observe: journal.Observer = _ignore) -> None:
    """Make the forks' changes real, all of them or none, whatever happens to this process meanwhile.

    A fork that changed nothing is discarded without a look at its target. On success all forks are gone; on an error
    those that were not applied remain.

    Args:
        forks: At most one of each environment; the rollout must have stopped using them.
        observe: Called with the name of each step once it is done: "sealed", "pointed", "published", "applied
            directory" and "applied sqlite" (for each), "removed".

    Raises:
        ConfigurationError: Two forks of one target.
        EnvironmentConflictError: A target changed since it was forked, or stays locked; nothing was committed.
        EnvironmentUnusableError: A fork was discarded or committed before.
        OSError: The disk is full or refuses a rename. Nothing was committed, or the next opening of any target
            finishes the commit.
    """
    targets = [fork.environment.path for fork in forks]
    twice = next((target for target in targets if targets.count(target) > 1), None)
    if twice is not None:
        raise ConfigurationError(f"two forks of {twice} cannot both be committed: pass one fork of each environment")
    _seal_and_apply(forks, targets, observe)


def _seal_and_apply(forks: Sequence[Fork], targets: Sequence[Path], observe: journal.Observer) -> None:
    """Commit with the locks held."""
    while True:
        for target in targets:
            journal.recover(target)
        with all_locks(targets):
            if any(journal.read_pointer(target) for target in targets):
                continue  # another process died between the two lines above
            sealed: list[Sealed] = []
            unchanged: list[Fork] = []
            for fork in forks:
                ready = fork.seal()
                unchanged.append(fork) if ready is None else sealed.append(ready)
            observe("sealed")
            if sealed:
                journal.publish_and_apply(sealed, observe)
            for fork in unchanged:
                Staging(fork.environment.path).retire(Path(fork.reference))
            return
