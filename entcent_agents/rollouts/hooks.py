"""Where the guard gets between a graph and its tools (checked against langgraph-prebuilt 1.1.2).

Every tool node of a graph is hooked in place, once; the hook passes straight through outside of rollouts. Tools that
a node calls without a tool node come through `guarded`, or are seen by `ToolWatch`, which refuses what may do harm.
This file alone leans on names that LangGraph does not promise: `_execute_tool_async` and `_execute_tool_sync` of
`ToolNode`, its `_injected_args`, and `__pregel_scratchpad`. `tests/rollouts/test_hooks.py` fails where they change.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Iterable
from contextvars import Context, copy_context
from queue import SimpleQueue
from typing import Any, Final, cast
from uuid import UUID

from langchain_core.messages import ToolMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import ensure_config
from langchain_core.tools import BaseTool
from langgraph.prebuilt import ToolNode
from langgraph.prebuilt.tool_node import ToolCallRequest
from pydantic import ConfigDict

from entcent_agents.capture.handlers import ModelAndToolHandler
from entcent_agents.effects import Effect
from entcent_agents.errors import EffectError
from entcent_agents.rollouts.calls import Call, Run
from entcent_agents.rollouts.enclosing import enclosing_effects
from entcent_agents.rollouts.guard import NUMBERED, Guard, current_guard

_HOOKED: Final = "_entcent_hooked"
_LONGEST_BLOCK_SECONDS: Final = 5.0


def hook(nodes: Iterable[ToolNode]) -> None:
    """Put the guard before the tools of these nodes, for rollouts alone."""
    for node in nodes:
        if not hasattr(node, _HOOKED):
            setattr(node, _HOOKED, True)
            _hook(node)


def guarded(tool: BaseTool) -> BaseTool:
    """The same tool, safe to be called directly by a node of a graph that runs as rollouts."""
    return tool if isinstance(tool, _GuardedTool) else _GuardedTool.around(tool)


class ToolWatch(ModelAndToolHandler):
    """Sees every tool that starts in a rollout, and refuses one that no guard has let through.

    Args:
        guard: The rollout's.
    """

    raise_error = True

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    def on_tool_start(self, serialized: dict[str, Any] | None, input_str: str, *, run_id: UUID, **kwargs: Any) -> None:
        """Refuse, where the tool may touch the real world."""
        tool = str((serialized or {}).get("name") or kwargs.get("name"))
        known = self._guard.effect_of(tool)
        outer = enclosing_effects()
        if Effect.EXTERNAL in outer or known.effect is Effect.READ:
            return
        if outer and (known.effect is Effect.WRITE or known.source == "unknown"):
            return  # part of a call that was declared as a whole
        raise EffectError(
            f"a node called the tool {tool!r}, which is {known.effect.value}, without a tool node, so that nobody "
            "could hold it: wrap it where the graph is made, guarded(tool) of entcent_agents.nodes, or declare "
            f"effects={{{tool!r}: READ}} if it changes nothing"
        )


class _Guarded:
    """A tool as a hooked tool node sees it: its calls go through the guard."""

    def __init__(self, tool: BaseTool, request: ToolCallRequest, guard: Guard, config: RunnableConfig, bare: bool):
        self._tool = tool
        self._guard = guard
        self._bare = bare
        call = request.tool_call
        self._call = Call(
            namespace=_namespace(config), id=call["id"] or "", tool=tool.name, arguments=dict(call["args"])
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tool, name)

    async def ainvoke(self, arguments: Any, config: RunnableConfig, **kwargs: Any) -> Any:
        return await _on_its_loop(
            self._guard, self._call, lambda: self._tool.ainvoke(arguments, config, **kwargs), self._bare
        )

    def invoke(self, arguments: Any, config: RunnableConfig, **kwargs: Any) -> Any:
        return _from_a_thread(
            self._guard, self._call, lambda: self._tool.invoke(arguments, config, **kwargs), self._bare
        )


def _hook(node: Any) -> None:
    run_async, run_sync = node._execute_tool_async, node._execute_tool_sync

    def seen(request: ToolCallRequest, config: RunnableConfig) -> ToolCallRequest:
        guard = current_guard.get()
        if guard is None or request.tool is None:
            return request
        injected = node._injected_args.get(request.tool_call["name"])
        bare = not (injected and (injected.state or injected.store or injected.runtime))
        return request.override(tool=_Guarded(request.tool, request, guard, config, bare))  # type: ignore[typeddict-item]

    async def execute_async(request: ToolCallRequest, input_type: Any, config: RunnableConfig) -> Any:
        return await run_async(seen(request, config), input_type, config)

    def execute_sync(request: ToolCallRequest, input_type: Any, config: RunnableConfig) -> Any:
        return run_sync(seen(request, config), input_type, config)

    node._execute_tool_async, node._execute_tool_sync = execute_async, execute_sync


class _GuardedTool(BaseTool):
    """A tool whose direct calls go through the guard."""

    model_config = ConfigDict(arbitrary_types_allowed=True)
    tool: BaseTool

    @classmethod
    def around(cls, tool: BaseTool) -> _GuardedTool:
        return cls(
            name=tool.name,
            description=tool.description,
            args_schema=tool.args_schema,
            metadata=tool.metadata,
            return_direct=tool.return_direct,
            response_format=tool.response_format,
            tool=tool,
        )

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        guard = current_guard.get()
        if guard is None:
            return await self.tool.ainvoke(input, config, **kwargs)
        call = _direct_call(guard, self.name, input, config)
        return _for(call, await _on_its_loop(guard, call, lambda: self.tool.ainvoke(input, config, **kwargs), True))

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        guard = current_guard.get()
        if guard is None:
            return self.tool.invoke(input, config, **kwargs)
        call = _direct_call(guard, self.name, input, config)
        return _for(call, _from_a_thread(guard, call, lambda: self.tool.invoke(input, config, **kwargs), True))

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("a guarded tool is called through invoke and ainvoke")


async def _on_its_loop(guard: Guard, call: Call, run: Run, bare: bool) -> Any:
    """Through the guard, from whatever loop the call is made on."""
    if asyncio.get_running_loop() is guard.loop:
        return await guard.call(call, run, shareable=bare)
    here = asyncio.get_running_loop()

    async def back_here() -> Any:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(run(), here))  # type: ignore[arg-type]

    there = asyncio.run_coroutine_threadsafe(guard.call(call, back_here, shareable=bare), guard.loop)
    return await asyncio.wrap_future(there)


def _from_a_thread(guard: Guard, call: Call, run: Any, bare: bool) -> Any:
    """Through the guard, from a thread that may wait."""
    if threading.get_ident() == guard.thread or not _runs(guard.loop):
        if guard.effect_of(call.tool).effect is Effect.READ:
            return run()
        raise EffectError(
            f"the tool {call.tool!r} is called synchronously while the event loop waits for it, where it cannot be "
            "held: await the graph or the tool node that makes the call, ainvoke instead of invoke, and give a tool "
            "node an asynchronous awrap_tool_call beside wrap_tool_call"
        )
    return _Waiting(run).for_what_comes_of(guard, call, bare)


def _runs(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether a loop does anything within a while: synchronous code in a coroutine keeps it from its work."""
    alive = threading.Event()
    loop.call_soon_threadsafe(alive.set)
    return alive.wait(_LONGEST_BLOCK_SECONDS)


class _Waiting:
    """A thread that waits for a call to be decided on, and makes it itself where it is to be made.

    Another thread for it might never come free: all of them may wait like this one.

    Args:
        run: Makes the call.
    """

    def __init__(self, run: Callable[[], Any]) -> None:
        self._run = run
        self._work: SimpleQueue[tuple[Context, concurrent.futures.Future[Any]] | None] = SimpleQueue()

    def for_what_comes_of(self, guard: Guard, call: Call, bare: bool) -> Any:
        deciding = asyncio.run_coroutine_threadsafe(guard.call(call, self._made, shareable=bare), guard.loop)
        deciding.add_done_callback(lambda _: self._work.put(None))
        while (asked := self._work.get()) is not None:
            context, made = asked
            if made.set_running_or_notify_cancel():
                try:
                    made.set_result(context.run(self._run))
                except BaseException as error:
                    made.set_exception(error)
        return deciding.result()

    async def _made(self) -> Any:
        made: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self._work.put((copy_context(), made))
        return await asyncio.wrap_future(made)


def _direct_call(guard: Guard, tool: str, given: Any, config: RunnableConfig | None) -> Call:
    """The call that a node makes; one without an id is numbered within the run of its task."""
    config = ensure_config(config)
    known = cast("dict[str, Any]", given) if isinstance(given, dict) else {"input": given}
    is_call = known.get("type") == "tool_call"
    call = Call(
        namespace=_namespace(config),
        id=known["id"] or "" if is_call else "",
        tool=tool,
        arguments=known["args"] if is_call else known,
    )
    return call if call.id else guard.numbered(call, config.get("configurable", {}).get("__pregel_scratchpad"))


def _for(call: Call, result: Any) -> Any:
    """A result that a person gave, or refused, as a call without an id gets it: the content alone."""
    ours = isinstance(result, ToolMessage) and result.tool_call_id == call.id and call.id.startswith(NUMBERED)
    return result.content if ours else result


def _namespace(config: RunnableConfig) -> str:
    return str(config.get("configurable", {}).get("checkpoint_ns", ""))
