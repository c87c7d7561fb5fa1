"""Questions of a run, put to the person at the terminal."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from langgraph.types import Interrupt
from rich.console import Console
from rich.prompt import InvalidResponse, Prompt, PromptBase
from rich.text import Text

from entcent_agents.cli.text import printable, readable
from entcent_agents.nodes.questions import DOUBTS
from entcent_agents.rollouts.ending import BREAKPOINT

BY: Final = "the person at the terminal"
"""Who answers, in the ledger."""
_DECISIONS: Final = ("approve", "edit", "reject", "respond")


def person_is_there() -> bool:
    """Whether questions can be shown, and answers typed."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def answers_to(questions: Sequence[Interrupt[Any]], console: Console) -> dict[str, Any]:
    """What the person answers, by the ids of the interrupts.

    Raises:
        KeyboardInterrupt: They leave instead.
    """
    with _ctrl_c_raises():
        try:
            return {question.id: _answer_to(question, console) for question in questions}
        except EOFError:
            raise KeyboardInterrupt from None


@contextmanager
def _ctrl_c_raises() -> Generator[None]:
    """An event loop takes Ctrl-C as a wish to be stopped, and would hear of it when the answer is there only."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _answer_to(question: Interrupt[Any], console: Console) -> Any:
    console.rule("the agent asks", align="left")
    match question.value:
        case {"action_requests": [*actions], "review_configs": [*configs]}:  # HumanInTheLoopMiddleware, a turn at once
            allowed = {config["action_name"]: config["allowed_decisions"] for config in configs}
            return {"decisions": [_decision(action, allowed[action["name"]], console) for action in actions]}
        case {"type": "tool_approval", "name": str(), "args": dict()} as action:  # the same, call by call
            return _decision(action, _allowed(question.response_schema), console)
        case {"kind": kind, "questions": [*doubts]} if kind == DOUBTS:
            return [_settled(doubt, console) for doubt in doubts]
        case {"kind": kind, "before": before} if kind == BREAKPOINT:
            console.print(Text(f"the agent has a breakpoint before {readable(before)}"))
            return Prompt.ask("Enter to go on", console=console, default="", show_default=False)
        case value:
            console.print(Text(readable(value)))
            if question.response_schema:
                console.print(Text(f"the answer's schema: {json.dumps(question.response_schema)}", "dim"))
            return _Value.ask("answer (what is JSON is read as JSON)", console=console)


def _decision(action: Mapping[str, Any], allowed: Sequence[str], console: Console) -> dict[str, Any]:
    """What is to become of one call, in the words of LangChain's middleware."""
    name, arguments = action["name"], action["args"]
    told = str(action.get("description") or "").removesuffix(f"Tool: {name}\nArgs: {arguments}").strip()
    if told:
        console.print(Text(printable(told)))
    _show_call(name, arguments, console)
    decision = _Choice.ask("decision", console=console, choices=list(allowed))
    if decision == "edit":
        new = _Arguments.ask("new arguments, a JSON object", console=console)
        return {"type": decision, "edited_action": {"name": name, "args": new}}
    if decision == "reject":
        message = _optional("reason, for the agent", console)
        return {"type": decision, **({"message": message} if message else {})}
    if decision == "respond":
        return {"type": decision, "message": Prompt.ask("the tool's answer, in your words", console=console)}
    return {"type": decision}


def _allowed(schema: Any) -> list[str]:
    """The decisions that an approval's JSON Schema leaves: one branch each, or a single one."""
    match schema:
        case {"discriminator": {"mapping": {**branches}}}:
            return [str(decision) for decision in branches]
        case {"properties": {"type": {"const": str() as only}}}:
            return [only]
        case _:
            return list(_DECISIONS)


def _settled(doubt: Mapping[str, Any], console: Console) -> dict[str, Any]:
    """What a person knows about a call in doubt; `Answer.from_dict` reads it."""
    console.print(Text(f"nobody knows whether this call happened: {printable(str(doubt['reason']))}", "bold yellow"))
    _show_call(doubt["tool"], doubt["arguments"], console)
    console.print(Text(f"attempts: {doubt['attempts']}; idempotency key: {doubt['idempotency_key']}", "dim"))
    for other in doubt["others"]:
        console.print(Text(f"on record at its place: {readable(other)}", "dim"))
    console.print("happened: it did; run: it did not, make it once; give up: it shall not be made", style="dim")
    decision = _Choice.ask("decision", console=console, choices=list(doubt["answers"]))
    answer = {"doubt_id": doubt["doubt_id"], "decision": decision, "by": BY}
    if decision == "happened":
        return answer | {"result": _Value.ask("what it gave (what is JSON is read as JSON)", console=console)}
    if decision == "give up":
        return answer | {"reason": _optional("reason, for the agent", console) or None}
    return answer


def _show_call(tool: str, arguments: Any, console: Console) -> None:
    console.print(Text(f"{printable(tool)} {readable(arguments)}", "bold"))


def _optional(prompt: str, console: Console) -> str:
    return Prompt.ask(f"{prompt} (may be empty)", console=console, default="", show_default=False)


class _Choice(Prompt):
    """One of a few words; as much of it as tells it from the others will do."""

    def process_response(self, value: str) -> str:
        begun = value.strip().lower()
        meant = [choice for choice in self.choices or () if begun and choice.startswith(begun)]
        return super().process_response(meant[0] if len(meant) == 1 else value)


class _Value(PromptBase[Any]):
    """JSON where it is some, else text."""

    def process_response(self, value: str) -> Any:
        try:
            return json.loads(value)
        except ValueError:
            return value


class _Arguments(PromptBase[Any]):
    """A JSON object."""

    def process_response(self, value: str) -> Any:
        try:
            given = json.loads(value)
        except ValueError as error:
            raise InvalidResponse(Text(f"no JSON: {error}", "red")) from None
        if not isinstance(given, dict):
            raise InvalidResponse(Text("arguments are a JSON object: {…}", "red"))
        return given  # pyright: ignore[reportUnknownVariableType]
