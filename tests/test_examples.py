"""Every public name of the root shows in its docstring how it is used, and what it shows is run."""

from __future__ import annotations

import doctest
import inspect
from pathlib import Path

import pytest

import entcent_agents
from entcent_agents import testing

REFERENCE = {name: getattr(entcent_agents, name) for name in entcent_agents.__all__}
SHOWN = {**REFERENCE, **{name: getattr(testing, name) for name in ("scripted_logprobs", "scripted_rollouts")}}
FLAGS = doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL


def docstring_of(value: object) -> str:
    """Its own, not an inherited one; a constant is described by its class."""
    documented = value if inspect.isclass(value) or inspect.isfunction(value) else type(value)
    return inspect.cleandoc(documented.__doc__ or "")


@pytest.mark.parametrize("name", SHOWN)
def test_the_example_of_a_public_name_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    text = docstring_of(SHOWN[name])
    example = text.partition("\nExample:\n")[2]
    assert name in example, f"the docstring of {name} has no `Example:` that uses it"
    said: list[str] = []
    test = doctest.DocTestParser().get_doctest(example, {}, name, None, 0)
    assert 2 <= len(test.examples) <= 12
    doctest.DocTestRunner(optionflags=FLAGS).run(test, out=said.append)
    assert not said, "".join(said)
