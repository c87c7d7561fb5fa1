"""What the tables of a ledger in a database have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from entcent_agents.errors import LedgerVersionError

LAYOUT_VERSION: Final = 1


def check_layout(where: str, found: Sequence[int]) -> None:
    """Refuse tables that another release laid out; none yet is fine.

    Raises:
        LedgerVersionError: They are of another version.
    """
    if found and set(found) != {LAYOUT_VERSION}:
        versions = ", ".join(str(version) for version in found)
        raise LedgerVersionError(
            f"the effect ledger {where} has tables of version {versions}; this release reads {LAYOUT_VERSION}: "
            "use the release that made them, or another database"
        )
