"""Chat models that always bring their log-probabilities, and the embedded model server.

The public names are loaded at first use: the model store is used without LangChain. How requests are limited is in
`entcent_agents.chat.concurrency`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from entcent_agents.lazy import lazy_names

if TYPE_CHECKING:
    from entcent_agents.chat.capabilities import capabilities_of
    from entcent_agents.chat.embedded import open_embedded
    from entcent_agents.chat.model import ChatLogprobs
    from entcent_agents.chat.sampling import plain_sampling
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "capabilities": ("capabilities_of",),
            "embedded": ("open_embedded",),
            "model": ("ChatLogprobs",),
            "sampling": ("plain_sampling",),
        },
    )

__all__ = ["ChatLogprobs", "capabilities_of", "open_embedded", "plain_sampling"]
