"""Spans of the calls of one rollout: those of models and of tools."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final, TypeAlias, cast
from urllib.parse import urlsplit
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage
from langchain_core.outputs import LLMResult
from langgraph.errors import GraphBubbleUp
from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer
from opentelemetry.util.types import AttributeValue

_PROVIDERS: Final = {
    "entcent": "openai",  # whose API it speaks, to whatever server
    "amazon_bedrock": "aws.bedrock",
    "azure": "azure.ai.openai",
    "google_genai": "gcp.gemini",
    "google_vertexai": "gcp.vertex_ai",
    "mistral": "mistral_ai",
    "mistralai": "mistral_ai",
    "xai": "x_ai",
}
"""LangChain's names of providers, where the conventions have others."""

Attributes: TypeAlias = dict[str, AttributeValue]


class CallSpans(BaseCallbackHandler):
    """Follows one rollout through its callbacks, with a span for each call.

    Spans are ended when the round is settled, with the time at which they were over: what has ended cannot be marked.

    Args:
        tracer: Makes the spans.
        root: The context of the rollout's own span.
        common: Attributes of every span.
    """

    run_inline = True

    def __init__(self, tracer: Tracer, root: Context, common: Attributes) -> None:
        self._tracer = tracer
        self._root = root
        self._common = common
        self._open: dict[UUID, Span] = {}
        self._before: dict[UUID, Context] = {}  # what was current when a tool began
        self._closed = False
        self.over: list[tuple[Span, int]] = []

    @property
    def ignore_chain(self) -> bool:
        """Yes: nodes have no spans, and there are many of them."""
        return True

    def close(self) -> None:
        """End what was cut off: nobody is told of the end of a call that was cancelled."""
        self._closed = True
        for run_id in [*self._open]:
            self._end(run_id, "CancelledError")

    def on_chat_model_start(
        self, serialized: Any, messages: Any, *, run_id: UUID, metadata: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """A chat model is asked."""
        self._ask("chat", serialized, run_id, metadata or {})

    def on_llm_start(
        self, serialized: Any, prompts: Any, *, run_id: UUID, metadata: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """A model that completes text is asked."""
        self._ask("text_completion", serialized, run_id, metadata or {})

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        """It answered."""
        if (span := self._open.get(run_id)) is not None:
            span.set_attributes(_answered(response))
        self._end(run_id)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """It failed."""
        self._end(run_id, error_of(error))

    def on_tool_start(self, serialized: dict[str, Any] | None, input_str: str, *, run_id: UUID, **kwargs: Any) -> None:
        """A tool runs; the spans that it makes itself hang below its own."""
        name = str((serialized or {}).get("name") or kwargs.get("name"))
        attributes: Attributes = {"gen_ai.tool.name": name, "gen_ai.tool.type": "function"}
        if call_id := kwargs.get("tool_call_id"):
            attributes["gen_ai.tool.call.id"] = str(call_id)
        span = self._start("execute_tool", name, SpanKind.INTERNAL, attributes, run_id)
        if span is not None:
            self._before[run_id] = context.get_current()
            context.attach(trace.set_span_in_context(span))

    def on_tool_end(self, output: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """It is done."""
        self._leave(run_id)
        self._end(run_id)

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """It raised."""
        self._leave(run_id)
        self._end(run_id, error_of(error))

    def _ask(self, operation: str, serialized: Any, run_id: UUID, metadata: Mapping[str, Any]) -> None:
        model = str(metadata.get("ls_model_name") or "")
        named: Attributes = {"gen_ai.request.model": model} if model else {}
        attributes = named | _asked(metadata) | _server(serialized)
        self._start(operation, model, SpanKind.CLIENT, attributes, run_id)

    def _start(self, operation: str, what: str, kind: SpanKind, attributes: Attributes, run_id: UUID) -> Span | None:
        if self._closed:  # a thread that nobody waits for any more
            return None
        named: Attributes = {"gen_ai.operation.name": operation}
        span = self._tracer.start_span(
            f"{operation} {what}".strip(), self._around(), kind, attributes=named | self._common | attributes
        )
        self._open[run_id] = span
        return span

    def _around(self) -> Context:
        """What is current where the call is made: a tool, or a span of the user's; else the rollout."""
        here, root = (trace.get_current_span(each).get_span_context() for each in (None, self._root))
        return context.get_current() if here.trace_id == root.trace_id else self._root

    def _leave(self, run_id: UUID) -> None:
        """Put back what was current before a tool, where the tool's span still is."""
        before = self._before.pop(run_id, None)
        if before is not None and trace.get_current_span() is self._open.get(run_id):
            context.attach(before)

    def _end(self, run_id: UUID, error: str | None = None) -> None:
        span = self._open.pop(run_id, None)
        if span is not None:
            mark_error(span, error)
            self.over.append((span, time.time_ns()))


def mark_error(span: Span, error: str | None) -> None:
    """Give a span its error, by name alone: messages quote what was generated."""
    if error is not None:
        span.set_attribute("error.type", error)
        span.set_status(Status(StatusCode.ERROR))


def error_of(stop: BaseException | None) -> str | None:
    """The name of what stopped something; None where it is no error, but a question or a handoff."""
    return None if stop is None or isinstance(stop, GraphBubbleUp) else type(stop).__name__


def _asked(metadata: Mapping[str, Any]) -> Attributes:
    provider = str(metadata.get("ls_provider") or "_OTHER")
    found: Attributes = {"gen_ai.provider.name": _PROVIDERS.get(provider, provider)}
    for key, name in (("ls_temperature", "temperature"), ("ls_max_tokens", "max_tokens")):
        if isinstance(value := metadata.get(key), int | float):
            found[f"gen_ai.request.{name}"] = value
    return found


def _server(serialized: Any) -> Attributes:
    """Where the model is, as far as its settings say."""
    settings = cast("Mapping[str, Any]", (serialized or {}).get("kwargs") or {})
    address = next((settings[key] for key in ("base_url", "openai_api_base", "endpoint") if settings.get(key)), "")
    try:
        parts = urlsplit(address) if isinstance(address, str) else None
        port = parts and (parts.port or {"https": 443, "http": 80}.get(parts.scheme))
    except ValueError:  # no address that could be asked
        return {}
    return {"server.address": parts.hostname, "server.port": port} if parts and parts.hostname and port else {}


def _answered(response: LLMResult) -> Attributes:
    generations = [generation for batch in response.generations for generation in batch]
    messages = [message for each in generations if isinstance(message := getattr(each, "message", None), AIMessage)]
    told = [{**(each.generation_info or {}), **_metadata(each)} for each in generations]
    found: Attributes = {}
    if reasons := [str(each["finish_reason"]) for each in told if each.get("finish_reason")]:
        found["gen_ai.response.finish_reasons"] = reasons
    if model := next((name for each in told if (name := each.get("model_name") or each.get("model"))), None):
        found["gen_ai.response.model"] = str(model)
    if usages := [message.usage_metadata for message in messages if message.usage_metadata]:
        found["gen_ai.usage.input_tokens"] = sum(usage["input_tokens"] for usage in usages)
        found["gen_ai.usage.output_tokens"] = sum(usage["output_tokens"] for usage in usages)
        if cached := sum(usage.get("input_token_details", {}).get("cache_read", 0) for usage in usages):
            found["gen_ai.usage.cache_read.input_tokens"] = cached
    return found


def _metadata(generation: Any) -> Mapping[str, Any]:
    return getattr(getattr(generation, "message", None), "response_metadata", {})
