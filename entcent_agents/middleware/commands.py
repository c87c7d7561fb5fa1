"""What the middleware further in writes to the state, candidate by candidate.

`create_agent` (LangChain 1.4) collects the commands of inner middleware in one list for all calls of a handler. With
several calls at a time, the commands of every candidate would be in it, and what losers wrote would reach the state.
So each candidate calls a copy of the handler that has a list of its own, and the winner's commands go into the one that
`create_agent` reads. A copy can also ask the model something else than the middleware further in would. This file alone
leans on how the handler is built; `tests/middleware` fails where that changes.
"""

from __future__ import annotations

from collections.abc import Callable
from types import CellType, FunctionType
from typing import Any, Final

from langgraph.types import Command

Handler = Callable[[Any], Any]
Commands = list[Command[Any]]

_COMMANDS: Final = "accumulated_commands"
_MODEL: Final = "handler"


def with_own_commands(handler: Handler) -> tuple[Handler, Commands]:
    """A copy of a handler, and the list in which it alone collects commands.

    The innermost handler has no list, because nothing is further in: that is given back as it is.
    """
    own: Commands = []
    if not isinstance(handler, FunctionType) or _COMMANDS not in handler.__code__.co_freevars:
        return handler, own
    return _with_cell(handler, _COMMANDS, own), own


def with_asked(handler: Handler, asked: Callable[[Any], Any]) -> Handler:
    """A copy of a handler that asks the model what `asked` makes of each request.

    Args:
        handler: The middleware further in, and the model.
        asked: Is called with each request that comes to the model, after all middleware has changed it.
    """
    if isinstance(handler, FunctionType) and {_COMMANDS, _MODEL} <= {*handler.__code__.co_freevars}:
        model = (handler.__closure__ or ())[handler.__code__.co_freevars.index(_MODEL)].cell_contents
        return _with_cell(handler, _MODEL, with_asked(model, asked))

    def model_asked(request: Any) -> Any:
        return handler(asked(request))

    return model_asked


def keep_commands(handler: Handler, commands: Commands) -> None:
    """Have `create_agent` apply these, as if this handler had been called once."""
    if isinstance(handler, FunctionType) and _COMMANDS in handler.__code__.co_freevars:
        cell = (handler.__closure__ or ())[handler.__code__.co_freevars.index(_COMMANDS)]
        cell.cell_contents[:] = commands


def _with_cell(handler: FunctionType, name: str, content: Any) -> FunctionType:
    cells = zip(handler.__code__.co_freevars, handler.__closure__ or (), strict=True)
    closure = tuple(CellType(content) if variable == name else cell for variable, cell in cells)
    return FunctionType(handler.__code__, handler.__globals__, handler.__name__, closure=closure)
