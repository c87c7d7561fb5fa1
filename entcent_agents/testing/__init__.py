"""For the tests of those who build on this library: a scripted chat model, and what an environment has to keep.

The public names are loaded at first use: environments are tested without LangChain.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from entcent_agents.lazy import lazy_names

if TYPE_CHECKING:
    from entcent_agents.testing.chat import Script, ScriptedChat, ScriptedTurn
    from entcent_agents.testing.conformance import EnvironmentConformance
    from entcent_agents.testing.rollouts import scripted_logprobs, scripted_rollouts
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "chat": ("Script", "ScriptedChat", "ScriptedTurn"),
            "conformance": ("EnvironmentConformance",),
            "rollouts": ("scripted_logprobs", "scripted_rollouts"),
        },
    )

__all__ = ["EnvironmentConformance", "Script", "ScriptedChat", "ScriptedTurn", "scripted_logprobs", "scripted_rollouts"]
