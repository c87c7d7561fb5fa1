"""A small suite, and a model for it whose every choice is a function of the prompt, the seed and its index."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

from evals.suites.protocol import Call, Reply, Score, Task, ToolSpec
from tests import chat_server

ADD = ToolSpec(
    name="add",
    description="Add a number to the total.",
    parameters={"type": "object", "properties": {"number": {"type": "integer"}}, "required": ["number"]},
)


@dataclass
class Total:
    """A total that calls add to; the user speaks twice."""

    total: int = 0
    spoken: int = 0

    def run(self, call: Call) -> str:
        number = call.arguments.get("number")
        if not isinstance(number, int):
            return "error: number is no integer"
        self.total += number
        return str(self.total)

    def proceed(self, text: str) -> str | None:
        self.spoken += 1
        return "Go on." if self.spoken == 1 else None


@dataclass(frozen=True)
class Sums:
    """Right answers are even."""

    size: int = 4
    name: str = "sums"
    categories: tuple[str, ...] = ("once", "told")

    def tasks(self, category: str) -> Iterator[Task]:
        for number in range(self.size):
            yield Task(
                suite=self.name,
                category=category,
                id=f"{category}_{number}",
                messages=({"role": "user", "content": f"Task {category} {number}"},),
                runs_tools=category == "told",
                max_steps=3,
                max_replies=6,
                truth={"even": True},
            )

    def make_env(self, task: Task) -> Total:
        return Total(spoken=0 if task.runs_tools else 1)

    def fork(self, world: Total) -> Total:
        return replace(world)

    def tools(self, task: Task, world: Total) -> tuple[ToolSpec, ...]:
        return (ADD,) if task.runs_tools else ()

    def score(self, task: Task, world: Total, replies: Sequence[Reply]) -> Score:
        if task.runs_tools:
            return Score(reward=float(world.total % 2 == 0), derived={"total": float(world.total)})
        last = replies[-1].text.split()[-1] if replies and replies[-1].text else ""
        return Score(reward=float(last.isdigit() and int(last) % 2 == 0), reason="" if last else "no answer")


def choices(request: chat_server.Request) -> list[chat_server.Reply]:
    """The replies of a deterministic server."""
    return [choice(request, index) for index in range(request.n)]


def choice(request: chat_server.Request, index: int) -> chat_server.Reply:
    told = json.dumps([request.body["messages"], request.body.get("seed", 0) + index])
    drawn = random.Random(blake2b(told.encode()).digest())
    words = [f"w{drawn.randrange(100)} " for _ in range(drawn.randrange(3, 12))]
    text = f"{''.join(words)}{drawn.randrange(10)}"
    if "add" in json.dumps(request.body["messages"][0]) and drawn.random() < 0.5:
        text = "<tool_call>" + json.dumps({"name": "add", "arguments": {"number": drawn.randrange(3)}}) + "</tool_call>"
    tokens = [
        chat_server.Token(says=text[start : start + 4], probabilities=probabilities(drawn))
        for start in range(0, len(text), 4)
    ]
    return chat_server.Reply(tokens=tokens, delay_seconds=0.03)


def probabilities(drawn: random.Random) -> list[float]:
    weights = [drawn.random() ** 3 + 0.001 for _ in range(5)]
    return [weight / sum(weights) for weight in weights]
