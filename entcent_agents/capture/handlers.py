"""Callback handlers that cost little where they have nothing to hear."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.callbacks.manager import handle_event


class ModelAndToolHandler(BaseCallbackHandler):
    """Is told of model calls and tools, on the thread that makes them, and of no step of a graph.

    LangChain would look a method up for every event that is not ignored. For the start of a chat model that a handler
    does not know of it would even write the whole conversation as one text, for the handler to ignore that.

    Attributes:
        hears_starts: Whether it is told that a chat model starts.
        hears_answers: Whether it is told of tokens, answers and errors of models.
    """

    run_inline = True
    hears_starts: ClassVar[bool] = False
    hears_answers: ClassVar[bool] = False

    @property
    def ignore_chat_model(self) -> bool:
        """Of a chat model, its start alone."""
        return not self.hears_starts

    @property
    def ignore_llm(self) -> bool:
        """All else of any model."""
        return not self.hears_answers

    @property
    def ignore_chain(self) -> bool:
        """Steps of graphs are chains."""
        return True

    @property
    def ignore_retriever(self) -> bool:
        """Those that tools use."""
        return True

    @property
    def ignore_custom_event(self) -> bool:
        """Those of the user's own."""
        return True


class HandlerGroup(ModelAndToolHandler):
    """Several handlers as one: LangChain looks each handler over at every model call, to see whether it streams.

    Args:
        members: Told of every event in this order.
    """

    raise_error = True  # what reaches the group was raised by a member that wants its errors raised
    hears_starts = True
    hears_answers = True

    def __init__(self, *members: ModelAndToolHandler) -> None:
        self.members = members

    def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
        """Told to all."""
        self._tell("on_chat_model_start", "ignore_chat_model", *args, **kwargs)

    def on_llm_start(self, *args: Any, **kwargs: Any) -> None:
        """Told to all."""
        self._tell("on_llm_start", "ignore_llm", *args, **kwargs)

    def on_llm_new_token(self, *args: Any, **kwargs: Any) -> None:
        """Told to all."""
        self._tell("on_llm_new_token", "ignore_llm", *args, **kwargs)

    def on_llm_end(self, *args: Any, **kwargs: Any) -> None:
        """Told to all."""
        self._tell("on_llm_end", "ignore_llm", *args, **kwargs)

    def on_llm_error(self, *args: Any, **kwargs: Any) -> None:
        """Told to all."""
        self._tell("on_llm_error", "ignore_llm", *args, **kwargs)

    def on_tool_start(self, *args: Any, **kwargs: Any) -> None:
        """Told to all."""
        self._tell("on_tool_start", "ignore_agent", *args, **kwargs)

    def on_tool_end(self, *args: Any, **kwargs: Any) -> None:
        """Told to all."""
        self._tell("on_tool_end", "ignore_agent", *args, **kwargs)

    def on_tool_error(self, *args: Any, **kwargs: Any) -> None:
        """Told to all."""
        self._tell("on_tool_error", "ignore_agent", *args, **kwargs)

    def _tell(self, event: str, ignored: str, *args: Any, **kwargs: Any) -> None:
        handle_event([*self.members], event, ignored, *args, **kwargs)


def single(handlers: Iterable[BaseCallbackHandler]) -> Iterator[BaseCallbackHandler]:
    """The handlers, with the members of groups in the place of the groups."""
    for handler in handlers:
        if isinstance(handler, HandlerGroup):
            yield from handler.members
        else:
            yield handler
