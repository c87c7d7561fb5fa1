"""LangChain's standard unit tests, with tools bound natively and as text."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest
from langchain_core.load import dumps, loads
from langchain_tests.unit_tests import ChatModelUnitTests
from syrupy.assertion import SnapshotAssertion
from syrupy.filters import props

from entcent_agents.chat.model import ChatLogprobs

load = import_module("langchain_core.load.load")  # its package has a function of that name
pytestmark = pytest.mark.filterwarnings("ignore:The function `loads?` is in beta")


@pytest.fixture
def snapshot(snapshot: SnapshotAssertion) -> SnapshotAssertion:
    """Serialised forms without the versions of the libraries, which LangChain writes into them."""
    return snapshot.with_defaults(exclude=props("lc_versions"))


@pytest.fixture(autouse=True)
def listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let "all" classes include ours: `load` means those on LangChain's own list, others are to be given by name."""
    path = tuple(ChatLogprobs.lc_id())
    monkeypatch.setitem(load.ALL_SERIALIZABLE_MAPPINGS, path, path)
    monkeypatch.setattr(load, "_default_class_paths_cache", {})


class TestNativeTools(ChatModelUnitTests):
    @property
    def chat_model_class(self) -> type[ChatLogprobs]:
        return ChatLogprobs

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "scripted"}

    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        """The environment is not read: what other clients would find there changes nothing."""
        elsewhere = {
            "OPENAI_API_KEY": "sk-found",
            "OPENAI_BASE_URL": "http://elsewhere/v1",
            "ENTCENT_API_KEY": "sk-too",
        }
        return elsewhere, self.chat_model_params, {"api_key": None, "base_url": "https://api.openai.com/v1"}


class TestTextTools(TestNativeTools):
    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "scripted", "tool_calling": "text"}


SECRET = "sk-very-secret-4711"


def test_a_serialised_model_holds_no_secret_and_is_the_same_when_loaded_with_it():
    hidden = {"api_key": SECRET, "base_url": f"http://127.0.0.1:9/v1?key={SECRET}", "extra_body": {"token": SECRET}}
    model = ChatLogprobs(model="m", max_tokens=9, **hidden)
    written = dumps(model)
    assert SECRET not in written and SECRET not in repr(model._serialized)
    values = {f"ENTCENT_{name.upper()}": value for name, value in hidden.items()}
    loaded = loads(written, secrets_map=values, valid_namespaces=["entcent_agents"], allowed_objects=[ChatLogprobs])
    assert loaded == model
