"""Selectors asked one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from entcent_agents.selection.result import Candidate, Selection, Selector
from entcent_agents.trajectory import Rollout


class Chainable:
    """What every selector of this package can do besides selecting."""

    __slots__ = ()

    def then(self: Selector, *following: Selector) -> Chain:
        """Ask these next: about the rollouts left tied, or about all of them where this one abstains."""
        return Chain((self, *following))


@dataclass(frozen=True, slots=True)
class Chain(Chainable):
    """Selectors asked in turn until one rollout is left.

    Each is asked about the rollouts that are still in: all of them at first, then those that the last selector that
    did not abstain left tied.

    Attributes:
        selectors: In the order in which they are asked.
    """

    selectors: tuple[Selector, ...]

    @property
    def name(self) -> str:
        """Its name in results."""
        return ", then ".join(selector.name for selector in self.selectors)

    def select(self, rollouts: Sequence[Rollout]) -> Selection:
        """Ask each; the result names those that decided and keeps what all of them answered."""
        standing, steps = list(rollouts), list[Selection]()
        for selector in self.selectors:
            step = selector.select(standing)
            steps += step.steps or (step,)
            if step.winner is not None:
                tied = {*step.tied, step.winner}
                standing = [rollout for rollout in standing if rollout.index in tied]
            if len(standing) == 1 and step.winner is not None:
                break
        return _joined(self.name, steps)


def _joined(name: str, steps: Sequence[Selection]) -> Selection:
    """One result of the steps: the first that decided gives the values, the later ones order what it left tied."""
    deciding = [step for step in steps if step.winner is not None]
    if not deciding:
        why = "; ".join(f"{step.selector}: {step.reason}" for step in steps) or "the chain is empty"
        return Selection(winner=None, selector=name, reason=why, steps=tuple(steps))
    first, last = deciding[0], deciding[-1]
    candidates = first.candidates
    for step in deciding[1:]:
        candidates = _reordered(candidates, step)
    return replace(
        last,
        selector=", then ".join(step.selector for step in deciding),
        reason="; then ".join(step.reason for step in deciding),
        candidates=candidates,
        steps=tuple(steps),
    )


def _reordered(candidates: Sequence[Candidate], step: Selection) -> tuple[Candidate, ...]:
    """The same candidates, those that the step looked at ranked first and by it."""
    ranks = {candidate.rollout: candidate.rank for candidate in step.candidates}

    def key(candidate: Candidate) -> tuple[bool, float, float]:
        asked = candidate.rollout in ranks
        rank = ranks.get(candidate.rollout)
        return (not asked, float("inf") if rank is None else rank, candidate.rank or 0)

    ranked = sorted((candidate for candidate in candidates if candidate.rank is not None), key=key)
    new = {candidate.rollout: position for position, candidate in enumerate(ranked, start=1)}
    return tuple(replace(candidate, rank=new.get(candidate.rollout)) for candidate in candidates)
