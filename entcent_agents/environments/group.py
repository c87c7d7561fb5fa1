"""Forking and discarding all of a rollout's environments at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from entcent_agents.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from entcent_agents.environments.protocol import Environment, Fork


def fork_all(environments: Iterable[Environment]) -> dict[str, Fork]:
    """One fork of each environment, by name; none is left behind where one fails.

    Raises:
        ConfigurationError: Two environments of one name.
        EnvironmentUnusableError: One of them cannot be forked.
    """
    forks: dict[str, Fork] = {}
    try:
        for environment in environments:
            if environment.name in forks:
                raise ConfigurationError(f"two environments are called {environment.name!r}: give each its own name")
            forks[environment.name] = environment.fork()
    except BaseException:
        discard_all(forks)
        raise
    return forks


def discard_all(forks: Mapping[str, Fork]) -> None:
    """Discard every fork; the others too where one cannot be, and then the first failure is raised."""
    failures: list[Exception] = []
    for fork in forks.values():
        try:
            fork.discard()
        except Exception as error:
            failures.append(error)
    if failures:
        raise failures[0]
