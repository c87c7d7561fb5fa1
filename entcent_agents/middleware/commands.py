"""What the middleware further in writes to the state, candidate by candidate.

`create_agent` (LangChain 1.4) collects the commands of inner middleware in one list for all calls of a handler. With
several calls at a time, the commands of every candidate would be in it, and what losers wrote would reach the state.
So each candidate calls a copy of the handler that has a list of its own, and the winner's commands go into the one that
`create_agent` reads. This file alone leans on how the handler is built; `tests/middleware/test_steps.py` fails where
that changes.
"""

from __future__ import annotations

from collections.abc import Callable
from types import CellType, FunctionType
from typing import Any, Final

from langgraph.types import Command

Handler = Callable[[Any], Any]
Commands = list[Command[Any]]

_COMMANDS: Final = "accumulated_commands"


def with_own_commands(handler: Handler) -> tuple[Handler, Commands]:
    """A copy of a handler, and the list in which it alone collects commands.

    The innermost handler has no list, because nothing is further in: that is given back as it is.
    """
    own: Commands = []
    if not isinstance(handler, FunctionType) or _COMMANDS not in handler.__code__.co_freevars:
        return handler, own
    cells = zip(handler.__code__.co_freevars, handler.__closure__ or (), strict=True)
    closure = tuple(CellType(own) if name == _COMMANDS else cell for name, cell in cells)
    return FunctionType(handler.__code__, handler.__globals__, handler.__name__, closure=closure), own


def keep_commands(handler: Handler, commands: Commands) -> None:
    """Have `create_agent` apply these, as if this handler had been called once."""
    if isinstance(handler, FunctionType) and _COMMANDS in handler.__code__.co_freevars:
        cell = (handler.__closure__ or ())[handler.__code__.co_freevars.index(_COMMANDS)]
        cell.cell_contents[:] = commands
