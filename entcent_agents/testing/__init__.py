"""For the tests of those who build on this library: a scripted chat model, and what an environment has to keep.

The public names are loaded at first use: environments are tested without LangChain.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from entcent_agents.testing.chat import Script, ScriptedChat, ScriptedTurn, scripted_logprobs
    from entcent_agents.testing.conformance import EnvironmentConformance

__all__ = ["EnvironmentConformance", "Script", "ScriptedChat", "ScriptedTurn", "scripted_logprobs"]

_HOMES: Final = {name: "chat" for name in __all__} | {"EnvironmentConformance": "conformance"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
