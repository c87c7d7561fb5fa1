"""Provider payloads, normalised on arrival into `TokenLogprobs`.

The public names are loaded at first use: the shapes below are read without LangChain too.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from entcent_agents.capture.messages import capture_logprobs
    from entcent_agents.capture.settings import with_logprobs
    from entcent_agents.capture.tokens import estimated_prompt_tokens

__all__ = ["capture_logprobs", "estimated_prompt_tokens", "with_logprobs"]

_HOMES: Final = {"capture_logprobs": "messages", "estimated_prompt_tokens": "tokens", "with_logprobs": "settings"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
