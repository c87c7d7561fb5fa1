"""What is put to a person before the rollouts of a round begin: the interrupts and doubts of what they go on from."""

from __future__ import annotations

from typing import Any, Final, cast

from langgraph.types import interrupt

from entcent_agents.errors import LedgerAnswerError
from entcent_agents.ledger import Answer, EffectLedger, LedgerSettings, settle
from entcent_agents.rollouts.request import Base

DOUBTS: Final = "effects in doubt"
"""`kind` of the interrupt that puts all doubts of a turn to a person."""


def ask(base: Base) -> dict[str, Any]:
    """Put the interrupts of the agent's graph to a person, one after the other.

    Returns:
        The answers, by the ids of the interrupts in the rollout's thread.

    Raises:
        GraphInterrupt: Not all of them are answered yet.
    """
    answers: dict[str, Any] = {}
    for question in base.questions:
        schema = cast("dict[str, Any] | None", question.schema)
        answer = interrupt(question.value, response_schema=schema) if schema else interrupt(question.value)
        if question.id is not None:
            answers[question.id] = answer
    return answers


async def settle_doubts(base: Base, ledger: EffectLedger, settings: LedgerSettings) -> None:
    """Put the calls in doubt to a person, all at once, and record what they answer.

    Raises:
        GraphInterrupt: They are not answered yet, or an answer was none, which the question then says.
        LedgerError: The ledger cannot be written.
    """
    doubts = {held.question["doubt_id"]: held for held in base.held if held.question}
    if not doubts:
        return
    question: dict[str, Any] = {"kind": DOUBTS, "questions": [held.question for held in doubts.values()]}
    while True:
        given = interrupt(question)
        try:
            answers = _answers(given, list(doubts))
            break
        except LedgerAnswerError as error:  # the next answer is the answer to a question of its own
            question = {**question, "not understood": str(error)}
    for answer in answers:
        position = doubts[answer.doubt_id].position
        assert position is not None
        await settle(ledger, position, answer, settings=settings)


def _answers(given: Any, doubts: list[str]) -> list[Answer]:
    """One answer for each doubt, from a list of answers, or a single one.

    Raises:
        LedgerAnswerError: An answer is none, is about another doubt, or one is missing.
    """
    found = [Answer.from_dict(each) for each in (given if isinstance(given, list) else [given])]  # pyright: ignore[reportUnknownVariableType]
    about = [answer.doubt_id for answer in found]
    if sorted(about) != sorted(doubts):
        raise LedgerAnswerError(
            f"one answer is needed for each of the doubts {', '.join(doubts)}; given: {', '.join(about) or 'none'}"
        )
    return found
