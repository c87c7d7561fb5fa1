"""Which graphs the code of a tool can reach: the sub-agents that it may call.

LangGraph finds the graphs that a node's function closes over, but not those behind a tool. They are found here as it
finds its own: by what a function captured and which globals it names, containers and wrappers included. A graph that
is found and never called costs nothing; the tools of one that is not found count as parts of the tool around it.
"""

from __future__ import annotations

from collections.abc import Generator
from functools import partial
from types import CodeType, FunctionType, MethodType
from typing import Any, Final, cast

from langchain_core.runnables import RunnableLambda, RunnableSequence
from langchain_core.runnables.base import RunnableBindingBase
from langchain_core.tools import BaseTool
from langgraph.pregel import Pregel

_MOST_VALUES: Final = 5_000
"""Looked at for one tool: a function may have captured a whole data set."""


def graphs_behind(tool: BaseTool) -> list[Pregel[Any, Any, Any, Any]]:
    """The graphs that a tool may call, each once; not those inside of them."""
    found: dict[int, Pregel[Any, Any, Any, Any]] = {}
    seen: dict[int, Any] = {}  # the values too: an id is one's own only as long as it lives
    waiting: list[Any] = [*_code_of(tool)]
    while waiting and len(seen) < _MOST_VALUES:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen[id(value)] = value
        if _is_graph(value):
            found[id(value)] = value
        else:
            waiting.extend(_reached(value))
    return [*found.values()]


def _is_graph(value: object) -> bool:
    return isinstance(value, Pregel)


def _code_of(tool: BaseTool) -> Generator[Any]:
    """What a tool is made of: functions, or the methods and the fields of a class of its own."""
    yield from vars(tool).values()
    yield from (tool.__pydantic_private__ or {}).values()
    yield from (getattr(type(tool), name, None) for name in ("_run", "_arun"))


def _reached(value: Any) -> Generator[Any]:
    """What can be reached from a value in one step."""
    match value:
        case FunctionType():
            yield from _captured(value)
        case MethodType():
            yield value.__func__
            yield from vars(value.__self__).values() if hasattr(value.__self__, "__dict__") else ()
        case partial():
            yield from (value.func, *value.args, *value.keywords.values())
        case RunnableBindingBase():
            yield cast(Any, value).bound
        case RunnableSequence():
            yield from cast(Any, value).steps
        case RunnableLambda():
            yield from (getattr(cast(Any, value), name, None) for name in ("func", "afunc"))
        case BaseTool():
            yield from _code_of(value)
        case dict():  # no other mapping: to read one may be to load it from a disk
            yield from cast("dict[Any, Any]", value).values()
        case list() | tuple() | set() | frozenset():
            yield from cast("list[Any]", value)
        case _:
            return


def _captured(function: FunctionType) -> Generator[Any]:
    """What a function closed over, and the globals that it names; of functions among these only its own module's."""
    yield getattr(function, "__wrapped__", None)
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not filled yet
            continue
    for name in _names(function.__code__):
        value = function.__globals__.get(name)
        if not isinstance(value, FunctionType) or value.__module__ == function.__module__:
            yield value


def _names(code: CodeType) -> Generator[str]:
    """Of globals and attributes, in the function and in those inside of it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
