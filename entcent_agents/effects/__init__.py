"""What running a tool does to the world, who says so, and what follows from it for rollouts."""

from __future__ import annotations

from entcent_agents.effects.declaring import declare
from entcent_agents.effects.effect import EXTERNAL, EXTERNAL_IDEMPOTENT, READ, WRITE, Effect, Source, ToolEffect
from entcent_agents.effects.finding import effects_of
from entcent_agents.effects.refusals import (
    committing_selector_needed,
    durable_store_needed,
    not_inside_a_rollout,
    records_on_the_way_needed,
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
    "not_inside_a_rollout",
    "records_on_the_way_needed",
]
