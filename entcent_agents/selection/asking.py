"""Asking a selector that somebody else may have written, and making sure of what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from entcent_agents.errors import ConfigurationError
from entcent_agents.selection.baselines import First
from entcent_agents.selection.catalogue import default_selector
from entcent_agents.selection.result import Selection, Selector
from entcent_agents.trajectory import Rollout


def selector_or_default(selector: Selector | None) -> Selector:
    """The selector that was given, or the default one.

    Raises:
        ConfigurationError: It is none.
    """
    if selector is None:
        return default_selector()
    if isinstance(selector, type) or not callable(getattr(selector, "select", None)):
        raise ConfigurationError(f"selector={selector!r} is no selector: pass an object with a `name` and a `select`")
    return selector


def asked(selector: Selector, candidates: Sequence[Rollout]) -> Selection:
    """What the selector says, an abstention included.

    Raises:
        ConfigurationError: It chose what is no candidate.
    """
    selection = selector.select(candidates)
    if selection.winner not in {None, *(rollout.index for rollout in candidates)}:
        raise ConfigurationError(
            f"the selector {selection.selector!r} chose rollout {selection.winner}, which is not among the "
            f"{len(candidates)} that finished: return the `index` of one of them"
        )
    return selection


def require_winner(selection: Selection) -> Selection:
    """The selection, where it has a winner.

    Raises:
        ConfigurationError: The selector abstained.
    """
    if selection.winner is None:
        raise ConfigurationError(
            f"the selector {selection.selector!r} abstained ({selection.reason}) and nothing comes after it: "
            "end the chain with First()"
        )
    return selection


def chosen(selector: Selector, candidates: Sequence[Rollout]) -> tuple[Selection, list[Rollout]]:
    """Which of several next turns is best, and the outcomes that it was chosen from.

    Candidates that call the same tools in the same way, or answer the same, are one outcome: they would compete with
    themselves otherwise. The one that the selector prefers among them stands for them, with the votes of all.

    Args:
        selector: How to choose.
        candidates: The trajectory so far, each with another turn at its end.

    Raises:
        ConfigurationError: The selector abstained, or chose what is no candidate.
    """
    outcomes: dict[str, list[Rollout]] = {}
    for candidate in candidates:
        outcomes.setdefault(candidate.vote_key or f"none {candidate.index}", []).append(candidate)
    found = [replace(_preferred(same, selector), votes=len(same)) for same in outcomes.values()]
    selection = asked(selector, found)
    if selection.winner is None and len(found) == 1:  # nothing to choose between
        selection = replace(First().select(found), reason="all candidates came to the same")
    return require_winner(selection), found


def _preferred(same: Sequence[Rollout], selector: Selector) -> Rollout:
    winner = asked(selector, same).winner if len(same) > 1 else None
    return next((candidate for candidate in same if candidate.index == winner), same[0])
