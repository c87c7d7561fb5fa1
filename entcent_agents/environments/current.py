"""Which forks the tools of this rollout act on."""

from __future__ import annotations

import contextlib
from contextvars import ContextVar
from types import MappingProxyType
from typing import TYPE_CHECKING

from entcent_agents.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from entcent_agents.environments.protocol import Fork

_FORKS: ContextVar[Mapping[str, Fork] | None] = ContextVar("entcent_agents_forks", default=None)


def current_environment(name: str | None = None) -> Fork:
    """The fork that belongs to the rollout in which this is called, in threads with a copied context too.

    Args:
        name: Name of the environment; None where the rollout has exactly one.

    Raises:
        ConfigurationError: Called outside a rollout, the rollout has no such environment, or several and no name.

    Example:
        >>> from entcent_agents import MemoryEnvironment, current_environment
        >>> from entcent_agents.environments import use_environments
        >>> def take(item: str) -> str:
        ...     current_environment("stock").value[item] -= 1
        ...     return "taken"
        >>> fork = MemoryEnvironment({"bolts": 140}, name="stock").fork()
        >>> with use_environments({"stock": fork}):  # as in a rollout
        ...     take("bolts"), fork.value
        ('taken', {'bolts': 139})
    """
    forks = _FORKS.get()
    if forks is None:
        raise ConfigurationError(
            "current_environment() works inside a rollout only: run the tool through rollouts, "
            "or set the forks with use_environments() in a test"
        )
    names = ", ".join(sorted(forks)) or "none"
    if name is not None:
        if name in forks:
            return forks[name]
        raise ConfigurationError(f"this rollout has no environment {name!r} (it has: {names}): pass it to the rollouts")
    if len(forks) != 1:
        raise ConfigurationError(f"this rollout has {len(forks)} environments ({names}): name the one you mean")
    return next(iter(forks.values()))


def has_environments() -> bool:
    """Whether tools that are called here act on forks: in a rollout, or where `use_environments` set some."""
    return _FORKS.get() is not None


@contextlib.contextmanager
def use_environments(forks: Mapping[str, Fork]) -> Generator[None, None, None]:
    """Make these forks, by name, the ones that `current_environment` finds in this context."""
    token = _FORKS.set(MappingProxyType(dict(forks)))
    try:
        yield
    finally:
        _FORKS.reset(token)
