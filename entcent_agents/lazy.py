"""Public names that are loaded at first use (PEP 562), so that importing a package stays light.

A package that has such names says where they are, and the type checker sees plain imports:

    if TYPE_CHECKING:
        from entcent_agents.chat.model import ChatLogprobs
    else:
        __getattr__, __dir__ = lazy_names(__name__, {"model": ("ChatLogprobs",)})

Not outside the `else`: a checker that sees a module's `__getattr__` believes in every name that is misspelt.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping
from importlib import import_module
from typing import Any, Final

from entcent_agents.errors import MissingExtraError

_EXTRAS: Final = {"langchain": ("langchain", "langchain"), "opentelemetry": ("opentelemetry-api", "otel")}
"""By the package that is imported: its distribution, and the extra of this library that brings it."""


def lazy_names(
    package: str, modules: Mapping[str, Collection[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The `__getattr__` and `__dir__` of a package some of whose names are loaded at first use.

    Args:
        package: Its `__name__`.
        modules: The names, by the module of the package that has them.

    Returns:
        `__getattr__` raises `AttributeError` on any other name, and `MissingExtraError` where a name needs a package
        that an extra brings. `__dir__` lists the names that are loaded and those that are not yet.
    """
    homes = {name: f"{package}.{module}" for module, names in modules.items() for name in names}

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            value = getattr(import_module(homes[name]), name)
        except ModuleNotFoundError as error:
            missing = str(error.name).partition(".")[0]
            if missing not in _EXTRAS:
                raise
            raise MissingExtraError(*_EXTRAS[missing]) from None
        setattr(sys.modules[package], name, value)
        return value

    def listed() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes})

    return load, listed
