"""What a request may use: tokens, money, rollouts and time. Pure: nothing here waits."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from numbers import Integral, Real
from typing import Any, Final, cast

from entcent_agents.errors import ConfigurationError

_PRICES_LOOK_SO: Final = "{'the-model': Prices(prompt=…, generated=…)}, per million tokens"


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
            if price is not None and not (_is_finite(price) and price >= 0):
                raise ConfigurationError(f"prices: {name}={price!r} must be a finite number, at least 0")

    def cost(self, *, prompt_tokens: int, generated_tokens: int, cached_tokens: int = 0) -> float:
        """Of a call; the cached tokens are part of the prompt's."""
        cached = self.prompt if self.cached is None else self.cached
        read = (prompt_tokens - cached_tokens) * self.prompt + cached_tokens * cached
        return (read + generated_tokens * self.generated) / 1e6

    def most(self, *, prompt_tokens: int, generated_tokens: int) -> float:
        """Of a call, whatever of its prompt the server has cached."""
        return max(
            self.cost(prompt_tokens=prompt_tokens, generated_tokens=generated_tokens, cached_tokens=cached)
            for cached in (0, prompt_tokens)
        )


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
        ConfigurationError: On limits that leave nothing or are no numbers, or a `max_cost` without prices.

    Example:
        >>> from entcent_agents import Budget
        >>> Budget(max_tokens=20_000, max_seconds=60).meters_calls
        True
        >>> Budget(max_tokens=0)
        Traceback (most recent call last):
        entcent_agents.errors.ConfigurationError: budget: max_tokens=0 must be a whole number, at least 1
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
            if limit is not None and not (isinstance(limit, Integral) and int(limit) >= 1):
                raise ConfigurationError(f"budget: {name}={limit!r} must be a whole number, at least 1")
        for name in ("max_cost", "max_seconds", "max_seconds_per_rollout", "max_seconds_per_call"):
            limit = getattr(self, name)
            if limit is not None and not (_is_finite(limit) and limit > 0):
                raise ConfigurationError(f"budget: {name}={limit!r} must be a finite number above 0")
        if not _are_prices(self.prices):
            raise ConfigurationError(f"budget: prices={self.prices!r} must be {_PRICES_LOOK_SO}")
        if self.max_cost is not None and not self.prices:
            raise ConfigurationError(f"budget: max_cost needs what the models cost: prices={_PRICES_LOOK_SO}")

    @property
    def meters_calls(self) -> bool:
        """Whether it limits what model calls use, so that they have to be asked for."""
        return self.max_tokens is not None or self.max_cost is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """What a call uses, or may use at most."""

    tokens: int = 0
    cost: float = 0.0

    def __add__(self, other: Amount) -> Amount:
        return Amount(tokens=self.tokens + other.tokens, cost=self.cost + other.cost)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What became of a call that asked for room.

    Attributes:
        call: Which.
        refusal: Why it may never begin, in one line; None: it may begin now.
    """

    call: Hashable
    refusal: str | None = None


@dataclass(frozen=True, slots=True)
class _Waiting:
    most: Amount
    turns: int


class Meter:
    """Keeps the calls of a request below its limits of tokens and cost; threads may share it.

    What a call may use at most is reserved before it begins. A call that does not fit waits for what those under way
    give back, and is refused where even all of it would not do. Who is further along goes first, and among equals who
    came first: what is left then helps some rollouts to their end. A large call is not passed by
    small ones. Every method returns what it decided, in that order, and none waits.

    Args:
        budget: The limits.
        spent: What is spent already.
    """

    def __init__(self, budget: Budget, spent: Amount | None = None) -> None:
        self._budget = budget
        self._spent = spent or Amount()
        self._reserved: dict[Hashable, Amount] = {}
        self._waiting: dict[Hashable, _Waiting] = {}
        self._lock = threading.Lock()

    @property
    def spent(self) -> Amount:
        """By calls that are over."""
        return self._spent

    @property
    def reserved(self) -> Amount:
        """For calls that are under way."""
        return sum(self._reserved.values(), Amount())

    def ask(self, call: Hashable, most: Amount, *, waits: bool = True, turns: int = 0) -> Sequence[Decision]:
        """A call would like to begin.

        Args:
            call: Which; no other one under way or waiting may be equal.
            most: What it may use.
            waits: Whether it may wait. One that may not is decided on at once, before those that wait.
            turns: How far its rollout is.
        """
        with self._lock:
            if not waits:
                return [self._decide(call, most) or self._refused(call, most)]
            self._waiting[call] = _Waiting(most, turns)
            return self._decide_on_waiting()

    def settle(self, call: Hashable, used: Amount | None) -> Sequence[Decision]:
        """A call is over.

        Args:
            call: Which; one that is not under way changes nothing.
            used: What it used; None where nobody knows: then it is charged all it might have.
        """
        with self._lock:
            most = self._reserved.pop(call, None)
            if most is not None:
                self._spent += most if used is None else used
            return self._decide_on_waiting()

    def withdraw(self, call: Hashable) -> Sequence[Decision]:
        """A call will not be made, whether it waits or might have begun."""
        with self._lock:
            self._waiting.pop(call, None)
            self._reserved.pop(call, None)
            return self._decide_on_waiting()

    def _decide_on_waiting(self) -> list[Decision]:
        decisions: list[Decision] = []
        for call, asked in sorted(self._waiting.items(), key=lambda item: -item[1].turns):
            decision = self._decide(call, asked.most)
            if decision is None:
                break
            del self._waiting[call]
            decisions.append(decision)
        return decisions

    def _decide(self, call: Hashable, most: Amount) -> Decision | None:
        if self._fits(self._spent + self.reserved + most):
            self._reserved[call] = most
            return Decision(call=call)
        return None if self._fits(self._spent + most) else self._refused(call, most)

    def _fits(self, amount: Amount) -> bool:
        tokens, cost = self._budget.max_tokens, self._budget.max_cost
        return (tokens is None or amount.tokens <= tokens) and (cost is None or amount.cost <= cost)

    def _refused(self, call: Hashable, most: Amount) -> Decision:
        tokens, cost, spent, reserved = self._budget.max_tokens, self._budget.max_cost, self._spent, self.reserved
        if tokens is not None and (spent + reserved + most).tokens > tokens:
            refusal = f"max_tokens={tokens}: {spent.tokens} are spent, {reserved.tokens} reserved"
            refusal += f", and the call may use {most.tokens} (prompt and max_tokens)"
        else:
            refusal = f"max_cost={cost}: {spent.cost:.6g} is spent, {reserved.cost:.6g} reserved"
            refusal += f", and the call may cost {most.cost:.6g} (prompt and max_tokens)"
        return Decision(call=call, refusal=refusal)


def _is_finite(value: object) -> bool:
    return isinstance(value, Real) and isfinite(value)


def _are_prices(value: object) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(each, Prices) for each in cast("Mapping[Any, Any]", value).values()
    )
