"""What running a tool does to the world, who says so, and what follows from it for rollouts."""

from __future__ import annotations

from entcent_agents.effects.declaring import declare
from entcent_agents.effects.effect import EXTERNAL, EXTERNAL_IDEMPOTENT, READ, WRITE, Effect, Source, ToolEffect
from entcent_agents.effects.finding import effects_of
from entcent_agents.effects.refusals import (
    committing_selector_needed,
    durable_store_needed,
    records_on_the_way_needed,
    rollouts_in_rollouts_refused,
)

__all__ = [
    "EXTERNAL",
    "EXTERNAL_IDEMPOTENT",
    "READ",
    "WRITE",
    "Effect",
    "Source",
    "ToolEffect",
    "committing_selector_needed",
    "declare",
    "durable_store_needed",
    "effects_of",
    "records_on_the_way_needed",
    "rollouts_in_rollouts_refused",
]
