"""What a request may use: tokens, money, rollouts and time. Pure: nothing here waits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite

from entcent_agents.errors import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """What a model costs, in a currency of the user's choice per million tokens.

    Attributes:
        prompt: Of the tokens that are read.
        generated: Of the tokens that are sampled.
        cached: Of the tokens read that the server had in its cache; None: as `prompt`.

    Raises:
        ConfigurationError: On prices below zero, or that are no finite numbers.
    """

    prompt: float
    generated: float
    cached: float | None = None

    def __post_init__(self) -> None:
        for name in ("prompt", "generated", "cached"):
            price = getattr(self, name)
            if price is not None and not (isfinite(price) and price >= 0):
                raise ConfigurationError(f"prices: {name}={price} must be a finite number, at least 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What one request may use, over all its rounds; None sets no limit.

    Tokens and cost are hard: what a model call may use at most is reserved before it, and what it did not use is given
    back after it.

    Attributes:
        max_tokens: Read and sampled, in tokens of the models' own tokenizers.
        max_cost: In the currency of `prices`.
        max_rollouts: Rollouts begun.
        max_seconds: From the beginning of the request; time that people take to answer does not count. The best of
            what has finished by then is selected, and the rest is cut off.
        max_seconds_per_rollout: Of one rollout; one that takes longer is cut off.
        max_seconds_per_call: Of one model call; one that takes longer is cancelled, and retried as other failures are.
        prices: By model name; needed for `max_cost`.

    Raises:
        ConfigurationError: On limits that leave nothing, or a `max_cost` without prices.
    """

    max_tokens: int | None = None
    max_cost: float | None = None
    max_rollouts: int | None = None
    max_seconds: float | None = None
    max_seconds_per_rollout: float | None = None
    max_seconds_per_call: float | None = None
    prices: Mapping[str, Prices] = field(default_factory=dict[str, Prices])

    def __post_init__(self) -> None:
        for name in ("max_tokens", "max_rollouts"):
            limit = getattr(self, name)
            if limit is not None and limit < 1:
                raise ConfigurationError(f"budget: {name}={limit} must be at least 1")
        for name in ("max_cost", "max_seconds", "max_seconds_per_rollout", "max_seconds_per_call"):
            limit = getattr(self, name)
            if limit is not None and not (isfinite(limit) and limit > 0):
                raise ConfigurationError(f"budget: {name}={limit} must be a finite number above 0")
        if self.max_cost is not None and not self.prices:
            raise ConfigurationError(
                "budget: max_cost needs what the models cost: prices={'the-model': Prices(prompt=…, generated=…)}, per "
                "million tokens"
            )
