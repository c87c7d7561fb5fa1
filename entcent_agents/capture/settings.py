"""`with_logprobs`: a copy of a chat model that asks its provider for log-probabilities, each class its own way.

Classes are known by their package and name; no integration is imported.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast
from urllib.parse import urlsplit

from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import Runnable, RunnableBinding

from entcent_agents.errors import ConfigurationError

ModelT = TypeVar("ModelT", bound="Runnable[Any, Any]")
Changes = dict[str, Any]

_REASONS: Final = re.compile(r"(?:^|/)(?:o[1-9](?:-|$)|gpt-[5-9](?!-chat))", re.IGNORECASE)
"""OpenAI's models that reason, also behind a gateway's prefix."""
_RESPONSES_ONLY: Final = frozenset({"context_management", "include", "previous_response_id", "reasoning", "truncation"})
"""Settings that only OpenAI's Responses API takes."""
_NO_LOGPROBS: Final[Mapping[tuple[str, str], str]] = {
    ("langchain_anthropic", "ChatAnthropic"): "Anthropic",
    ("langchain_groq", "ChatGroq"): "Groq",
}
_NAMES: Final = ("model_name", "model", "model_id", "deployment_name")
_ELSEWHERE: Final = "choose a model or a server that gives them (llama.cpp, vLLM and SGLang do; see docs/providers.md)"


def with_logprobs(model: ModelT, top: int = 10) -> ModelT:
    """A copy of a chat model that asks for log-probabilities the way its class wants it.

    Streaming is switched off in the copy: several integrations lose log-probabilities in streams. A binding
    (`model.bind(...)`, `model.bind_tools(...)`) gives a binding of such a copy.

    Args:
        model: A LangChain chat model, or a binding of one. It stays as it is.
        top: k, the alternatives asked for at each token.

    Raises:
        ConfigurationError: Where it cannot work: a class that is not known, a provider, an API or a model that gives
            none, or more alternatives than the provider gives. The message names the reason and what to do.

    Example:
        >>> from entcent_agents import with_logprobs
        >>> from langchain_openai import ChatOpenAI
        >>> model = with_logprobs(ChatOpenAI(model="my-model", base_url="http://127.0.0.1:8000/v1", api_key="none"))
        >>> model.logprobs, model.top_logprobs
        (True, 10)
    """
    if top < 1:
        raise ConfigurationError(f"top={top}: ask for at least 1 alternative; entropy needs several")
    if isinstance(model, RunnableBinding):
        binding = cast("RunnableBinding[Any, Any]", model)
        _check_bound(binding.kwargs)
        return cast(ModelT, binding.model_copy(update={"bound": with_logprobs(binding.bound, top)}))
    if not isinstance(model, BaseChatModel):
        raise ConfigurationError(
            f"{type(model).__name__} is no chat model: apply with_logprobs to the chat model itself, before it goes "
            "into a chain, with_structured_output, fallbacks or retries"
        )
    provider = _provider_of(model)
    changes = provider.changes(model, top)
    if top > (most := provider.most(model)):
        raise ConfigurationError(
            f"top={top}: {provider.name} gives {most} alternatives at most; use with_logprobs(model, top={most})"
        )
    return model.model_copy(update=changes)


def with_logprobs_unless_set(model: ModelT, top: int = 10) -> ModelT:
    """As `with_logprobs`, for a chat model that somebody may have set already.

    One that asks for log-probabilities, or whose class is not known, stays as it is. Where its provider gives fewer
    alternatives, it is asked for as many as there are.

    Args:
        model: A LangChain chat model, or a binding of one.
        top: k, the alternatives asked for at each token, at most.

    Raises:
        ConfigurationError: Its provider, API or model gives none, or what is bound to it would prevent it.
    """
    if isinstance(model, RunnableBinding):
        binding = cast("RunnableBinding[Any, Any]", model)
        asks = binding.kwargs.get("logprobs") or binding.kwargs.get("top_logprobs")
        try:  # inside too where the binding asks: agents with tools bind what is inside anew
            inside = with_logprobs_unless_set(binding.bound, binding.kwargs.get("top_logprobs") or top)
        except ConfigurationError:
            if asks:
                return model
            raise
        if inside is binding.bound:
            return model
        if not asks:
            _check_bound(binding.kwargs)
        return cast(ModelT, binding.model_copy(update={"bound": inside}))
    if not isinstance(model, BaseChatModel):
        return model
    provider = _known_provider(model)
    if provider is None or _asks(model):
        return model
    return with_logprobs(model, int(min(top, provider.most(model))))


def _asks(model: BaseChatModel) -> bool:
    kwargs: dict[str, Any] = getattr(model, "model_kwargs", None) or {}
    set_here = any(getattr(model, name, None) or kwargs.get(name) for name in ("logprobs", "top_logprobs"))
    return set_here or isinstance(getattr(model, "client", None), _AskingLlama)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Provider:
    """How one class is asked."""

    name: str
    most: Callable[[BaseChatModel], float]
    changes: Callable[[BaseChatModel, int], Changes]


def _check_bound(kwargs: Mapping[str, Any]) -> None:
    for name in ("logprobs", "top_logprobs", "stream"):
        if name in kwargs:
            raise ConfigurationError(
                f"the binding sets {name}={kwargs[name]!r}, which would win over with_logprobs: leave it out of bind()"
            )
    for name in sorted(_RESPONSES_ONLY & set(kwargs)):
        raise ConfigurationError(
            f"the binding sets {name}, which only the Responses API takes, and that drops log-probabilities: "
            "leave it out of bind()"
        )


def _known_provider(model: BaseChatModel) -> _Provider | None:
    for base in type(model).__mro__:
        key = (base.__module__.partition(".")[0], base.__name__)
        if key in _NO_LOGPROBS:
            raise ConfigurationError(f"{_NO_LOGPROBS[key]} gives no log-probabilities at all: {_ELSEWHERE}")
        if key in _PROVIDERS:
            return _PROVIDERS[key]
    return None


def _provider_of(model: BaseChatModel) -> _Provider:
    if provider := _known_provider(model):
        return provider
    raise ConfigurationError(
        f"{type(model).__module__}.{type(model).__name__} is not known: set by hand what makes its provider return "
        "log-probabilities (often model.bind(logprobs=True, top_logprobs=10), with disable_streaming=True) so that "
        'its messages carry them in response_metadata["logprobs"], and check with capture_logprobs(message)'
    )


def _unstreamed(model: BaseChatModel) -> Changes:
    return {"disable_streaming": True} | ({"streaming": False} if "streaming" in type(model).model_fields else {})


def _openai(model: BaseChatModel, top: int) -> Changes:
    """ChatOpenAI and all that derive from it."""
    if getattr(model, "use_responses_api", None):
        raise ConfigurationError(
            f"{type(model).__name__} is set to the Responses API (by use_responses_api, or by a setting or a model "
            "that needs it), which drops log-probabilities: build it with use_responses_api=False, and without "
            "include, reasoning, truncation and context_management"
        )
    kwargs: dict[str, Any] = getattr(model, "model_kwargs", {})
    for name in sorted(_RESPONSES_ONLY & set(kwargs)):
        raise ConfigurationError(
            f"model_kwargs has {name}, which only the Responses API takes, and that drops log-probabilities: "
            "leave it out"
        )
    if not _elsewhere(model) and getattr(model, "reasoning_effort", None) != "none":
        _check_reasoning(_name_of(model))
    return _unstreamed(model) | {
        "logprobs": True,
        "top_logprobs": top,
        "use_responses_api": False,
        "model_kwargs": _without_logprobs(kwargs),
    }


def _deepseek(model: BaseChatModel, top: int) -> Changes:
    if "reasoner" in _name_of(model):
        raise ConfigurationError(
            f"{_name_of(model)} refuses logprobs (its thinking mode answers them with an error): use deepseek-chat"
        )
    return _openai(model, top)


def _together(model: BaseChatModel, top: int) -> Changes:
    """The number of alternatives is `logprobs` itself; the field of ChatOpenAI takes a truth value only."""
    changes = _openai(model, top)
    return changes | {
        "logprobs": None,
        "top_logprobs": None,
        "model_kwargs": changes["model_kwargs"] | {"logprobs": top},
    }


def _ollama(model: BaseChatModel, top: int) -> Changes:
    return _unstreamed(model) | {"logprobs": True, "top_logprobs": top}


def _in_model_kwargs(model: BaseChatModel, top: int) -> Changes:
    """Classes without fields for it, or with fields that they never send."""
    kwargs: dict[str, Any] = getattr(model, "model_kwargs", None) or {}
    _check_reasoning(_name_of(model))
    return _unstreamed(model) | {"model_kwargs": {**kwargs, "logprobs": True, "top_logprobs": top}}


def _openrouter(model: BaseChatModel, top: int) -> Changes:
    """Routed to those providers alone that honour the request; the others ignore it."""
    _check_gateway(_name_of(model))
    routing: dict[str, Any] = getattr(model, "openrouter_provider", None) or {}
    return _in_model_kwargs(model, top) | {"openrouter_provider": {**routing, "require_parameters": True}}


def _litellm(model: BaseChatModel, top: int) -> Changes:
    _check_gateway(_name_of(model))
    return _in_model_kwargs(model, top)


def _huggingface(model: BaseChatModel, top: int) -> Changes:
    llm = type(getattr(model, "llm", None)).__name__
    if llm != "HuggingFaceEndpoint":
        raise ConfigurationError(
            f"ChatHuggingFace over {llm} passes no settings on and returns text alone: use "
            "ChatHuggingFace(llm=HuggingFaceEndpoint(...)), or serve the model with vLLM or llama.cpp"
        )
    return _in_model_kwargs(model, top)


def _llamacpp(model: BaseChatModel, top: int) -> Changes:
    kwargs: dict[str, Any] = getattr(model, "model_kwargs", None) or {}
    if not (getattr(model, "logits_all", False) or kwargs.get("logits_all")):
        raise ConfigurationError(
            "ChatLlamaCpp was built without logits_all=True, and llama-cpp-python then refuses log-probabilities: "
            "build it with ChatLlamaCpp(..., logits_all=True)"
        )
    client: Any = getattr(model, "client", None)
    if isinstance(client, _AskingLlama):
        client = client.asked
    return _unstreamed(model) | {"client": _AskingLlama(client, top)}


class _AskingLlama:
    """The client of ChatLlamaCpp, asked for log-probabilities: the class sends a number where a truth value counts."""

    def __init__(self, asked: Any, top: int) -> None:
        self.asked = asked
        self._wanted = {"logprobs": True, "top_logprobs": top}

    def create_chat_completion(self, *args: Any, **kwargs: Any) -> Any:
        """As the client's own, with log-probabilities."""
        return self.asked.create_chat_completion(*args, **(kwargs | self._wanted))

    def __getattr__(self, name: str) -> Any:
        if name in ("asked", "_wanted"):  # not set yet: a copy in the making asks
            raise AttributeError(name)
        return getattr(self.asked, name)


def _ours(model: BaseChatModel, top: int) -> Changes:
    return {"top_logprobs": top} if "top_logprobs" in type(model).model_fields else {}


def _name_of(model: BaseChatModel) -> str:
    return next((str(name) for key in _NAMES if (name := getattr(model, key, None))), "")


def _check_reasoning(name: str) -> None:
    if _REASONS.search(name):
        raise ConfigurationError(
            f"{name} reasons, and OpenAI returns no log-probabilities for models that do: choose one that does not "
            "(gpt-4.1, gpt-4o), or " + _ELSEWHERE
        )


def _check_gateway(name: str) -> None:
    if "anthropic/" in name or "claude" in name or name.startswith("groq/"):
        raise ConfigurationError(f"{name}: its provider gives no log-probabilities: {_ELSEWHERE}")
    if "responses/" in name:
        raise ConfigurationError(
            f"{name} goes to the Responses API, which drops log-probabilities: name the model without responses/"
        )


def _elsewhere(model: BaseChatModel) -> bool:
    """Whether a class of OpenAI's talks to a server that is not OpenAI's."""
    host = urlsplit(str(getattr(model, "openai_api_base", None) or "")).hostname or ""
    return bool(host) and not host.endswith(("openai.com", "azure.com"))


def _without_logprobs(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in kwargs.items() if key not in ("logprobs", "top_logprobs")}


def _at_most(most: float) -> Callable[[BaseChatModel], float]:
    return lambda _: most


def _openai_most(model: BaseChatModel) -> float:
    """20 at OpenAI; other servers have their own limit and say so themselves."""
    return float("inf") if _elsewhere(model) else 20


_UNLIMITED: Final = _at_most(float("inf"))
_PROVIDERS: Final[Mapping[tuple[str, str], _Provider]] = {
    ("entcent_agents", "ChatLogprobs"): _Provider(name="the server", most=_UNLIMITED, changes=_ours),
    ("entcent_agents", "ScriptedChat"): _Provider(name="the script", most=_UNLIMITED, changes=_ours),
    ("langchain_openai", "BaseChatOpenAI"): _Provider(name="OpenAI", most=_openai_most, changes=_openai),
    ("langchain_deepseek", "ChatDeepSeek"): _Provider(name="DeepSeek", most=_at_most(20), changes=_deepseek),
    ("langchain_together", "ChatTogether"): _Provider(name="Together", most=_at_most(20), changes=_together),
    ("langchain_xai", "ChatXAI"): _Provider(name="xAI", most=_at_most(8), changes=_openai),
    ("langchain_fireworks", "ChatFireworks"): _Provider(name="Fireworks", most=_at_most(5), changes=_in_model_kwargs),
    ("langchain_openrouter", "ChatOpenRouter"): _Provider(name="OpenRouter", most=_at_most(20), changes=_openrouter),
    ("langchain_litellm", "ChatLiteLLM"): _Provider(name="LiteLLM", most=_at_most(20), changes=_litellm),
    ("langchain_huggingface", "ChatHuggingFace"): _Provider(
        name="Hugging Face", most=_at_most(5), changes=_huggingface
    ),
    ("langchain_ollama", "ChatOllama"): _Provider(name="Ollama", most=_at_most(20), changes=_ollama),
    ("langchain_community", "ChatLlamaCpp"): _Provider(name="llama.cpp", most=_UNLIMITED, changes=_llamacpp),
}
