"""Why rollouts with EXTERNAL tools or environments cannot run as they are set up, and what to do about it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final, Literal

from entcent_agents.effects.effect import EXTERNAL, READ, ToolEffect

_DURABLE: Final = {
    "rollout_checkpointer": "rollout_checkpointer=AsyncSqliteSaver(…) or AsyncPostgresSaver(…)",
    "ledger": "ledger=SqliteLedger(…) or PostgresLedger(…)",
}


def committing_selector_needed(effects: Mapping[str, ToolEffect], environments: Collection[str]) -> str | None:
    """The message of the error if no selector was given the rollouts; None if they can do without."""
    external = _external(effects)
    what = _to_be_committed(external, environments)
    return what and (
        f"rollouts with {what} need a selector that commits one rollout and discards the others: "
        f"add EntropyCentroidSelector(rollouts) after this node{_ways_out(external)}"
    )


def rollouts_in_rollouts_refused(effects: Mapping[str, ToolEffect], environments: Collection[str]) -> str | None:
    """The message of the error if rollouts run inside a rollout; None if they only read there."""
    changing = [effect.tool for effect in effects.values() if effect.effect is not READ]
    what = [f"tools that change something ({', '.join(changing)})"] if changing else []
    what += ["environments"] if environments else []
    if not what:
        return None
    return (
        f"rollouts with {' and '.join(what)} run inside a rollout, and would commit there whether that one is selected "
        "or not: put the agent itself there in the place of its rollouts, or call it in a tool that is EXTERNAL"
    )


def records_on_the_way_needed(effects: Mapping[str, ToolEffect], environments: Collection[str]) -> str | None:
    """The message of the error if the graph writes its checkpoints at its end only; None if it may."""
    what = _to_be_committed(_external(effects), environments)
    return what and (
        f"rollouts with {what} run in a graph with durability='exit', which after a crash would not know what was made "
        "real, and would do it again: run it with durability='sync' or 'async'"
    )


def durable_store_needed(
    effects: Mapping[str, ToolEffect], what: Literal["rollout_checkpointer", "ledger"]
) -> str | None:
    """The message of the error if the graph's own checkpointer is durable and `what` is not; None if it need not be."""
    external = _external(effects)
    if not external:
        return None
    return (
        f"rollouts with {_named(external)} in a graph whose own checkpointer outlives the process need a {what} that "
        f"does too, or nobody knows after a crash which calls were made: pass {_DURABLE[what]} to ParallelRollouts"
        f"{_ways_out(external)}"
    )


def _external(effects: Mapping[str, ToolEffect]) -> list[ToolEffect]:
    return [effect for effect in effects.values() if effect.effect is EXTERNAL]


def _to_be_committed(external: Collection[ToolEffect], environments: Collection[str]) -> str | None:
    what = [_named(external)] if external else []
    what += ["environments"] if environments else []
    return " and ".join(what) or None


def _named(external: Collection[ToolEffect]) -> str:
    return f"EXTERNAL tools ({', '.join(effect.tool for effect in external)})"


def _ways_out(external: Collection[ToolEffect]) -> str:
    """What to write where a tool is EXTERNAL only because nobody who is believed said otherwise."""
    hinted = [effect.tool for effect in external if effect.distrusted_hint]
    silent = [effect.tool for effect in external if effect.source == "unknown" and not effect.distrusted_hint]
    text = ""
    if silent:
        text += f"; nobody says what {', '.join(silent)} does: if it changes nothing, declare {_as_read(silent)}"
    if hinted:
        text += (
            f"; the MCP server of {', '.join(hinted)} hints that it only reads, which counts for nothing until you "
            f"trust it, trust_hints={hinted!r}, or say so yourself, {_as_read(hinted)}"
        )
    return text


def _as_read(tools: Collection[str]) -> str:
    return f"effects={{{', '.join(f'{tool!r}: READ' for tool in tools)}}}"
