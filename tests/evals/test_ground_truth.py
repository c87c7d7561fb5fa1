"""A model that knows the ground truth is judged right through the runner, in every rollout, by official checkers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.messages.tool import tool_call

from entcent_agents.trajectory import Turn
from evals.runner.group import Group, GroupSize
from evals.runner.models import Answer
from evals.suites.protocol import Reply, Task, ToolSpec, respond
from evals.suites.registry import ENTRIES, load_suite

N = 3
TASKS = 3


class Knowing:
    """Writes what is right, after a world of its own."""

    seeded = False

    def __init__(self, suite: Any, task: Task) -> None:
        self._task, self._world = task, suite.fork(suite.make_env(task))
        self._replies: Iterator[Reply] = suite.right_replies(task, self._world)
        self.sizes: list[int] = []

    async def ask(
        self, messages: Sequence[BaseMessage], n: int, tools: Sequence[ToolSpec], seed: int | None
    ) -> list[Answer]:
        self.sizes.append(n)
        reply = next(self._replies)
        known = {tool.name for tool in tools}
        assert {call.name for call in reply.calls} <= known, "what is right is offered"
        respond(self._task, self._world, reply)
        calls = [tool_call(name=call.name, args=dict(call.arguments), id="") for call in reply.calls]
        message = AIMessage(content=reply.text, tool_calls=calls)
        turn = Turn(message_id="", generated_tokens=1)
        return [Answer(message=message, turn=turn, prompt_tokens=1) for _ in range(n)]


@pytest.mark.parametrize(
    ("name", "category"),
    [
        ("bfcl", "parallel_multiple"),
        ("bfcl", "multi_turn_base"),
        ("bfcl", "multi_turn_miss_func"),
        ("agentdojo", "workspace"),
        ("textarena", None),
        ("reasoning_gym", "gsm_symbolic"),
    ],
)
async def test_ground_truth_passes_in_every_rollout(name: str, category: str | None):
    missing = ENTRIES[name].missing
    if missing:
        pytest.skip(f"{missing} is not installed: python -m evals install {name}")
    suite, played = load_suite(name), 0
    for task in islice(suite.tasks(category or suite.categories[0]), TASKS):
        if task.id in suite.unsolvable or suite.right_replies(task, suite.make_env(task)) is None:
            continue
        played += 1
        model = Knowing(suite, task)
        group = Group(suite, task, model, GroupSize(initial=N, most=N), seed=0)
        stored = [one async for one in group.rollouts()]
        assert [(one.reward, one.rollout.status) for one in stored] == [(1.0, "finished")] * N, task.id
        assert len({one.rollout.vote_key for one in stored}) == 1
        assert set(model.sizes) == {N}, "rollouts that write the same share every request"
    assert played
