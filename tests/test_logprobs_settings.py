"""`with_logprobs`: how each class is asked, and what it refuses. Stand-ins have names and fields of the real ones."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.runnables import RunnableLambda
from langchain_openai import AzureChatOpenAI, ChatOpenAI
from pydantic import Field, create_model

from entcent_agents.capture import capture_logprobs, with_logprobs
from entcent_agents.chat.model import ChatLogprobs
from entcent_agents.errors import ConfigurationError
from entcent_agents.testing import ScriptedChat

FIELDS: dict[str, Any] = {
    "streaming": (bool, False),
    "model_name": (str, "made-up-model"),
    "model_kwargs": (dict, Field(default_factory=dict)),
}
OPENAI: dict[str, Any] = FIELDS | {
    "logprobs": (bool | None, None),
    "top_logprobs": (int | None, None),
    "use_responses_api": (bool | None, None),
    "reasoning_effort": (str | None, None),
    "openai_api_base": (str | None, None),
}
CLASSES: dict[str, tuple[str, dict[str, Any]]] = {
    "ChatDeepSeek": ("langchain_deepseek", OPENAI),
    "ChatTogether": ("langchain_together", OPENAI),
    "ChatXAI": ("langchain_xai", OPENAI),
    "ChatFireworks": ("langchain_fireworks", FIELDS),
    "ChatOpenRouter": ("langchain_openrouter", FIELDS | {"openrouter_provider": (dict | None, None)}),
    "ChatLiteLLM": ("langchain_litellm", FIELDS),
    "ChatHuggingFace": ("langchain_huggingface", FIELDS | {"llm": (Any, None), "logprobs": (bool | None, None)}),
    "ChatOllama": ("langchain_ollama", {"logprobs": (bool | None, None), "top_logprobs": (int | None, None)}),
    "ChatLlamaCpp": (
        "langchain_community",
        FIELDS | {"client": (Any, None), "logits_all": (bool, False), "logprobs": (int | None, None)},
    ),
    "ChatAnthropic": ("langchain_anthropic", FIELDS),
    "ChatGroq": ("langchain_groq", FIELDS),
    "ChatMadeUp": ("langchain_made_up", FIELDS),
}
HuggingFaceEndpoint = type("HuggingFaceEndpoint", (), {})
HuggingFacePipeline = type("HuggingFacePipeline", (), {})


def stand_in(name: str, **settings: Any) -> Any:
    package, fields = CLASSES[name]
    made = create_model(name, __base__=FakeListChatModel, __module__=f"{package}.chat_models", **fields)
    return made(responses=["Hi"], **settings)


def openai(**settings: Any) -> ChatOpenAI:
    return ChatOpenAI(**{"model": "gpt-4o", "api_key": "made-up"} | settings)


def asked(model: Any, *names: str) -> dict[str, Any]:
    return {name: getattr(model, name) for name in names}


def test_chat_openai_is_asked_for_whole_chat_completions():
    model = openai(streaming=True).model_copy(update={"model_kwargs": {"logprobs": False, "user": "me"}})
    copy = with_logprobs(model, top=7)
    assert asked(copy, "logprobs", "top_logprobs", "use_responses_api") == {
        "logprobs": True,
        "top_logprobs": 7,
        "use_responses_api": False,
    }
    assert asked(copy, "disable_streaming", "streaming") == {"disable_streaming": True, "streaming": False}
    assert copy.model_kwargs == {"user": "me"}
    assert (type(copy), model.logprobs, model.streaming) == (ChatOpenAI, None, True)
    assert copy._get_request_payload([("human", "Hi")])["top_logprobs"] == 7


def test_a_subclass_and_azure_are_asked_as_chat_openai():
    ours = type("Ours", (ChatOpenAI,), {"__module__": "ours"})(model="gpt-4o", api_key="made-up")
    azure = AzureChatOpenAI(azure_deployment="d", api_version="1", azure_endpoint="http://127.0.0.1:9", api_key="x")
    assert (with_logprobs(ours).top_logprobs, with_logprobs(azure).top_logprobs) == (10, 10)


@pytest.mark.parametrize("name", ["ChatDeepSeek", "ChatXAI"])
def test_those_that_derive_from_openai_are_asked_alike(name):
    copy = with_logprobs(stand_in(name), top=8)
    assert asked(copy, "logprobs", "top_logprobs", "use_responses_api", "disable_streaming") == {
        "logprobs": True,
        "top_logprobs": 8,
        "use_responses_api": False,
        "disable_streaming": True,
    }


def test_together_takes_the_number_as_logprobs():
    copy = with_logprobs(stand_in("ChatTogether", model_kwargs={"top_k": 5}))
    assert (copy.model_kwargs, copy.logprobs, copy.top_logprobs) == ({"top_k": 5, "logprobs": 10}, None, None)


def test_ollama_has_fields_for_it():
    assert asked(with_logprobs(stand_in("ChatOllama")), "logprobs", "top_logprobs", "disable_streaming") == {
        "logprobs": True,
        "top_logprobs": 10,
        "disable_streaming": True,
    }


@pytest.mark.parametrize("name", ["ChatFireworks", "ChatLiteLLM", "ChatOpenRouter", "ChatHuggingFace"])
def test_those_without_working_fields_are_asked_in_model_kwargs(name):
    more = {"llm": HuggingFaceEndpoint()} if name == "ChatHuggingFace" else {}
    model = stand_in(name, streaming=True, model_kwargs={"top_k": 5}, **more)
    copy = with_logprobs(model, top=5)
    assert copy.model_kwargs == {"top_k": 5, "logprobs": True, "top_logprobs": 5}
    assert (copy.streaming, copy.disable_streaming) == (False, True)
    assert model.model_kwargs == {"top_k": 5}


def test_openrouter_keeps_its_routing_and_asks_for_providers_that_comply():
    copy = with_logprobs(stand_in("ChatOpenRouter", openrouter_provider={"sort": "price"}))
    assert copy.openrouter_provider == {"sort": "price", "require_parameters": True}


def test_llamacpp_is_asked_at_its_client_also_when_asked_twice():
    heard: list[dict[str, Any]] = []
    client = SimpleNamespace(create_chat_completion=lambda **settings: heard.append(settings), n_ctx=512)
    model = stand_in("ChatLlamaCpp", client=client, logits_all=True)
    copy = with_logprobs(with_logprobs(model, top=3), top=4)
    copy.client.create_chat_completion(messages=[], logprobs=None)
    assert heard == [{"messages": [], "logprobs": True, "top_logprobs": 4}]
    assert (copy.client.n_ctx, copy.client.asked, model.client) == (512, client, client)


def test_our_own_models_take_the_number_alone():
    ours = ChatLogprobs(model="m", top_logprobs=3)
    assert with_logprobs(ours, top=50) == ours.model_copy(update={"top_logprobs": 50})
    scripted = ScriptedChat(scripts=[])
    assert with_logprobs(scripted) == scripted


def test_bindings_keep_what_they_bind():
    tool = {"type": "function", "function": {"name": "add", "description": "", "parameters": {}}}
    bound = with_logprobs(openai().bind_tools([tool]).with_config(tags=["nostream"]))
    assert bound.kwargs["tools"] == [tool]
    assert (bound.config["tags"], bound.bound.top_logprobs) == (["nostream"], 10)


REFUSALS: dict[str, tuple[Any, int, str]] = {
    "the Responses API": (openai(use_responses_api=True), 10, "use_responses_api=False"),
    "a setting that needs the Responses API": (openai(reasoning={"effort": "low"}), 10, "Responses API"),
    "such a setting in model_kwargs": (
        stand_in("ChatXAI", model_kwargs={"include": ["x"]}),
        8,
        "model_kwargs has include",
    ),
    "o1": (openai(model="o1"), 10, "o1 reasons"),
    "o3": (openai(model="o3-mini"), 10, "o3-mini reasons"),
    "o4-mini": (openai(model="o4-mini-2025-04-16"), 10, "reasons"),
    "gpt-5": (openai(model="gpt-5.1"), 10, "gpt-5.1 reasons"),
    "gpt-6": (openai(model="gpt-6-mini"), 10, "gpt-6-mini reasons"),
    "gpt-5 behind a gateway": (stand_in("ChatOpenRouter", model_name="openai/gpt-5"), 10, "reasons"),
    "Claude behind a gateway": (stand_in("ChatLiteLLM", model_name="anthropic/claude"), 10, "no log-probabilities"),
    "Responses behind a gateway": (
        stand_in("ChatLiteLLM", model_name="openai/responses/gpt-4o"),
        10,
        "without responses/",
    ),
    "DeepSeek's thinking": (stand_in("ChatDeepSeek", model_name="deepseek-reasoner"), 10, "use deepseek-chat"),
    "Anthropic": (stand_in("ChatAnthropic"), 10, "Anthropic gives no log-probabilities"),
    "Groq": (stand_in("ChatGroq"), 10, "Groq gives no log-probabilities"),
    "too many of OpenAI": (openai(), 21, "with_logprobs(model, top=20)"),
    "too many of xAI": (stand_in("ChatXAI"), 10, "with_logprobs(model, top=8)"),
    "too many of Fireworks": (stand_in("ChatFireworks"), 10, "with_logprobs(model, top=5)"),
    "too many of Hugging Face": (
        stand_in("ChatHuggingFace", llm=HuggingFaceEndpoint()),
        10,
        "with_logprobs(model, top=5)",
    ),
    "too many of Ollama": (stand_in("ChatOllama"), 21, "top=20"),
    "none": (openai(), 0, "at least 1"),
    "a local pipeline": (stand_in("ChatHuggingFace", llm=HuggingFacePipeline()), 5, "HuggingFaceEndpoint"),
    "llama.cpp without all logits": (stand_in("ChatLlamaCpp"), 5, "logits_all=True"),
    "an unknown class": (stand_in("ChatMadeUp"), 10, "set by hand"),
    "no chat model": (RunnableLambda(str), 10, "no chat model"),
    "a chain": (openai() | str, 10, "before it goes into a chain"),
    "retries": (openai().with_retry(), 10, "before it goes into a chain"),
    "a binding that says otherwise": (openai().bind(top_logprobs=2), 10, "the binding sets top_logprobs=2"),
    "a binding to the Responses API": (openai().bind(include=["x"]), 10, "the binding sets include"),
    "a binding of what cannot work": (stand_in("ChatGroq").bind(stop=["x"]), 10, "Groq"),
}


@pytest.mark.parametrize(("model", "top", "says"), REFUSALS.values(), ids=REFUSALS)
def test_what_cannot_work_is_refused_with_its_reason_in_one_line(model, top, says):
    with pytest.raises(ConfigurationError) as refused:
        with_logprobs(model, top=top)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_models_that_only_sound_alike_and_other_servers_are_not_refused():
    assert with_logprobs(openai(model="gpt-5-chat-latest"))
    assert with_logprobs(openai(model="gpt-5.2", reasoning_effort="none"))
    assert with_logprobs(openai(model="gpt-oss-20b"))
    assert with_logprobs(openai(model="o3-made-up", base_url="http://127.0.0.1:9/v1"), top=50).top_logprobs == 50
    assert with_logprobs(stand_in("ChatOpenRouter", model_name="mistralai/codestral"))


RESPONSE = json.loads((Path(__file__).parent / "data/integrations/openai.json").read_text())["response"]


class OneAnswer(BaseHTTPRequestHandler):
    """A chat completions server that answers as documented, and keeps what it was asked."""

    def do_POST(self) -> None:
        self.server.asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer = json.dumps(RESPONSE).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_chat_openai_brings_them_from_a_real_server_also_through_stream():
    with HTTPServer(("127.0.0.1", 0), OneAnswer) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        model = with_logprobs(openai(base_url=f"http://127.0.0.1:{server.server_port}/v1", streaming=True), top=3)
        (whole,) = [chunk for chunk in model.stream("How warm is it?") if chunk.content]
        model.root_client.close()
        server.shutdown()
    assert {key: server.asked[key] for key in ("logprobs", "top_logprobs")} == {"logprobs": True, "top_logprobs": 3}
    assert not server.asked["stream"]
    assert capture_logprobs(whole).scored_tokens == 7
