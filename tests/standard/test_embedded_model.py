"""LangChain's standard integration tests against the embedded model; what it cannot do is an expected failure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from langchain_tests.integration_tests import ChatModelIntegrationTests

from entcent_agents.chat.embedded import EmbeddedServer, open_embedded
from entcent_agents.chat.model import ChatLogprobs
from entcent_agents.chat.store import ModelStore

MODEL = "qwen2.5-coder-1.5b"
pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(600)]


class TestTextTools(ChatModelIntegrationTests):
    server: ClassVar[EmbeddedServer]

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _server(cls) -> Iterator[None]:
        ModelStore().pull(MODEL)
        with open_embedded(MODEL, slots=1, context_tokens=2048) as cls.server:
            yield

    @property
    def chat_model_class(self) -> type[ChatLogprobs]:
        return ChatLogprobs

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {
            "model": MODEL,
            "base_url": self.server.base_url,
            "tool_calling": "text",
            "temperature": 0.0,
            "seed": 7,
            "max_tokens": 60,
        }

    @property
    def supports_model_override(self) -> bool:
        """The server has one model, and answers to any name with it."""
        return False

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True

    @property
    def enable_vcr_tests(self) -> bool:
        """The server is on this machine: nothing needs to be recorded."""
        return True
