"""A scripted server that answers as a model would: it reads the request, calls tools and keeps to schemas.

It is as particular as OpenAI's: what the chat completions API does not document is answered with a 400.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from tests.chat_server import Reply, Request, Token

_FIELDS = {
    *("model", "messages", "temperature", "top_p", "max_tokens", "stop", "seed", "n", "logprobs", "top_logprobs"),
    *("stream", "stream_options", "tools", "tool_choice", "parallel_tool_calls", "response_format"),
}
_PARTS = {
    "system": {"text"},
    "user": {"text", "image_url", "input_audio", "file"},
    "assistant": {"text"},
    "tool": {"text"},
}
_KEYS = {
    "system": {"role", "content", "name"},
    "user": {"role", "content", "name"},
    "assistant": {"role", "content", "name", "tool_calls"},
    "tool": {"role", "content", "tool_call_id"},
}
_NAME = re.compile(r"[\w-]{1,64}", re.ASCII)
_SIGNATURE = re.compile(r"^- (\w+)\((.*?)\):", re.MULTILINE)
_WORDS = re.compile(r"\s*\S{1,6}")
_GREETING = "Hello! How may I help you today?"


def answers(request: Request) -> list[Reply]:
    """The replies to a request, all alike."""
    body = request.body
    if complaint := next(complaints(body), None):
        return [Reply(status=400, error=complaint)]
    return [_reply(body)] * request.n


def complaints(body: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with a request."""
    yield from (f"unknown field {field}" for field in set(body) - _FIELDS)
    names = {tool["function"]["name"] for tool in body.get("tools", ())}
    yield from (f"{name} is no name" for name in names if not _NAME.fullmatch(name))
    for tool in body.get("tools", ()):
        if tool["type"] != "function" or tool["function"].get("parameters", {}).get("type", "object") != "object":
            yield f"{tool} is no function"
    choice = body.get("tool_choice", "auto")
    if (choice["function"]["name"] if isinstance(choice, dict) else "auto") not in {"auto", *names}:
        yield f"tool_choice {choice} is none of {names}"
    wanted = body.get("response_format", {"type": "text"})
    if wanted["type"] == "json_schema":
        if not _NAME.fullmatch(wanted["json_schema"]["name"]) or "schema" not in wanted["json_schema"]:
            yield f"response_format {wanted}"
    elif wanted["type"] == "json_object" and "json" not in json.dumps(body["messages"]).lower():
        yield "the messages must contain the word json"
    yield from _message_complaints(body["messages"])


def _message_complaints(messages: list[dict[str, Any]]) -> Iterator[str]:
    if not messages:
        yield "no messages"
    open_calls: set[str] = set()
    for message in messages:
        role = message["role"]
        if set(message) - _KEYS.get(role, set()):
            yield f"{role} has {sorted(message)}"
        if role == "tool":
            if message["tool_call_id"] not in open_calls:
                yield f"tool result {message['tool_call_id']} answers no call"
            open_calls.discard(message["tool_call_id"])
        elif open_calls:
            yield f"calls {open_calls} are not answered"
        for part in [] if isinstance(message["content"], str) else message["content"]:
            yield from _part_complaints(role, part)
        for call in message.get("tool_calls", ()):
            json.loads(call["function"]["arguments"])
            open_calls.add(call["id"])


def _part_complaints(role: str, part: dict[str, Any]) -> Iterator[str]:
    kind = part.get("type", "")
    if kind not in _PARTS[role] or set(part) != {"type", kind}:
        yield f"{role} has a part {part}"
    elif kind == "image_url" and not part[kind]["url"].startswith("https://"):
        if not _decoded(part[kind]["url"], "data:image/png;base64,").startswith(b"\x89PNG"):
            yield "the image is no PNG"
    elif kind == "file" and not _decoded(part[kind]["file_data"], "data:application/pdf;base64,").startswith(b"%PDF"):
        yield "the file is no PDF"
    elif kind == "input_audio" and part[kind]["format"] != "wav":
        yield f"audio in {part[kind]['format']}"
    elif kind == "input_audio" and not _decoded(part[kind]["data"], "").startswith(b"RIFF"):
        yield "the audio is no WAV"


def _decoded(data: str, prefix: str) -> bytes:
    return base64.b64decode(data.removeprefix(prefix), validate=True) if data.startswith(prefix) else b""


def _reply(body: Mapping[str, Any]) -> Reply:
    said = _last_text(body)
    wanted = body.get("response_format", {"type": "text"})
    if body.get("tools") and (call := _native_call(body, said)):
        return Reply(tokens=(), logprobs=False, tool_calls=[call], finish_reason="tool_calls", model=body["model"])
    if wanted["type"] == "json_schema":
        text = json.dumps(_value(wanted["json_schema"]["schema"], said), ensure_ascii=False)
    elif wanted["type"] == "json_object":
        text = json.dumps({key: "Because of the cat." for key in re.findall(r"'(\w+)'", said)})
    else:
        text = _prompted_call(body, said) or _GREETING
    return _spoken(text, body)


def _spoken(text: str, body: Mapping[str, Any]) -> Reply:
    """The text as far as it goes: to a stop sequence, or to the most tokens."""
    stops = body.get("stop") or []
    end = min([at for stop in stops if (at := text.find(stop)) >= 0], default=len(text))
    words = _WORDS.findall(text[:end])
    most = body.get("max_tokens", len(words))
    tokens = [Token(says=word, probabilities=(0.6, 0.3, 0.1)) for word in words[:most]]
    return Reply(tokens=tokens, finish_reason="length" if len(words) > most else "stop", model=body["model"])


def _last_text(body: Mapping[str, Any]) -> str:
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else " ".join(part.get("text", "") for part in content)


def _native_call(body: Mapping[str, Any], said: str) -> tuple[str, str] | None:
    choice = body.get("tool_choice", "auto")
    if choice == "none" or (choice == "auto" and body["messages"][-1]["role"] != "user"):
        return None
    functions = {tool["function"]["name"]: tool["function"] for tool in body["tools"]}
    name = choice["function"]["name"] if isinstance(choice, dict) else _best(list(functions), said)
    arguments = _value(functions[name].get("parameters", {"type": "object"}), said)
    return name, json.dumps(arguments, ensure_ascii=False)


def _prompted_call(body: Mapping[str, Any], said: str) -> str | None:
    """A call of a tool that the system message describes, unless a result has just come."""
    first = body["messages"][0]
    tools = dict(_SIGNATURE.findall(first["content"])) if first["role"] == "system" else {}
    if not tools or "<tool_response>" in said:
        return None
    name = _best(list(tools), said)
    parameters = [parameter.split(": ") for parameter in tools[name].split(", ") if parameter]
    properties = {key.rstrip("?"): {"type": kind} for key, kind in parameters}
    call = {"name": name, "arguments": _value({"type": "object", "properties": properties}, said)}
    return f"Let me see.\n```json\n{json.dumps(call, ensure_ascii=False)}\n```\nThe result will be 7."


def _best(names: list[str], said: str) -> str:
    return next((name for name in names if name in said), names[0])


def _value(schema: Mapping[str, Any], said: str) -> Any:
    """A value of the schema, made of the numbers and quoted words that were said, in their order."""
    return _made(schema, "answer", iter(re.findall(r"\d+", said)), iter(re.findall(r"'([^']+)'", said)))


def _made(schema: Mapping[str, Any], key: str, numbers: Iterator[str], quoted: Iterator[str]) -> Any:
    if "enum" in schema:
        return schema["enum"][0]
    if "anyOf" in schema:
        return _made(schema["anyOf"][0], key, numbers, quoted)
    kind = schema.get("type", "string")
    if kind == "object":
        return {name: _made(inner, name, numbers, quoted) for name, inner in schema.get("properties", {}).items()}
    if kind in ("integer", "number"):
        return int(next(numbers, "7"))
    if kind == "array":
        return [_made(schema.get("items", {}), key, numbers, quoted)]
    return kind == "boolean" or next(quoted, f"the {key}")
