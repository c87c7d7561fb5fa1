"""How an effect is known: the user's word, the tool's metadata, code that is known, trusted hints, else EXTERNAL."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from entcent_agents.effects.declaring import effect_named
from entcent_agents.effects.effect import EXTERNAL, EXTERNAL_IDEMPOTENT, READ, WRITE, Effect, Source, ToolEffect
from entcent_agents.effects.known import known_effect
from entcent_agents.effects.metadata import Tool, authors_word, forgeable_effect, read_only_hint, server_of
from entcent_agents.errors import EffectError


def effects_of(
    tools: Collection[Tool],
    declared: Mapping[str, Effect | str],
    environments: Collection[str],
    *,
    trust_hints: bool | Collection[str] = (),
) -> dict[str, ToolEffect]:
    """What every tool does; EXTERNAL where nobody who is believed says anything else.

    Args:
        tools: The agent's tools; each of them is checked, those that share a name too. Where none can be seen, the
            declared ones are taken to be there.
        declared: The user's word, which counts most.
        environments: Names of the environments that rollouts get forks of.
        trust_hints: Whose hints that they only read are believed: tools, or MCP servers, by name; True for all.

    Raises:
        EffectError: On names that are not there, a declaration that is no effect or may be the word of an MCP server,
            a WRITE or a binding without its environment, and two tools of one name that do different things.
    """
    names = [tool.name for tool in tools]
    servers = {server for tool in tools if (server := server_of(tool))}
    trusted = _trusted(trust_hints)
    if tools:
        _require_known(declared, names)
        _require_known_to_trust(trusted, names, servers)
    found: dict[str, ToolEffect] = {}
    for tool in tools or [_Unseen(name) for name in declared]:
        believed = trust_hints is True or not trusted.isdisjoint({tool.name, server_of(tool)})
        effect = _effect_of(tool, declared, environments, believed)
        _require_same(found.setdefault(tool.name, effect), effect)
    return found


@dataclass
class _Unseen:
    """A tool that is declared, in a graph none of whose tools can be seen."""

    name: str
    metadata: dict[str, Any] | None = None


def _effect_of(
    tool: Tool, declared: Mapping[str, Effect | str], environments: Collection[str], believed: bool
) -> ToolEffect:
    said, source = _said(tool, declared, believed)
    word = authors_word(tool)
    bound = word.get("environment")
    _require_environment(tool.name, said, bound, environments)
    effect = EXTERNAL if said is EXTERNAL_IDEMPOTENT else said
    return ToolEffect(
        tool=tool.name,
        effect=effect,
        idempotent=said is EXTERNAL_IDEMPOTENT,
        environment=bound,
        shareable=effect is READ and bound is None and ("environment" in word or not environments),
        source=source,
        distrusted_hint=source == "unknown" and read_only_hint(tool) is True,
    )


def _said(tool: Tool, declared: Mapping[str, Effect | str], believed: bool) -> tuple[Effect, Source]:
    """The effect by the first who says something. A server's `idempotentHint` is not asked: see docs/effects.md."""
    if tool.name in declared:
        return effect_named(declared[tool.name], tool.name), "declared"
    if forged := forgeable_effect(tool):
        raise EffectError(
            f"the metadata of tool {tool.name!r} holds the hints of an MCP server and the effect {forged!r}, which the "
            f"server may have written: say it yourself, effects={{{tool.name!r}: …}} or declare(tool, …)"
        )
    word = authors_word(tool)
    said, idempotent = word.get("effect"), word.get("idempotent") is True
    if said is not None or idempotent:
        effect = effect_named(EXTERNAL if said is None else said, tool.name)
        return EXTERNAL_IDEMPOTENT if effect is EXTERNAL and idempotent else effect, "metadata"
    if known := known_effect(tool):
        return known, "known"
    hint = read_only_hint(tool) if believed else None
    return READ if hint else EXTERNAL, "unknown" if hint is None else "hint"


def _trusted(trust_hints: bool | Collection[str]) -> frozenset[str]:
    if isinstance(trust_hints, bool):
        return frozenset()
    return frozenset([trust_hints] if isinstance(trust_hints, str) else trust_hints)


def _require_known(declared: Iterable[str], tools: Collection[str]) -> None:
    for name in declared:
        if name not in tools:
            raise EffectError(
                f"effects name a tool {name!r} that the agent does not have; it has {', '.join(tools)}"
                f"{_meant(name, tools)}"
            )


def _require_known_to_trust(trusted: Collection[str], tools: Collection[str], servers: Collection[str]) -> None:
    for name in sorted(trusted):
        if name not in {*tools, *servers}:
            raise EffectError(
                f"trust_hints name {name!r}, which is neither a tool of the agent ({', '.join(tools)}) nor an MCP "
                f"server that one of them names ({', '.join(sorted(servers)) or 'they name none'})"
                f"{_meant(name, [*tools, *servers])}"
            )


def _meant(name: str, known: Collection[str]) -> str:
    close = get_close_matches(name, known, n=1)
    return f": did you mean {close[0]!r}?" if close else ""


def _require_environment(tool: str, effect: Effect, bound: object, environments: Collection[str]) -> None:
    if bound is not None and bound not in environments:
        raise EffectError(
            f"tool {tool!r} acts on the environment {bound!r}, and there is none of that name "
            f"({', '.join(environments) or 'none at all'}): pass environments=[…] to ParallelRollouts"
        )
    if effect is WRITE and not environments:
        raise EffectError(
            f"tool {tool!r} is declared WRITE, but there is no environment to fork: "
            "pass environments=[SqliteEnvironment(…)] or another to ParallelRollouts"
        )


def _require_same(first: ToolEffect, second: ToolEffect) -> None:
    if replace(first, source=second.source, distrusted_hint=second.distrusted_hint) != second:
        raise EffectError(
            f"two tools are named {first.tool!r}, and what they do differs ({_described(first)}; "
            f"{_described(second)}): rename one, or say the same of both with declare(tool, …)"
        )


def _described(effect: ToolEffect) -> str:
    kind = EXTERNAL_IDEMPOTENT if effect.idempotent else effect.effect
    bound = "" if effect.environment is None else f" on {effect.environment!r}"
    return f"{kind}{bound}{', shareable' if effect.shareable else ''}, {effect.source}"
