"""What the model says under fire: for each choice a plan is drawn, and every call carries a mark that no other has.

The server is a process of its own, and writes down what it was asked.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from tests.chat_server import ChatServer, Reply, Request, Token
from tests.forks import FORKS
from tests.rollouts.faults import Faults

EFFECTS: Final = {
    **{"ask": "READ", "look": "READ", "find": "READ", "note": "WRITE", "save": "WRITE"},
    **{"pay": "EXTERNAL", "book": "EXTERNAL_IDEMPOTENT"},
}
OUTSIDE: Final = frozenset(name for name, effect in EFFECTS.items() if effect.startswith("EXTERNAL"))
SUCCEEDED: Final = {
    **{"ask": "told", "look": "[", "find": "[", "note": "noted", "save": "saved"},
    **{"pay": "paid", "book": "booked"},
}
"""How the results of calls begin that did what they are for."""
READ_BACK: Final = {"look": "note", "find": "save"}
"""Which tool shows what another has written."""

PLANS: Final[Sequence[Sequence[Sequence[str]]]] = (
    (("look", "note"), ("ask", "note", "note"), ("ask", "look")),
    (("note", "pay"), ("pay", "book", "look"), ("note", "look")),
    (("pay",), ("note", "book"), ("look",)),
    (("note", "pay", "book"), ("pay", "pay", "ask")),
)
"""The calls of each turn, as they may be drawn. The turn after the last is the answer."""
PLANS_WITH_FILES: Final[Sequence[Sequence[Sequence[str]]]] = (
    (("look", "note"), ("ask", "save", "note"), ("find", "ask", "save")),
    (("note", "pay"), ("pay", "book", "find"), ("save", "look")),
    (("pay",), ("save", "book"), ("find", "look")),
    (("note", "save", "pay", "book"), ("pay", "pay", "ask")),
)
"""The same where there is a directory too."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call in a conversation, and what came of it."""

    tool: str
    mark: str
    turn: int
    result: str | None

    @property
    def succeeded(self) -> bool:
        return (self.result or "").startswith(SUCCEEDED[self.tool])


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request to the model, as the server notes it.

    `shared` says that all rollouts of a round ask this; else only one does. `marks` are those of the turns that were
    answered with, `used` those of the turns in the conversation, `fault` is what went wrong, `retry` how often the
    client had sent the very request before.
    """

    number: int
    digest: str
    shared: bool
    life: int
    marks: Sequence[str]
    used: Sequence[str]
    complaints: Sequence[str] = ()
    fault: str | None = None
    retry: int = 0


@dataclass(kw_only=True)
class Script:
    """Answers deterministically: by the seed, the conversation, and how often it was shown.

    Where tools are described in the prompt, calls are text. `faults` says what goes wrong.
    """

    seed: int
    log: Path
    plans: Sequence[Sequence[Sequence[str]]] = PLANS
    delay_seconds: float = 0.0
    faults: Faults | None = None
    shown: Counter[str] = field(default_factory=Counter[str])
    asked: Counter[str] = field(default_factory=Counter[str])

    def __call__(self, request: Request) -> list[Reply]:
        messages = request.body["messages"]
        digest, calls = conversation_digest(messages), calls_of(messages) or calls_in_text(messages)
        turn = sum(message["role"] == "assistant" for message in messages)
        number = int(next(m["content"] for m in messages if m["role"] == "user").split()[-1])
        replies, marks = [], []
        for _ in range(request.n):
            mark = "m" + sha256(f"{self.seed} {digest} {self.shown[digest]}".encode()).hexdigest()[:12]
            self.shown[digest] += 1
            marks.append(mark)
            replies.append(self.reply(number, turn, mark, as_text="tools" not in request.body))
        fault = self.faults and self.faults.drawn(digest, self.asked[digest])
        self.asked[digest] += 1
        if self.faults and fault:
            replies, arrive = self.faults.answered(fault, request, replies)
            marks = marks[-arrive:] if arrive else []
        asked = Asked(
            number=number,
            digest=digest,
            shared=turn == 0 or any(call.turn == turn - 1 and call.tool in OUTSIDE for call in calls),
            life=request.body.get("life", 0),
            marks=marks,
            used=sorted({mark_of_turn(call.mark) for call in calls}),
            complaints=unsound_reads(calls),
            fault=fault,
            retry=int(request.headers.get("x-stainless-retry-count", 0)),
        )
        with self.log.open("a") as file:
            file.write(json.dumps(asdict(asked)) + "\n")
        return replies

    def reply(self, number: int, turn: int, mark: str, *, as_text: bool = False) -> Reply:
        dice = random.Random(mark)
        delay = dice.uniform(0.0, self.delay_seconds)
        if turn == len(self.plans):
            words = ["Done", " with", f" {mark}"]
            return Reply(tokens=[_token(word, dice) for word in words], delay_seconds=delay)
        plan = enumerate(dice.choice(self.plans[turn]))
        calls = [
            (tool, {"request": number} if tool == "ask" else {"request": number, "mark": f"{mark}.{i}"})
            for i, tool in plan
        ]
        words = [f" word{i}" for i in range(dice.randint(3, 8))]
        if as_text:
            block = json.dumps([{"name": tool, "arguments": arguments} for tool, arguments in calls])
            pieces = [*words, f" {mark}\n```json\n", *re.findall(r".{1,6}", block), "\n```"]
            return Reply(tokens=[_token(piece, dice) for piece in pieces], delay_seconds=delay)
        return Reply(
            tokens=[_token(word, dice) for word in words],
            tool_calls=[(tool, json.dumps(arguments)) for tool, arguments in calls],
            call_id=mark,
            finish_reason="tool_calls",
            delay_seconds=delay,
        )


def without_outside(plans: Sequence[Sequence[Sequence[str]]] = PLANS) -> list[list[list[str]]]:
    """The plans with their external calls left out; a turn that had no other looks instead."""
    return [[[tool for tool in plan if tool not in OUTSIDE] or ["look"] for plan in turn] for turn in plans]


def _token(word: str, dice: random.Random) -> Token:
    likely = dice.uniform(0.5, 0.99)
    return Token(says=word, probabilities=(likely, 1.0 - likely))


def conversation_digest(messages: Sequence[Mapping[str, Any]]) -> str:
    """What the model was shown, but for ids."""
    shown = [
        (
            message["role"],
            message.get("content"),
            [(call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls") or ()],
        )
        for message in messages
    ]
    return sha256(json.dumps(shown).encode()).hexdigest()[:16]


def calls_of(messages: Sequence[Mapping[str, Any]]) -> list[Call]:
    """The calls of a conversation in OpenAI's shape."""
    results = {message["tool_call_id"]: message["content"] for message in messages if message["role"] == "tool"}
    calls, turn = list[Call](), -1
    for message in messages:
        if message["role"] != "assistant":
            continue
        turn += 1
        for call in message.get("tool_calls") or ():
            arguments = json.loads(call["function"]["arguments"])
            mark = arguments.get("mark") or call["id"].replace("_", ".")
            calls.append(Call(tool=call["function"]["name"], mark=mark, turn=turn, result=results.get(call["id"])))
    return calls


def calls_in_text(messages: Sequence[Mapping[str, Any]]) -> list[Call]:
    """The calls of a conversation whose tools are described in its prompt; results follow their calls in order."""
    calls, turn = list[Call](), -1
    for message in messages:
        if message["role"] == "assistant":
            turn += 1
            for mark, block in re.findall(r" (m[0-9a-f]{12})\n```json\n(.*)\n```", message["content"]):
                for i, call in enumerate(json.loads(block)):
                    own = call["arguments"].get("mark", f"{mark}.{i}")
                    calls.append(Call(tool=call["name"], mark=own, turn=turn, result=None))
        elif turn >= 0:
            results = iter(re.findall(r"<tool_response>\n(.*?)\n</tool_response>", message["content"], re.DOTALL))
            calls = [call if call.turn < turn else replace(call, result=next(results, None)) for call in calls]
    return calls


def mark_of_turn(mark: str) -> str:
    """The mark of the turn that a call belongs to."""
    return mark.partition(".")[0]


def unsound_reads(calls: Sequence[Call]) -> list[str]:
    """Where a rollout did not see in its forks just what it had written itself."""
    complaints = list[str]()
    for call in calls:
        if call.tool not in READ_BACK or not call.succeeded:
            continue
        rows = json.loads(call.result or "")
        notes = [other for other in calls if other.tool == READ_BACK[call.tool]]
        must = {other.mark for other in notes if other.turn < call.turn and other.succeeded}
        may = {other.mark for other in notes if other.turn <= call.turn}
        if len(set(rows)) < len(rows):
            complaints.append(f"{call.mark} saw a row twice: {rows}")
        if not must <= set(rows) <= may:
            complaints.append(f"{call.mark} saw {sorted(rows)}, not {sorted(must)}")
    return complaints


def read_log(path: Path) -> list[Asked]:
    """What the server was asked, in order."""
    return [Asked(**json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []


@dataclass(frozen=True)
class ModelServer:
    """A server in a process of its own."""

    base_url: str
    process: Any
    _wire: Any

    def open_connections(self) -> int:
        """How many clients are connected to it now."""
        self._wire.send("how many?")
        return self._wire.recv()


@contextmanager
def model_server(script: Script) -> Generator[ModelServer]:
    """The server, for as long as it is used."""
    ours, its = FORKS.Pipe()
    process = FORKS.Process(target=_serve, args=(script, its), daemon=True)
    process.start()
    try:
        yield ModelServer(ours.recv(), process, ours)
    finally:
        process.terminate()
        process.join()
        ours.close()
        its.close()


def _serve(script: Script, wire: Any) -> None:
    with ChatServer(script) as server:
        wire.send(server.base_url)
        while wire.recv():
            wire.send(server.open_connections)
