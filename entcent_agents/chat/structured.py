"""Structured output: a model bound to answer in a schema, and what reads its answer."""

from __future__ import annotations

from collections.abc import Mapping
from operator import itemgetter
from typing import Any, Literal, TypeAlias, cast

from langchain_core.exceptions import OutputParserException
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.output_parsers.openai_tools import JsonOutputKeyToolsParser, PydanticToolsParser
from langchain_core.outputs import ChatGeneration, Generation
from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough
from langchain_core.utils.function_calling import convert_to_openai_function
from langchain_core.utils.pydantic import is_basemodel_subclass

from entcent_agents.chat.constraints import JSON_MODE, json_format
from entcent_agents.errors import ConfigurationError

Method: TypeAlias = Literal["function_calling", "json_schema", "json_mode"]
Schema: TypeAlias = Mapping[str, Any] | type
Structured: TypeAlias = Runnable[LanguageModelInput, Any]


def structured_output(
    model: BaseChatModel, schema: Schema, *, method: Method, include_raw: bool, strict: bool | None
) -> Structured:
    """A runnable that answers in the schema.

    Args:
        model: Whom to ask.
        schema: Pydantic class, TypedDict, JSON schema with a title, or OpenAI function.
        method: By a forced tool call, by a `response_format` of the schema, or by one of any JSON.
        include_raw: Whether the message and a failure of reading it are given too.
        strict: Whether OpenAI is told to hold to the schema; None leaves it out.

    Raises:
        ConfigurationError: On another method.
    """
    function = convert_to_openai_function(cast(Any, schema), strict=None if method == "json_mode" else strict)
    traced = {"ls_structured_output_format": {"kwargs": {"method": method, "strict": strict}, "schema": schema}}
    if method == "function_calling":
        bound = model.bind_tools([cast(Any, schema)], tool_choice="any", strict=strict, **traced)
        return _with_parser(bound, _call_parser(schema, function["name"]), include_raw)
    if method == "json_schema":
        wanted = json_format(function["name"], _answer_schema(function), strict=strict)
    elif method == "json_mode":
        wanted = JSON_MODE
    else:
        raise ConfigurationError(f"method={method!r} is none of function_calling, json_schema, json_mode")
    return _with_parser(model.bind(response_format=wanted, **traced), _answer_parser(schema), include_raw)


class WholeJsonParser(JsonOutputParser):
    """Reads an answer as JSON, and refuses one that is cut off, which LangChain's own closes and takes as whole."""

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        """The value of the answer so far."""
        _refuse_cut_off(result)
        return super().parse_result(result, partial=partial)


class WholePydanticParser(PydanticOutputParser[Any]):
    """Reads an answer as a model of pydantic, and refuses one that is cut off."""

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        """The model of the answer so far; None while it lacks fields."""
        _refuse_cut_off(result)
        return super().parse_result(result, partial=partial)


def _refuse_cut_off(result: list[Generation]) -> None:
    generation = result[0]
    if isinstance(generation, ChatGeneration) and generation.message.response_metadata.get("finish_reason") == "length":
        raise OutputParserException(
            "the answer is cut off at the most tokens: raise max_tokens", llm_output=generation.text
        )


def _answer_schema(function: Mapping[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object", "properties": {}, **(function.get("parameters") or {})}
    return {**schema, "description": function["description"]} if function.get("description") else schema


def _call_parser(schema: Schema, name: str) -> Runnable[AIMessage, Any]:
    if isinstance(schema, type) and is_basemodel_subclass(schema):
        return cast(Any, PydanticToolsParser(tools=[schema], first_tool_only=True))
    return cast(Any, JsonOutputKeyToolsParser(key_name=name, first_tool_only=True))


def _answer_parser(schema: Schema) -> Runnable[AIMessage, Any]:
    if isinstance(schema, type) and is_basemodel_subclass(schema):
        return cast(Any, WholePydanticParser(pydantic_object=cast(Any, schema)))
    return cast(Any, WholeJsonParser())


def _with_parser(model: Runnable[LanguageModelInput, AIMessage], parser: Any, include_raw: bool) -> Structured:
    if not include_raw:
        return model | parser
    read = RunnablePassthrough.assign(parsed=itemgetter("raw") | parser, parsing_error=lambda _: None)
    unread = RunnablePassthrough.assign(parsed=lambda _: None)
    return cast(Any, RunnableMap(raw=model) | read.with_fallbacks([unread], exception_key="parsing_error"))
