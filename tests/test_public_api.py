"""The surface: names, weight of the import, order."""

from __future__ import annotations

import re
import subprocess
import sys
from inspect import signature
from pathlib import Path

import pytest
from langchain.agents import create_agent

import entcent_agents
from entcent_agents import (
    capture,
    chat,
    environments,
    ledger,
    middleware,
    nodes,
    prebuilt,
    recordings,
    selection,
    telemetry,
    testing,
)
from entcent_agents.nodes.settings import RolloutSettings


def test_public_names_are_sorted_and_there():
    modules = (capture, chat, environments, ledger, middleware, nodes, recordings, selection, telemetry, testing)
    for module in (entcent_agents, *modules):
        assert module.__all__ == sorted(module.__all__, key=lambda name: (not name.isupper(), name))
        assert [name for name in module.__all__ if not hasattr(module, name)] == []


def test_importing_the_package_loads_numpy_and_nothing_heavier():
    code = "import sys, entcent_agents; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "numpy" in loaded
    heavy = {"langchain_core", "langgraph", "openai", "pydantic", "rich", "typer", "tiktoken", "msgspec", "httpx2"}
    assert heavy.isdisjoint(loaded)


def test_reading_a_provider_shape_loads_no_langchain():
    code = "import sys, entcent_agents.capture.llama; print('langchain_core' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_environments_are_tested_without_langchain():
    code = "import sys, entcent_agents.testing.conformance; print('langchain_core' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_lazy_packages_have_no_name_that_they_do_not_say():
    for module in (entcent_agents, capture, chat, middleware, telemetry, testing):
        with pytest.raises(AttributeError, match="no attribute 'nothing'"):
            _ = module.nothing


def test_every_public_name_is_in_the_reference_and_no_other():
    page = (Path(__file__).parent.parent / "docs" / "public-names.md").read_text()
    names = [
        name
        for row in page.splitlines()
        if row.startswith("| `")
        for name in re.findall("`([^`]+)`", row.split("|")[1])
    ]
    assert sorted(names) == sorted(entcent_agents.__all__)


def test_a_user_needs_at_most_forty_names_and_autocompletion_knows_them_before_they_are_loaded():
    assert len(entcent_agents.__all__) <= 40
    code = (
        "import sys, entcent_agents as root; print({*root.__all__} - {*dir(root)})\n"
        "import entcent_agents.chat as chat; print({*chat.__all__} - {*dir(chat)}, 'langchain_core' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said == "set()\nset() False\n"


def test_a_name_that_needs_an_extra_says_which():
    code = (
        "import sys; sys.modules['langchain'] = None\n"
        "import entcent_agents\n"
        "try: entcent_agents.EntropyCentroidMiddleware\n"
        "except entcent_agents.EntcentError as error: print(error)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said == "langchain is not installed: run  pip install 'entcent-agents[langchain]'\n"


def test_what_is_handed_on_to_the_rollouts_has_the_types_of_their_own_settings():
    own = nodes.ParallelRollouts.__init__.__annotations__
    said = {name: kind.__forward_arg__ for name, kind in RolloutSettings.__annotations__.items()}
    assert said == {name: own[name] for name in own if name not in ("agent", "n", "return")}


def test_an_agent_in_one_call_takes_the_settings_of_both():
    rollouts, agents = (signature(made).parameters for made in (prebuilt.entropy_centroid_graph, create_agent))
    spelt_out = signature(prebuilt.create_entropy_centroid_agent).parameters
    taken = {*spelt_out, *prebuilt.AgentSettings.__annotations__}
    assert {*RolloutSettings.__annotations__, *rollouts} - taken == {"agent"}
    assert taken - {*RolloutSettings.__annotations__, *rollouts, *agents} == set()
