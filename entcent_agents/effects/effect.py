"""The effects a tool can have, and the record of what is known of one tool."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal

Source = Literal["declared", "metadata", "known", "hint", "unknown"]
"""Who said it: the user on the node, the tool's metadata, this library of code it knows, a server, or nobody."""


class Effect(StrEnum):
    """What running a tool does to the world.

    Attributes:
        READ: It changes nothing: run live, in every rollout.
        WRITE: It changes a forkable environment: run on the rollout's own fork.
        EXTERNAL: It touches what cannot be forked: rollouts stop before it. Unknown means EXTERNAL.
        EXTERNAL_IDEMPOTENT: EXTERNAL that, called again with the same idempotency key, does nothing a second time.

    Example:
        >>> from entcent_agents import EXTERNAL, READ, WRITE
        >>> effects = {"search": READ, "write_file": WRITE, "send_mail": EXTERNAL}
        >>> effects == {"search": "READ", "write_file": "WRITE", "send_mail": "EXTERNAL"}  # plain text will do
        True
    """

    READ = "READ"
    WRITE = "WRITE"
    EXTERNAL = "EXTERNAL"
    EXTERNAL_IDEMPOTENT = "EXTERNAL_IDEMPOTENT"


READ: Final = Effect.READ
"""It changes nothing: run live, in every rollout."""
WRITE: Final = Effect.WRITE
"""It changes a forkable environment: run on the rollout's own fork."""
EXTERNAL: Final = Effect.EXTERNAL
"""It touches what cannot be forked: rollouts stop before it, and the selected one's call is made once."""
EXTERNAL_IDEMPOTENT: Final = Effect.EXTERNAL_IDEMPOTENT
"""EXTERNAL that, called again with the same idempotency key, does nothing a second time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolEffect:
    """What is known of one tool.

    Attributes:
        tool: Its name.
        effect: READ, WRITE or EXTERNAL.
        idempotent: It is EXTERNAL, and called again with the same idempotency key it does nothing a second time.
        environment: Name of the environment that its metadata binds it to.
        shareable: It reads what every rollout sees alike, so that equal calls at the same time may be one.
        source: Who said so.
        distrusted_hint: Its MCP server hints that it only reads, and that was not believed.
    """

    tool: str
    effect: Effect
    idempotent: bool
    environment: str | None
    shareable: bool
    source: Source
    distrusted_hint: bool = False
