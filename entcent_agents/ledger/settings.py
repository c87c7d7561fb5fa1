"""What whoever runs the ledger may decide."""

from __future__ import annotations

from dataclasses import dataclass

from entcent_agents.errors import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerSettings:
    """Times and limits of external calls.

    Attributes:
        lease_seconds: How long a caller that shows no sign of life is taken to be alive. It renews its lease three
            times in that time, however long the tool takes. After a crash this is how long a resumed call waits.
        max_attempts: How often an idempotent call is made before a person is asked: a call that ends its process
            each time would otherwise do so for ever.
        max_result_characters: Longer results are cut, for the caller too.
        keep_arguments: Whether records hold the arguments of calls, which may be secret; else their digest only.
    """

    lease_seconds: float = 30.0
    max_attempts: int = 5
    max_result_characters: int = 4_000_000
    keep_arguments: bool = False

    def __post_init__(self) -> None:
        if not (0 < self.lease_seconds < float("inf")) or self.max_attempts < 1 or self.max_result_characters < 1:
            raise ConfigurationError(
                f"lease_seconds={self.lease_seconds}, max_attempts={self.max_attempts}, "
                f"max_result_characters={self.max_result_characters}: all must be above 0, and the lease finite"
            )
