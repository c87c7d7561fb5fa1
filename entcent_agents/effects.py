"""What running a tool does to the world: the user's word, else the tool's metadata, else EXTERNAL."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import StrEnum
from typing import Any, Final, Protocol

from entcent_agents.errors import EffectError


class Effect(StrEnum):
    """What running a tool does to the world.

    Attributes:
        READ: It changes nothing: run live, in every rollout.
        WRITE: It changes a forkable environment: run on the rollout's own fork.
        EXTERNAL: It touches what cannot be forked: never run in a rollout. Unknown means EXTERNAL.
    """

    READ = "READ"
    WRITE = "WRITE"
    EXTERNAL = "EXTERNAL"


READ: Final = Effect.READ
WRITE: Final = Effect.WRITE
EXTERNAL: Final = Effect.EXTERNAL


class Tool(Protocol):
    """What is asked of a tool here: a name, and metadata that may declare `effect` and `environment`."""

    name: str
    metadata: dict[str, Any] | None


def effects_of(
    tools: Collection[Tool], declared: Mapping[str, Effect | str], environments: Collection[str]
) -> dict[str, Effect]:
    """Every tool's effect, all of them safe to run in a rollout.

    Args:
        tools: The agent's tools; each of them is checked, those that share a name too.
        declared: The user's word, which counts most.
        environments: Names of the environments that rollouts get forks of.

    Raises:
        EffectError: On a declaration for a tool that is not there or that is no effect, a tool that would touch the
            real world, or one whose environment is missing; the message says how to declare it.
    """
    names = [tool.name for tool in tools]
    for name in declared:
        if names and name not in names:
            raise EffectError(f"effects name a tool {name!r} that the agent does not have; it has {', '.join(names)}")
    return {tool.name: _runnable(tool, declared.get(tool.name), environments) for tool in tools}


def _runnable(tool: Tool, declared: Effect | str | None, environments: Collection[str]) -> Effect:
    metadata = tool.metadata or {}
    said = declared or metadata.get("effect", EXTERNAL)
    if said not in Effect.__members__:
        raise EffectError(f"tool {tool.name!r} declares the effect {said!r}; it must be READ, WRITE or EXTERNAL")
    effect = Effect(said)
    needs = metadata.get("environment")
    if needs is not None and needs not in environments:
        raise EffectError(
            f"tool {tool.name!r} acts on the environment {needs!r}, and there is none of that name "
            f"({', '.join(environments) or 'none at all'}): pass environments=[…] to ParallelRollouts"
        )
    if effect is Effect.EXTERNAL:
        raise EffectError(
            f"tool {tool.name!r} may touch the real world, and rollouts would run it several times: declare "
            f"effects={{{tool.name!r}: READ}} if it changes nothing, or effects={{{tool.name!r}: WRITE}} if it "
            "changes only an environment that is passed as environments=[…]"
        )
    if effect is Effect.WRITE and not environments:
        raise EffectError(
            f"tool {tool.name!r} is declared WRITE, but there is no environment to fork: "
            "pass environments=[SqliteEnvironment(…)] or another to ParallelRollouts"
        )
    return effect
