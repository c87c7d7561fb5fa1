"""Functions on a fork, as tools: in a rollout on its own fork, outside of rollouts on the real thing, call by call."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from threading import Lock
from typing import TypeVar

from langchain_core.tools import BaseTool, StructuredTool

from entcent_agents.effects import WRITE, Effect, declare
from entcent_agents.environments import (
    Environment,
    Fork,
    commit,
    current_environment,
    has_environments,
    use_environments,
)
from entcent_agents.errors import ConfigurationError

Function = Callable[..., str]
ForkT = TypeVar("ForkT", bound=Fork)


def fork_of(name: str, kind: type[ForkT]) -> ForkT:
    """The fork that a call acts on, of the kind that its tool was written for.

    Raises:
        ConfigurationError: There is no environment of that name, or it is of another kind.
    """
    fork = current_environment(name)
    if not isinstance(fork, kind):
        raise ConfigurationError(
            f"the environment {name!r} is a {type(fork.environment).__name__}, and its tools need the forks of another "
            f"kind ({kind.__name__}): pass such an environment, or other tools"
        )
    return fork


def bound_tools(
    functions: Mapping[Function, Effect], name: str, environment: Environment | None = None
) -> list[BaseTool]:
    """Tools that say what they do, and to which environment. Text that is no Unicode is for the model to mend.

    Args:
        functions: They find their fork with `current_environment(name)`; each with its effect.
        name: What they call the environment.
        environment: The real thing, for an agent that runs alone: a call outside of rollouts works on a fork of its
            own, and one of a WRITE tool commits it. None: such a call is a ConfigurationError.
    """
    writing = Lock()  # an agent calls tools side by side, and the second to commit would find another world
    return [
        declare(
            StructuredTool.from_function(
                _readable(_also_alone(function, effect, name, environment, writing) if environment else function),
                parse_docstring=True,
            ),
            effect,
            environment=name,
        )
        for function, effect in functions.items()
    ]


def _readable(function: Function) -> Function:
    """The function; halves of characters, which a model can write in JSON, are said to it."""

    @functools.wraps(function)
    def call(*args: object, **kwargs: object) -> str:
        try:
            return function(*args, **kwargs)
        except UnicodeEncodeError:
            return "Error: an argument holds characters that cannot be written as UTF-8."

    return call


def _also_alone(function: Function, effect: Effect, name: str, environment: Environment, writing: Lock) -> Function:
    """The function; outside of rollouts on a fork that is made for the call."""

    @functools.wraps(function)
    def call(*args: object, **kwargs: object) -> str:
        if has_environments():
            return function(*args, **kwargs)
        with writing if effect is WRITE else nullcontext():
            fork = environment.fork()
            try:
                with use_environments({name: fork}):
                    said = function(*args, **kwargs)
                if effect is WRITE:
                    commit([fork])
                return said
            finally:
                fork.discard()

    return call
