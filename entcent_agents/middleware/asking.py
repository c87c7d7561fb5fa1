"""The models that are asked: as the run configures them, past LangChain's cache, and for log-probabilities.

Middleware further in may bring other models in (a fallback, a model for the occasion), so each call looks again at the
one it came to. A configurable model of `init_chat_model` names its class with the run, and until then it does not say
how to ask: `_configured` alone leans on a name that LangChain does not promise, and `tests/middleware/test_models.py`
fails where that changes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
from langchain_core.globals import get_llm_cache
from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import RunnableBinding
from langchain_core.runnables.config import ensure_config
from langchain_core.runnables.configurable import DynamicRunnable

from entcent_agents.capture.settings import with_logprobs_unless_set
from entcent_agents.errors import ConfigurationError, LogprobsMissingError

_CONFIGURABLE: Final = ("langchain", "_ConfigurableModel")


def asking(request: ModelRequest[Any], *, required: bool) -> ModelRequest[Any]:
    """The request to a model that asks for log-probabilities, unless somebody set how.

    Args:
        request: What the model is asked.
        required: Whether to refuse a model that gives none; otherwise it is asked without.

    Raises:
        ConfigurationError: Its provider, API or model gives none, and they are required.
    """
    model = as_configured(request.model)
    # A tool of the provider's own, which another of its APIs may not have.
    if not any(isinstance(tool, dict) and tool.get("type") != "function" for tool in request.tools):
        try:
            model = with_logprobs_unless_set(model)
        except ConfigurationError:
            if required:
                raise
    return request if model is request.model else request.override(model=model)


def asking_further_in(request: ModelRequest[Any], *, required: bool) -> ModelRequest[Any]:
    """The same for a request that middleware further in may have changed: one that cannot be asked is data.

    Raises:
        LogprobsMissingError: See `asking`. Others that ask at the same time may have come to another model.
    """
    try:
        return asking(request, required=required)
    except ConfigurationError as error:
        raise LogprobsMissingError(
            f"the model that this call came to was not asked: {error}, or pass on_unscorable='fallback'"
        ) from error


def sampled_anew(request: ModelRequest[Any]) -> ModelRequest[Any]:
    """The request to a model that asks no cache of LangChain's, which would answer all candidates alike."""
    model = _inside(as_configured(request.model), _uncached)
    return request if model is request.model else request.override(model=model)


def as_configured(model: BaseChatModel) -> BaseChatModel:
    """What a configurable model is in this run, bindings included; others as they are."""
    return _inside(model, _configured)


class LogprobsAsked(AgentMiddleware[Any, Any, Any]):
    """Asks for log-probabilities whichever model a call came to: the last in an agent's list.

    Args:
        required: Whether a model that gives none is refused.
    """

    def __init__(self, *, required: bool) -> None:
        super().__init__()
        self.required = required

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        """Ask."""
        return handler(asking_further_in(request, required=self.required))

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelResponse[Any]:
        """Ask."""
        return await handler(asking_further_in(request, required=self.required))


def _inside(model: Any, change: Callable[[Any], Any]) -> Any:
    """A model changed, or a binding of what it binds changed."""
    if not isinstance(model, RunnableBinding):
        return change(model)
    binding = cast("RunnableBinding[Any, Any]", model)
    bound = _inside(binding.bound, change)
    return binding if bound is binding.bound else binding.model_copy(update={"bound": bound})


def _configured(model: Any) -> Any:
    if isinstance(model, DynamicRunnable):  # of `configurable_fields` and `configurable_alternatives`
        dynamic = cast("DynamicRunnable[Any, Any]", model)
        chosen, _ = dynamic.prepare(ensure_config())
        return _inside(chosen.with_config(dynamic.config) if dynamic.config else chosen, _configured)
    kind = (type(model).__module__.partition(".")[0], type(model).__name__)
    return model._model() if kind == _CONFIGURABLE else model


def _uncached(model: Any) -> Any:
    asks = isinstance(model, BaseChatModel) and (model.cache or (model.cache is None and get_llm_cache() is not None))
    return model.model_copy(update={"cache": False}) if asks else model
