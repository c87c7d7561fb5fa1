"""Best of n at each step: of several answers to a prompt a rollout takes one, as the middleware of agents does."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from entcent_agents.selection import default_selector
from entcent_agents.selection.asking import chosen
from evals.runner.asking import Answered
from evals.runner.attempt import Attempt
from evals.runner.models import Answer

_SELECTOR: Final = default_selector()


def best_answers(answered: Iterable[Answered]) -> list[Answered]:
    """Of the answers to each rollout's prompt the selected one; the tokens of all of them count as used.

    Calls that cannot be read are chosen only where there are no others.
    """
    found: dict[int, tuple[Attempt, list[Answer]]] = {}
    for attempt, answer in answered:
        found.setdefault(attempt.index, (attempt, []))[1].append(answer)
    return [Answered(attempt, _best(attempt, answers)) for attempt, answers in found.values()]


def _best(attempt: Attempt, answers: list[Answer]) -> Answer:
    read = [index for index, answer in enumerate(answers) if not answer.message.invalid_tool_calls]
    candidates = [attempt.with_next(answers[index], index) for index in read or range(len(answers))]
    selection, _ = chosen(_SELECTOR, candidates)
    for index, answer in enumerate(answers):
        if index != selection.winner:
            attempt.count(answer)
    return answers[selection.winner or 0]
