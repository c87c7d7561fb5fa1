"""Which graphs the code of a tool can reach: the sub-agents that it may call.

LangGraph finds the graphs that a node's function closes over, but not those behind a tool. They are found here by what
a function captured, its defaults and the globals it names, in containers, wrappers and objects of the user's own
classes too. The tools of a graph that is not found count as parts of the tool around it.
"""

from __future__ import annotations

import logging
import sys
import sysconfig
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from functools import partial
from inspect import getattr_static
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any, Final, cast

from langchain_core.runnables import RunnableLambda, RunnableSerializable
from langchain_core.tools import BaseTool
from langgraph.pregel import Pregel

_LOGGER: Final = logging.getLogger(__name__)
_MOST_VALUES: Final = 100_000
"""Looked into for one tool: a function may have captured a whole data set."""
_LEAVES: Final = frozenset({str, bytes, bytearray, bool, int, float, complex, type(None)})
_INSTALLED: Final = (
    *(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib")),
    *(entry for entry in sys.path if entry.endswith(("site-packages", "dist-packages"))),  # of users, or lent
)


def graphs_behind(tool: BaseTool) -> list[Pregel[Any, Any, Any, Any]]:
    """The graphs that a tool may call, each once; not those inside of them."""
    found: dict[int, Pregel[Any, Any, Any, Any]] = {}
    seen: dict[int, Any] = {}  # the values too: an id is one's own only as long as it lives
    waiting = deque[Any](_code_of(tool))  # what is near comes first, whatever the function's other variables hold
    while waiting:
        value = waiting.popleft()
        if type(value) in _LEAVES or id(value) in seen:
            continue
        seen[id(value)] = value
        if len(seen) > _MOST_VALUES:
            _LOGGER.warning("tool %s holds more than can be looked into: sub-agents in it may be missed", tool.name)
            break
        try:
            if _is_graph(value):
                found[id(value)] = value
            else:
                waiting.extend([*_reached(value)])
        except Exception:  # what stands in for something that is made later may raise whatever it is asked
            _LOGGER.debug("a %s behind tool %s cannot be looked into", type(value).__name__, tool.name)
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
            yield from (value.__func__, value.__self__)
            yield from _fields(value.__self__)
        case partial():
            yield from (value.func, *value.args, *value.keywords.values())
        case RunnableLambda():
            yield from (getattr(cast(Any, value), name, None) for name in ("func", "afunc"))
        case BaseTool():
            yield from _code_of(value)
        case RunnableSerializable():  # bindings, sequences, fallbacks, branches and their like
            yield from _fields(value)
        case dict():  # no other mapping: to read one may be to load it from a disk
            yield from cast("dict[Any, Any]", value).values()
        case list() | tuple() | set() | frozenset():
            yield from cast("list[Any]", value)
        case _ if _is_own(sys.modules.get(type(value).__module__)):
            yield from _fields(value)
        case _:
            return


def _fields(value: Any) -> Sequence[Any]:
    """What an object holds, without asking it."""
    try:
        return [*object.__getattribute__(value, "__dict__").values()]
    except AttributeError:
        return ()


def _captured(function: FunctionType) -> Generator[Any]:
    """What a function closed over, its defaults, and what it names of globals, modules and objects."""
    yield getattr(function, "__wrapped__", None)
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    names = [*_names(function.__code__)]
    for cell in function.__closure__ or ():
        try:
            yield from _named(cell.cell_contents, names, function)
        except ValueError:  # not filled yet
            continue
    for name in names:
        module = sys.modules.get(name)  # where it is imported inside of the function
        yield from _named(function.__globals__.get(name, module), names, function)


def _named(value: Any, names: Iterable[str], function: FunctionType) -> Generator[Any]:
    """A value that a function names, and what it names of that; of functions those of installed packages are not."""
    if issubclass(type(value), ModuleType):  # `isinstance` asks the value, and what stands in for another may raise
        for name in names:
            yield from _named_function_or_value(vars(value).get(name), function)
        return
    yield from _named_function_or_value(value, function)
    if _is_own(sys.modules.get(type(value).__module__)):
        for name in names:
            method: Any = getattr_static(cast(Any, type(value)), name, None)
            method = method.__func__ if isinstance(method, staticmethod) else method
            if isinstance(method, FunctionType):
                yield method


def _named_function_or_value(value: Any, function: FunctionType) -> Generator[Any]:
    if not issubclass(type(value), FunctionType) or _is_of(value, function):
        yield value


def _is_of(named: FunctionType, function: FunctionType) -> bool:
    """Whether a function is of the same package as another one, or installed nowhere."""
    packages = {str(each.__module__).partition(".")[0] for each in (named, function)}
    return len(packages) == 1 or _is_own(sys.modules.get(named.__module__))


def _is_own(module: ModuleType | None) -> bool:
    """Whether a module is the user's own: neither Python's nor of an installed package."""
    file = getattr(module, "__file__", None)
    return (module is not None and module.__name__ == "__main__") or (
        file is not None and not file.startswith(_INSTALLED)
    )


def _names(code: CodeType) -> Generator[str]:
    """Of globals and attributes, in the function and in those inside of it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
