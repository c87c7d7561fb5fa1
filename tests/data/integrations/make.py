"""Makes the payload files beside this script: what each integration leaves on its message. Run by hand only.

A local HTTP server answers as the provider documents it, and the integration's own client and conversion code read
it. Each file keeps the versions, the request that `with_logprobs` led to, the raw response, and the message. Texts and
numbers are made up. In an environment of its own (these packages are no dependencies of the library):

    python -m pip install langchain-openai langchain-ollama langchain-deepseek langchain-together \
        langchain-fireworks langchain-openrouter langchain-xai langchain-litellm langchain-huggingface \
        langchain-community langgraph msgspec numpy tiktoken
    PYTHONPATH=. python tests/data/integrations/make.py [NAME ...]

litellm holds `openai` below 3: make `openai deepseek together xai` in an environment without it, to see openai 3.

ChatLlamaCpp runs in the process, without a server: `llama-cpp-python` needs a compiler, so a stand-in for its client
answers here in the documented shape. Everything after the client is the integration's own.
"""

from __future__ import annotations

import json
import math
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any

from langchain_core.language_models import BaseChatModel

from entcent_agents.capture import capture_logprobs, with_logprobs

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # otherwise its import fetches prices

HERE = Path(__file__).parent
KEY = "made-up"
TOKENS = ["It", " is", " 4", " ", "\N{DEGREE SIGN}", "C", "."]
PROBABILITIES = [[0.5, 0.25, 0.125], [0.9, 0.05, 0.03], [0.4, 0.3, 0.2], [1.0], [0.97, 0.02], [0.8, 0.15], [0.6, 0.4]]


def entry(token: str, probabilities: list[float], *, with_bytes: bool, **more: Any) -> dict[str, Any]:
    """One token of the chat shape; its first probability is its own."""

    def said(text: str, probability: float) -> dict[str, Any]:
        raw = {"bytes": list(text.encode())} if with_bytes else {}
        return {"token": text, "logprob": round(math.log(probability), 6), **raw}

    top = [said(token if i == 0 else f"{token}~{i}", probability) for i, probability in enumerate(probabilities)]
    return said(token, probabilities[0]) | more | {"top_logprobs": [dict(alternative, **more) for alternative in top]}


def entries(*, with_bytes: bool = True, **more: Any) -> list[dict[str, Any]]:
    return [entry(token, row, with_bytes=with_bytes, **more) for token, row in zip(TOKENS, PROBABILITIES, strict=True)]


def completion(logprobs: Any, *, content: str = "".join(TOKENS), extra: int = 0, **message: Any) -> dict[str, Any]:
    tokens = len(TOKENS) + extra
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1760000000,
        "model": "made-up-model",
        "system_fingerprint": "fp_1",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": content, **message},
                "logprobs": logprobs,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 9, "completion_tokens": tokens, "total_tokens": 9 + tokens},
    }


def streamed(response: dict[str, Any]) -> Iterator[bytes]:
    """The same response as server-sent events, a token each."""
    head = {key: response[key] for key in ("id", "created", "model", "system_fingerprint")}
    choice = response["choices"][0]
    content = (choice["logprobs"] or {}).get("content") or []
    deltas = [({"role": "assistant", "content": ""}, None, None)]
    deltas += [({"content": one["token"]}, {"content": [one], "refusal": None}, None) for one in content]
    for delta, logprobs, finish in [*deltas, ({}, None, "stop")]:
        choices = [{"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}]
        yield b"data: " + json.dumps(head | {"object": "chat.completion.chunk", "choices": choices}).encode() + b"\n\n"
    usage = head | {"object": "chat.completion.chunk", "choices": [], "usage": response["usage"]}
    yield b"data: " + json.dumps(usage).encode() + b"\n\ndata: [DONE]\n\n"


def ollama_lines() -> list[dict[str, Any]]:
    """The chat API of Ollama: an object a line, the last with the counts."""
    head = {"model": "made-up-model", "created_at": "2026-01-01T00:00:00Z"}
    lines = [
        head | {"message": {"role": "assistant", "content": one["token"]}, "done": False, "logprobs": [one]}
        for one in entries()
    ]
    counts = {"total_duration": 9, "load_duration": 1, "prompt_eval_duration": 1, "eval_duration": 1}
    counts |= {"prompt_eval_count": 9, "eval_count": len(TOKENS)}
    done = {"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop"}
    return [*lines, head | done | counts]


class Provider(ThreadingHTTPServer):
    """Answers every request with `response`, and keeps the last request's body."""

    response: Any = None
    request: Any = None


class Handler(BaseHTTPRequestHandler):
    server: Provider

    def do_POST(self) -> None:
        body = self.server.request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        response = self.server.response
        if isinstance(response, list):
            kind, parts = "application/x-ndjson", [json.dumps(line).encode() + b"\n" for line in response]
        elif body.get("stream"):
            kind, parts = "text/event-stream", list(streamed(response))
        else:
            kind, parts = "application/json", [json.dumps(response).encode()]
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(sum(map(len, parts))))
        self.end_headers()
        self.wfile.write(b"".join(parts))

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def provider() -> Iterator[Provider]:
    server = Provider(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()


class LlamaClient:
    """Stands in for `llama_cpp.Llama`, which answers only those who ask with a truth value and a number."""

    def __init__(self, server: Provider) -> None:
        self.server = server

    def create_chat_completion(self, *, messages: Any, **settings: Any) -> Any:
        self.server.request = {"messages": messages, **settings}
        wants = settings.get("logprobs") and settings.get("top_logprobs") is not None
        response = self.server.response
        if not settings.get("stream"):
            return response if wants else completion(None)
        lines = [line.removeprefix(b"data: ") for line in b"".join(streamed(response)).split(b"\n\n")]
        chunks = [json.loads(line) for line in lines if line.startswith(b"{")]
        return iter([chunk for chunk in chunks if chunk["choices"]])


def chat_openai(server: Provider) -> BaseChatModel:
    from langchain_openai import ChatOpenAI

    return ChatOpenAI(model="gpt-4o", api_key=KEY, base_url=_url(server))


def chat_ollama(server: Provider) -> BaseChatModel:
    from langchain_ollama import ChatOllama

    return ChatOllama(model="made-up-model", base_url=_url(server, ""))


def chat_deepseek(server: Provider) -> BaseChatModel:
    from langchain_deepseek import ChatDeepSeek

    return ChatDeepSeek(model="deepseek-chat", api_key=KEY, api_base=_url(server))


def chat_together(server: Provider) -> BaseChatModel:
    from langchain_together import ChatTogether

    return ChatTogether(model="made-up-model", api_key=KEY, base_url=_url(server))


def chat_fireworks(server: Provider) -> BaseChatModel:
    from langchain_fireworks import ChatFireworks

    return ChatFireworks(model="made-up-model", api_key=KEY, base_url=_url(server, "/inference/v1"))


def chat_openrouter(server: Provider) -> BaseChatModel:
    from langchain_openrouter import ChatOpenRouter

    return ChatOpenRouter(model="maker/made-up-model", api_key=KEY, base_url=_url(server, "/api/v1"))


def chat_xai(server: Provider) -> BaseChatModel:
    from langchain_xai import ChatXAI

    return ChatXAI(model="grok-3", api_key=KEY, xai_api_base=_url(server))


def chat_litellm(server: Provider) -> BaseChatModel:
    from langchain_litellm import ChatLiteLLM

    return ChatLiteLLM(model="openai/gpt-4o", api_key=KEY, api_base=_url(server))


def chat_huggingface(server: Provider) -> BaseChatModel:
    from langchain_huggingface import ChatHuggingFace, HuggingFaceEndpoint

    return ChatHuggingFace(llm=HuggingFaceEndpoint(endpoint_url=_url(server), huggingfacehub_api_token=KEY))


def chat_llamacpp(server: Provider) -> BaseChatModel:
    from langchain_community.chat_models import ChatLlamaCpp

    return ChatLlamaCpp.model_construct(client=LlamaClient(server), model_path="made-up.gguf", logits_all=True)


def _url(server: Provider, path: str = "/v1") -> str:
    return f"http://127.0.0.1:{server.server_address[1]}{path}"


_REASONING = [entry(token, [0.5, 0.5], with_bytes=True) for token in ("Hm", ".")]
_FIREWORKS = [
    one | {"token_id": i, "text_offset": i, "sampling_logprob": one["logprob"]} for i, one in enumerate(entries())
]
_TOGETHER = {
    "tokens": TOKENS,
    "token_logprobs": [round(math.log(row[0]), 6) for row in PROBABILITIES],
    "token_ids": list(range(len(TOKENS))),
}

Case = tuple[str, Callable[[Provider], BaseChatModel], list[str], int, Any]
CASES: dict[str, Case] = {
    "openai": (
        "ChatOpenAI",
        chat_openai,
        ["langchain-openai", "openai"],
        3,
        completion({"content": entries(), "refusal": None}),
    ),
    "ollama": ("ChatOllama", chat_ollama, ["langchain-ollama", "ollama"], 3, ollama_lines()),
    "deepseek": (
        "ChatDeepSeek",
        chat_deepseek,
        ["langchain-deepseek", "langchain-openai", "openai"],
        3,
        completion({"content": entries(), "reasoning_content": _REASONING}, extra=2, reasoning_content="Hm."),
    ),
    "together": (
        "ChatTogether",
        chat_together,
        ["langchain-together", "langchain-openai", "openai"],
        3,
        completion(_TOGETHER),
    ),
    "fireworks": (
        "ChatFireworks",
        chat_fireworks,
        ["langchain-fireworks", "fireworks-ai"],
        3,
        completion({"content": _FIREWORKS}),
    ),
    "openrouter": (
        "ChatOpenRouter",
        chat_openrouter,
        ["langchain-openrouter", "openrouter"],
        3,
        completion({"content": entries(), "refusal": None}) | {"provider": "Made Up"},
    ),
    "xai": (
        "ChatXAI",
        chat_xai,
        ["langchain-xai", "langchain-openai", "openai"],
        3,
        completion({"content": entries(), "refusal": None}),
    ),
    "litellm": (
        "ChatLiteLLM",
        chat_litellm,
        ["langchain-litellm", "litellm"],
        3,
        completion({"content": entries(), "refusal": None}),
    ),
    "huggingface": (
        "ChatHuggingFace",
        chat_huggingface,
        ["langchain-huggingface", "huggingface-hub"],
        3,
        completion({"content": entries(with_bytes=False)}),
    ),
    "llamacpp": (
        "ChatLlamaCpp",
        chat_llamacpp,
        ["langchain-community"],
        3,
        completion({"content": [one | {"bytes": None} for one in entries(with_bytes=False)], "refusal": None}),
    ),
}


def of_stream(model: BaseChatModel, server: Provider) -> str:
    """What a stream leaves on the sum of its chunks, where it is not switched off."""
    streams = {"streaming": True} if "streaming" in type(model).model_fields else {}
    model = model.model_copy(update={"disable_streaming": False} | streams)
    try:
        total = None
        for chunk in model.stream("How warm is it?"):
            total = chunk if total is None else total + chunk
    except Exception as error:
        return f"fails: {type(error).__name__}: {str(error)[:120]}"
    logprobs = None if total is None else capture_logprobs(total)
    assert server.request["stream"], "the integration did not stream"
    return f"{0 if logprobs is None else len(logprobs)} of {len(TOKENS)} tokens"


def payload(name: str) -> dict[str, Any]:
    integration, make, packages, top, response = CASES[name]
    with provider() as server:
        server.response = response
        model = with_logprobs(make(server), top=top)
        message = model.invoke("How warm is it?")
        request = {key: value for key, value in server.request.items() if key not in ("messages", "prompt")}
        raw = message.response_metadata.get("logprobs", message.additional_kwargs.get("logprobs"))
        first = raw[0] if isinstance(raw, list) and raw else raw
        choice = {} if isinstance(response, list) else response["choices"][0]["logprobs"]
        return {
            "integration": integration,
            "packages": {package: version(package) for package in ["langchain-core", *packages]},
            "top": top,
            "request": request,
            "response": response,
            "logprobs_type": f"{type(first).__module__}.{type(first).__qualname__}",
            "in_a_stream": None
            if "tokens" in choice
            else of_stream(model, server),  # legacy arrays: no documented stream
            "message": message.model_dump() | {"id": "made"},
        }


def main(names: list[str]) -> None:
    for name in names or CASES:
        made = payload(name)
        (HERE / f"{name}.json").write_text(json.dumps(made, indent=1, ensure_ascii=True) + "\n")
        found = made["logprobs_type"], made["in_a_stream"], list(made["request"])
        sys.stdout.write(f"{name}: {made['packages']} {found}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
