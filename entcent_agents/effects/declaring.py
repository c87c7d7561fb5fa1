"""Saying on a tool what it does."""

from __future__ import annotations

from types import EllipsisType
from typing import TYPE_CHECKING, TypeVar

from entcent_agents.effects.effect import Effect
from entcent_agents.errors import EffectError

if TYPE_CHECKING:
    from langchain_core.tools import BaseTool

ToolT = TypeVar("ToolT", bound="BaseTool")
_KEYS = ("effect", "idempotent", "environment")


def declare(tool: ToolT, effect: Effect | str, *, environment: str | EllipsisType | None = ...) -> ToolT:
    """A copy of the tool that says what it does; an earlier declaration is replaced as a whole.

    Args:
        tool: It stays as it is.
        effect: What running it does to the world.
        environment: Name of the environment that it acts on. None: it acts on none, so that what it reads may be
            shared by rollouts. Left out: unknown.

    Raises:
        EffectError: On a value that is no effect.

    Example:
        >>> from entcent_agents import READ, declare
        >>> from langchain_core.tools import tool
        >>> @tool
        ... def search(query: str) -> str:
        ...     "Search the documents."
        ...     return "Gentoo penguins are the heaviest."
        >>> declare(search, READ).metadata["effect"]
        <Effect.READ: 'READ'>
    """
    kept = {key: value for key, value in (tool.metadata or {}).items() if key not in _KEYS}
    bound = {} if environment is ... else {"environment": environment}
    return tool.model_copy(update={"metadata": kept | {"effect": effect_named(effect, tool.name)} | bound})


def effect_named(said: object, tool: str) -> Effect:
    """The effect that somebody declared.

    Raises:
        EffectError: There is none of that name.
    """
    try:
        return Effect(said)
    except ValueError:
        raise EffectError(
            f"tool {tool!r} declares the effect {said!r}; it must be READ, WRITE or EXTERNAL, "
            "or EXTERNAL_IDEMPOTENT if a second call with the same idempotency key does nothing"
        ) from None
