"""Making forks real, several together."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from entcent_agents.environments import commit_record
from entcent_agents.environments.forks import StagedFork
from entcent_agents.environments.memory import MemoryFork
from entcent_agents.environments.staging import Staging, all_locks
from entcent_agents.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from entcent_agents.environments.protocol import Fork, Sealed


def _ignore(_step: str) -> None:
    pass


def commit(forks: Sequence[Fork], *, observe: commit_record.Observer = _ignore) -> None:
    """Make the forks' changes real, all of them or none, whatever happens to this process meanwhile.

    A fork that changed nothing is discarded without a look at its target. On success all forks are gone; on an error
    those that were not applied remain.

    Args:
        forks: At most one of each environment; the rollout must have stopped using them.
        observe: Called with the name of each step once it is done: "sealed", "pointed", "published", "applied
            journal", "applied directory" and "applied sqlite" (for each), "removed".

    Raises:
        ConfigurationError: Two forks of one target, or a fork that extends neither `StagedFork` nor `MemoryFork`.
        EnvironmentConflictError: A target changed since it was forked, or stays locked; nothing was committed.
        EnvironmentUnusableError: A fork was discarded or committed before.
        OSError: The disk is full or refuses a rename. Nothing was committed, or the next opening of any target
            finishes the commit.
        Exception: What the target of a journal raised. Nothing was committed, or the next opening of that journal
            finishes the commit.
    """
    staged: list[StagedFork[Any]] = [fork for fork in forks if isinstance(fork, StagedFork)]
    memory: list[MemoryFork] = [fork for fork in forks if isinstance(fork, MemoryFork)]
    if len(staged) + len(memory) < len(forks):
        raise ConfigurationError("commit() knows forks that extend StagedFork or MemoryFork alone: extend one of them")
    targets = [fork.environment.path for fork in staged] + [fork.environment for fork in memory]
    twice = next((target for target in targets if targets.count(target) > 1), None)
    if twice is not None:
        what = twice if isinstance(twice, Path) else twice.name
        raise ConfigurationError(f"two forks of {what} cannot both be committed: pass one fork of each environment")
    with contextlib.ExitStack() as held:
        for fork in sorted(memory, key=lambda fork: id(fork.environment)):  # in one order for all who wait
            held.enter_context(fork.environment.lock)
        values = [fork.seal() for fork in memory]
        broken_off = _seal_and_apply(staged, observe) if staged else None
        for fork, value in zip(memory, values, strict=True):
            fork.apply(value)
    if broken_off is not None:
        raise broken_off


def _seal_and_apply(forks: Sequence[StagedFork[Any]], observe: commit_record.Observer) -> Exception | None:
    """Commit with the locks held; returns what broke it off after it was decided."""
    targets: list[Path] = [fork.environment.path for fork in forks]
    while True:
        for fork in forks:
            fork.environment.recover()
        with all_locks(targets):
            if any(commit_record.read_pointer(target) for target in targets):
                continue  # another process died between the two lines above
            sealed: list[Sealed] = []
            unchanged: list[StagedFork[Any]] = []
            for fork in forks:
                ready = fork.seal()
                unchanged.append(fork) if ready is None else sealed.append(ready)
            observe("sealed")
            mechanisms = {fork.environment.path: fork.environment.mechanism for fork in forks}
            broken_off = commit_record.publish_and_apply(sealed, mechanisms, observe) if sealed else None
            for fork in unchanged:
                Staging(fork.environment.path).retire(Path(fork.reference))
            return broken_off
