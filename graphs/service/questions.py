"""What the agent asks a person, and whether an answer is one: a mistyped one would be the end of the request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from langchain.agents.middleware.human_in_the_loop import HITLResponse
from langgraph.types import Interrupt
from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

_RESPONSE: Final[TypeAdapter[HITLResponse]] = TypeAdapter(HITLResponse)


class Question(TypedDict):
    """A question.

    Attributes:
        id: An answer names it, and counts for no other question.
        value: What is asked.
    """

    id: str
    value: Any


class OtherQuestionsError(Exception):
    """The answers are not to the questions that are asked (by now)."""


class AnswerError(ValueError):
    """An answer that the agent could not go on with; says why."""


def questions_of(interrupts: Sequence[Interrupt]) -> list[Question]:
    """What a graph that was interrupted asks."""
    return [Question(id=interrupt.id, value=interrupt.value) for interrupt in interrupts]


def check(questions: Sequence[Question], answers: Mapping[str, Any]) -> None:
    """Refuse what cannot be an answer. Questions of the library's own, about calls in doubt, are asked again.

    Args:
        questions: What is asked.
        answers: By the ids of the questions.

    Raises:
        OtherQuestionsError: A question is not answered, or an answer is to none.
        AnswerError: An answer is none.
    """
    if {question["id"] for question in questions} != {*answers}:
        raise OtherQuestionsError
    for question in questions:
        value = question["value"]
        if isinstance(value, dict) and "review_configs" in value:
            _check_decisions(cast("dict[str, Any]", value), answers[question["id"]])


def _check_decisions(asked: Mapping[str, Any], answer: Any) -> None:
    """Decisions about tool calls, as LangChain's `HumanInTheLoopMiddleware` takes them."""
    try:
        decisions = _RESPONSE.validate_python(answer)["decisions"]
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "answer"
        raise AnswerError(f'{where}: {first["msg"]}; say {{"decisions": [{{"type": "approve"}}]}}') from None
    calls = asked["action_requests"]
    if len(decisions) != len(calls):
        raise AnswerError(f"{len(calls)} calls wait for a decision each; given: {len(decisions)}")
    allowed = {config["action_name"]: config["allowed_decisions"] for config in asked["review_configs"]}
    for call, decision in zip(calls, decisions, strict=True):
        if decision["type"] not in allowed[call["name"]]:
            said = f"{decision['type']!r} may not be decided of {call['name']}: say {', '.join(allowed[call['name']])}"
            raise AnswerError(said)
