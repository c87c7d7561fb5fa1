"""The settings of `ParallelRollouts`, for functions that hand them on, and what is asked of those that are objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from typing_extensions import TypedDict

from entcent_agents.errors import ConfigurationError

if TYPE_CHECKING:
    from langgraph.checkpoint.base import BaseCheckpointSaver

    from entcent_agents.branching import BudgetPool, EarlyStopping
    from entcent_agents.budget import Budget
    from entcent_agents.effects import Effect
    from entcent_agents.environments import Environment
    from entcent_agents.ledger import EffectLedger, LedgerSettings
    from entcent_agents.rollouts.branching import Branching
    from entcent_agents.rollouts.retries import Retries
    from entcent_agents.telemetry import Spans


class HowRolloutsRun(TypedDict, total=False):
    """Settings of `ParallelRollouts` but for the agent, n, the effects and the environments; see there."""

    branching: Branching | None
    stopping: EarlyStopping | None
    pool: BudgetPool | None
    trust_hints: bool | Sequence[str]
    max_concurrency: int | None
    min_finished: int
    on_unavailable: Literal["error", "single"]
    retries: Retries | None
    budget: Budget | None
    seed: int | None
    recursion_limit: int
    rollout_checkpointer: BaseCheckpointSaver[Any] | None
    ledger: EffectLedger | None
    ledger_settings: LedgerSettings | None
    spans: Spans | None


class RolloutSettings(HowRolloutsRun, total=False):
    """Settings of `ParallelRollouts` but for the agent and n; see there."""

    effects: Mapping[str, Effect | str] | None
    environments: Sequence[Environment]


def require_kind(name: str, value: object, kind: str) -> None:
    """Refuse a setting of another kind where it is given: it would be an AttributeError in the middle of a request.

    Args:
        name: Of the setting.
        value: What was given; None is no setting.
        kind: Name of the class that it is, or extends; a name, because OpenTelemetry is an extra.

    Raises:
        ConfigurationError: It is something else, the class itself included.
    """
    if value is not None and kind not in [each.__name__ for each in type(value).__mro__]:
        raise ConfigurationError(f"{name}={value!r} must be a {kind}(…)")
