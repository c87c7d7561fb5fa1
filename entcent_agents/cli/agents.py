"""Which agent `entcent run` runs: the user's own, or the one in graphs/ of a checkout."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Final

import entcent_agents
from entcent_agents.errors import ConfigurationError

_DEFAULT_AGENT: Final = Path("graphs") / "analyst.py"
Factory = Callable[..., Any]


def agent_factory(spec: str | None) -> Factory:
    """The factory that `--agent FILE:FACTORY` names, or the default agent's.

    Raises:
        ConfigurationError: Where there is no such file or function, or no default agent beside the package.
    """
    if spec is None:
        checkout = Path(entcent_agents.__file__).parent.parent
        file, name = checkout / _DEFAULT_AGENT, "make_agent"
        if not file.is_file():
            raise ConfigurationError(
                "the default agent comes with a checkout, not with the installed package: pass --agent FILE:FACTORY"
            )
        _importable(checkout)
    else:
        path, _, name = spec.rpartition(":")
        file = Path(path)
        if not path or not name:
            raise ConfigurationError(f"--agent {spec!r} must be FILE:FACTORY, such as agent.py:make_agent")
        if not file.is_file():
            raise ConfigurationError(f"--agent {spec!r}: there is no file {file}")
        _importable(file.resolve().parent)
    factory = getattr(_module(file), name, None)
    if not callable(factory):
        raise ConfigurationError(f"{file} has no function {name!r}: --agent takes FILE:FACTORY")
    return factory


def build_agent(factory: Factory, model: Any, environments: Collection[str]) -> Any:
    """Call a factory with what it takes: `(model, environments)`, or `(model)`.

    Raises:
        ConfigurationError: Where it returns something else than a compiled graph.
    """
    takes_both = len(inspect.signature(factory).parameters) > 1
    agent = factory(model, environments) if takes_both else factory(model)
    if not hasattr(agent, "ainvoke") or not hasattr(agent, "channels"):
        raise ConfigurationError(
            f"the agent's factory returned {type(agent).__name__}, not a compiled LangGraph graph: call .compile()"
        )
    return agent


def _module(file: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"entcent_user_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise ConfigurationError(f"{file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _importable(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
