"""Asking a selector that somebody else may have written, and making sure of what it answers."""

from __future__ import annotations

from collections.abc import Sequence

from entcent_agents.errors import ConfigurationError
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
