"""Chat models that always bring their log-probabilities, and the embedded model server.

The public names are loaded at first use: the model store is used without LangChain. How requests are limited is in
`entcent_agents.chat.concurrency`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from entcent_agents.chat.capabilities import capabilities_of
    from entcent_agents.chat.embedded import open_embedded
    from entcent_agents.chat.model import ChatLogprobs
    from entcent_agents.chat.sampling import plain_sampling

__all__ = ["ChatLogprobs", "capabilities_of", "open_embedded", "plain_sampling"]

_HOMES: Final = {
    "ChatLogprobs": "model",
    "capabilities_of": "capabilities",
    "open_embedded": "embedded",
    "plain_sampling": "sampling",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
