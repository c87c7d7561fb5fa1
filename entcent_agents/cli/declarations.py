"""What the options of `entcent run` say about tools, and what has to be known before a model is started."""

from __future__ import annotations

from collections.abc import Collection

from entcent_agents.effects import EXTERNAL, READ, Effect, ToolEffect, effects_of
from entcent_agents.errors import ConfigurationError, EffectError
from entcent_agents.rollouts.isolation import Graph, tools_of


def declared(read: Collection[str], external: Collection[str]) -> dict[str, Effect]:
    """The user's word on tools, by their names.

    Raises:
        ConfigurationError: Where it contradicts itself.
    """
    if both := [name for name in read if name in external]:
        raise ConfigurationError(f"{', '.join(both)}: --read and --external contradict each other")
    return dict.fromkeys(read, READ) | dict.fromkeys(external, EXTERNAL)


def external_tools(agent: Graph, said: dict[str, Effect], environments: Collection[str]) -> list[ToolEffect]:
    """The tools whose calls are made for real, where for every tool somebody says what it does.

    Raises:
        EffectError: Where nobody says it of some tool, or what is said cannot be right.
    """
    effects = effects_of(tools_of(agent), said, environments).values()
    silent = [effect for effect in effects if effect.source == "unknown"]
    if silent:
        hinted = [effect.tool for effect in silent if effect.distrusted_hint]
        hint = f" (the server of {', '.join(hinted)} hints that it only reads, unvouched for)" if hinted else ""
        raise EffectError(
            f"nobody says what {', '.join(repr(effect.tool) for effect in silent)} does to the world{hint}: pass "
            f"{_options('--read', silent)} if it changes nothing (READ), or {_options('--external', silent)} if its "
            "call may be made for real (EXTERNAL): rollouts stop before it, and the selected one's call is made, once"
        )
    return [effect for effect in effects if effect.effect is EXTERNAL]


def _options(option: str, tools: Collection[ToolEffect]) -> str:
    return " ".join(f"{option} {effect.tool}" for effect in tools)
