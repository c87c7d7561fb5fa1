"""What a model would write that knows the ground truth: the official answers, put into calls."""

from __future__ import annotations

import ast
import json
from typing import TYPE_CHECKING, Any, cast

from evals.suites.bfcl.names import plain_name
from evals.suites.protocol import Call, Reply

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from evals.suites.protocol import Task

_LANGUAGES = {"simple_java": "java", "simple_javascript": "javascript"}


def right_answer(task: Task) -> Iterator[Reply]:
    """One reply, with the first possible answer to each parameter."""
    functions = {function["name"]: function for function in task.truth["functions"]}
    language = _LANGUAGES.get(task.category)
    calls: list[Call] = []
    for answer in task.truth["ground_truth"]:
        for name, parameters in answer.items():
            schema = functions[name]["parameters"]
            chosen = _chosen(parameters, schema)
            if language:
                chosen = {key: source_text(value, schema["properties"][key], language) for key, value in chosen.items()}
            calls.append(Call(name=plain_name(name), arguments=chosen))
    yield Reply(calls=tuple(calls))


def right_turns(task: Task) -> Iterator[Reply]:
    """The calls of every turn, each turn in one reply, and the words that end it."""
    parameters = {
        function["name"]: list(function["parameters"]["properties"]) for function in task.truth["all_functions"]
    }
    for turn in task.truth["ground_truth"]:
        if turn:
            yield Reply(calls=tuple(read_call(text, parameters) for text in turn))
        yield Reply(text="Done.")


def read_call(text: str, parameters: Mapping[str, Sequence[str]]) -> Call:
    """A call written in Python; what is passed by position is named after the function's document."""
    call = ast.parse(text, mode="eval").body
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
        raise ValueError(f"not a call: {text}")
    names = parameters[call.func.id]
    values = dict(zip(names, call.args, strict=False)) | {word.arg or "": word.value for word in call.keywords}
    return Call(name=call.func.id, arguments={name: ast.literal_eval(value) for name, value in values.items()})


def _chosen(parameters: Mapping[str, Sequence[Any]], schema: Mapping[str, Any]) -> dict[str, Any]:
    """For each parameter the first answer that is one; "" among the answers means that it may be left out."""
    chosen: dict[str, Any] = {}
    for key, options in parameters.items():
        given = [option for option in options if option != ""]
        if given and (key in schema["properties"] or "" not in options):
            chosen[key] = _plain(given[0])
        elif key in schema["required"]:
            chosen[key] = ""
    return chosen


def _plain(option: Any) -> Any:
    """An answer as a value: where it is an object, or a list of them, each key has its own list of answers."""
    if isinstance(option, dict):
        fields = cast("dict[str, list[Any]]", option)
        given = {key: [one for one in options if one != ""] for key, options in fields.items()}
        return {key: options[0] for key, options in given.items() if options}
    if isinstance(option, list):
        return [_plain(item) if isinstance(item, dict) else item for item in cast("list[Any]", option)]
    return option


def source_text(value: Any, schema: Mapping[str, Any], language: str) -> str:
    """A value as source code of the language that the category asks for, in the forms that the checker reads."""
    kind: str = schema["type"]
    if language == "javascript":
        return _javascript(value, kind)
    item: str = schema.get("items", {}).get("type", "Object")
    return _java(value, kind, item)


def _javascript(value: Any, kind: str) -> str:
    if isinstance(value, str):
        return value
    return f"{value}n" if kind == "Bigint" else json.dumps(value)


def _java(value: Any, kind: str, item: str) -> str:
    suffix = {"float": "f", "long": "L"}
    if isinstance(value, str | bool):
        return value if isinstance(value, str) else json.dumps(value)
    if kind == "ArrayList":
        return f"new ArrayList<>(Arrays.asList({_java_items(value, item)}))" if value else "new ArrayList<>()"
    if kind == "Array":
        return f"new {item}[]{{{_java_items(value, item)}}}"
    if kind == "HashMap":
        puts = " ".join(f"put({json.dumps(key)}, {json.dumps(entry)});" for key, entry in value.items())
        return f"new HashMap<>() {{{{ {puts} }}}}"
    return f"{value}{suffix.get(kind, '')}"


def _java_items(values: Sequence[Any], item: str) -> str:
    return ", ".join(json.dumps(value) if isinstance(value, str) else _java(value, item, "Object") for value in values)
