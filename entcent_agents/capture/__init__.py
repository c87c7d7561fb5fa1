"""Provider payloads, normalised on arrival into `TokenLogprobs`.

The public names are loaded at first use: the shapes below are read without LangChain too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from entcent_agents.lazy import lazy_names

if TYPE_CHECKING:
    from entcent_agents.capture.messages import capture_logprobs
    from entcent_agents.capture.settings import with_logprobs
    from entcent_agents.capture.tokens import estimated_prompt_tokens
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {"messages": ("capture_logprobs",), "settings": ("with_logprobs",), "tokens": ("estimated_prompt_tokens",)},
    )

__all__ = ["capture_logprobs", "estimated_prompt_tokens", "with_logprobs"]
