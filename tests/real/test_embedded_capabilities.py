"""What is measured of the embedded server, with the small model: what llama.cpp is known to do."""

from __future__ import annotations

from typing import Any

import pytest

from entcent_agents.chat.capabilities import PROBES
from entcent_agents.chat.probes.measured import Constraint, Semantics
from entcent_agents.chat.store import ModelStore
from tests.pages import block_with

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

SLOTS = 4


def test_the_embedded_server_does_what_the_documentation_says():
    ModelStore().pull("smollm2-135m")
    shown: dict[str, Any] = {"__name__": "shown"}
    exec(block_with("capabilities_of("), shown)
    found = shown["capabilities"]
    assert found.owner == "llamacpp" and found.served_model == "smollm2-135m"
    assert found["top_logprobs"].value == 128 and found["top_logprobs"].details["at_least"]
    assert found["n"].value == SLOTS, "as many choices as slots"
    assert found["n"].details["different"] == SLOTS and found["n"].details["usage_counts_all"] is True
    assert found["text"].value == pytest.approx(1.0, abs=0.2)  # its end may be counted, and it may be short
    assert found["other_scripts"].value is not None and found["other_scripts"].value < 0.9
    assert found["streamed_tools"].value is False and "400" in found["streamed_tools"].details["said"]
    assert found["temperature"].value is Semantics.RAW
    assert found["temperature"].details["ratio"] == pytest.approx(1.0, abs=0.05)
    assert found["json_schema"].value is Constraint.ENFORCED
    assert found["continuation"].value == "llama-tokens"
    assert found["continuation"].details["llama-tokens"] == "exact"
    assert found["continuation"].details["vllm-tokens"] == "no"
    assert found.recommended()["tool_calling"] == "text"
    assert list(found.measured) == list(PROBES)
    assert found.cost.generated_tokens < 1000
