"""Questions at the terminal: what is shown, what may be typed, and what the graph is given."""

from __future__ import annotations

import io
import signal
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Interrupt
from rich.console import Console

from entcent_agents.cli.questions import BY, answers_to
from entcent_agents.ledger import Answer
from entcent_agents.nodes.questions import DOUBTS
from entcent_agents.testing import ScriptedChat, ScriptedTurn


@tool
def send(to: str) -> str:
    """Send a mail."""
    return f"sent to {to}"


def approval(mode: Any, allowed: list[Any], **settings: Any) -> Interrupt[Any]:
    """What LangChain's middleware asks."""
    review = HumanInTheLoopMiddleware(
        interrupt_on={"send": {"allowed_decisions": allowed, **settings}}, interrupt_mode=mode
    )
    model = ScriptedChat(scripts=[[ScriptedTurn(tool_calls=[("send", {"to": "ann"})]), ScriptedTurn(text="done")]])
    agent = create_agent(model, [send], middleware=[review], checkpointer=InMemorySaver())
    (asked,) = agent.invoke({"messages": [HumanMessage("go")]}, {"configurable": {"thread_id": "t"}})["__interrupt__"]
    return asked


def doubt(**fields: Any) -> dict[str, Any]:
    known = {"kind": "effect in doubt", "doubt_id": "d1", "tool": "send", "arguments": {"to": "ann"}, "attempts": 1}
    known |= {"reason": "it timed out", "idempotency_key": "key-1", "answers": ["happened", "run", "give up"]}
    return {**known, "others": [], **fields}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch):
    """Put a question to somebody who types these lines; gives the answer and what was shown."""

    def ask(question: Interrupt[Any], *typed: str) -> tuple[Any, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in typed)))
        shown = io.StringIO()
        answers = answers_to([question], Console(file=shown, width=200))
        return answers[question.id], shown.getvalue()

    return ask


@pytest.mark.parametrize("mode", ["batched", "per_call"])
@pytest.mark.parametrize(
    ("typed", "decision"),
    [
        (["approve"], {"type": "approve"}),
        (["A"], {"type": "approve"}),
        (["re", "rej", ""], {"type": "reject"}),
        (["reject", "too early"], {"type": "reject", "message": "too early"}),
        (["respond", "it was sent"], {"type": "respond", "message": "it was sent"}),
        (
            ["", "yes", "edit", "{'to': 'bob'}", "[1]", '{"to": "bob"}'],
            {"type": "edit", "edited_action": {"name": "send", "args": {"to": "bob"}}},
        ),
    ],
)
def test_a_call_is_shown_and_decided_as_the_middleware_wants_it(asked, mode: str, typed: list[str], decision: Any):
    answer, shown = asked(approval(mode, ["approve", "edit", "reject", "respond"]), *typed)
    assert answer == ({"decisions": [decision]} if mode == "batched" else decision)
    assert 'send {\n  "to": "ann"\n}' in shown
    assert shown.count("Tool: send") == 0, "the middleware's own description says nothing that is not shown"


@pytest.mark.parametrize("mode", ["batched", "per_call"])
@pytest.mark.parametrize("allowed", [["approve", "reject"], ["approve"]])
def test_only_allowed_decisions_are_taken(asked, mode: str, allowed: list[str]):
    question = approval(mode, allowed, description="Mail to a customer")
    answer, shown = asked(question, "edit", "respond", "approve")
    assert answer == ({"decisions": [{"type": "approve"}]} if mode == "batched" else {"type": "approve"})
    assert f"[{'/'.join(allowed)}]" in shown
    assert shown.count("Please select one of the available options") == 2
    assert "Mail to a customer" in shown


def test_each_of_several_calls_is_decided(asked):
    calls = [{"name": "send", "args": {"to": "ann"}}, {"name": "pay", "args": {}}]
    rules = [
        {"action_name": "pay", "allowed_decisions": ["reject"]},
        {"action_name": "send", "allowed_decisions": ["approve"]},
    ]
    question = Interrupt(value={"action_requests": calls, "review_configs": rules}, id="i")
    answer, _ = asked(question, "approve", "reject", "no money")
    assert answer == {"decisions": [{"type": "approve"}, {"type": "reject", "message": "no money"}]}


@pytest.mark.parametrize(
    ("typed", "answer"),
    [("yes", "yes"), ("5", 5), ('"5"', "5"), ('{"to": ["ann"]}', {"to": ["ann"]}), ("{half", "{half"), ("", "")],
)
def test_any_other_question_takes_text_or_json(asked, typed: str, answer: Any):
    given, shown = asked(Interrupt(value={"how many": "mails?"}, id="i", response_schema={"type": "number"}), typed)
    assert given == answer
    assert '"how many": "mails?"' in shown and '{"type": "number"}' in shown
    assert "Enter to go on" in asked(Interrupt(value={"kind": "breakpoint", "before": ["tools"]}, id="i"), "")[1]


def test_what_a_question_holds_cannot_steer_the_terminal(asked):
    _, shown = asked(Interrupt(value="delete\x1b[2K\r\u202eall\x9b1m?", id="i"), "no")
    assert "delete\\x1b[2K\\r\\u202eall\\x9b1m?" in shown
    calls = [{"name": "send", "args": {"to": "\x1b[8mbob"}, "description": "\x1b[2Jall is well"}]
    rules = [{"action_name": "send", "allowed_decisions": ["approve"]}]
    _, shown = asked(Interrupt(value={"action_requests": calls, "review_configs": rules}, id="i"), "approve")
    assert "\x1b" not in shown and "\\x1b[2Jall is well" in shown


def test_effects_in_doubt_are_decided_one_by_one(asked):
    others = [{"tool": "send", "arguments": None, "digest": "d", "state": "done"}]
    doubts = [doubt(), doubt(doubt_id="d2", others=others), doubt(doubt_id="d3"), doubt(doubt_id="d4")]
    question = Interrupt(value={"kind": DOUBTS, "questions": doubts}, id="i")
    typed = ["happened", '{"receipt": 7}', "run", "give", "found no trace", "give up", ""]
    answers, shown = asked(question, *typed)
    assert [Answer.from_dict(answer) for answer in answers] == [
        Answer(doubt_id="d1", decision="happened", result={"receipt": 7}, by=BY),
        Answer(doubt_id="d2", decision="run", by=BY),
        Answer(doubt_id="d3", decision="give up", reason="found no trace", by=BY),
        Answer(doubt_id="d4", decision="give up", by=BY),
    ]
    assert "it timed out" in shown and "key-1" in shown and '"state": "done"' in shown


def test_the_end_of_what_is_typed_is_no_answer_and_ctrl_c_works_as_before(asked):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        asked(Interrupt(value="go on?", id="i"))
    assert signal.getsignal(signal.SIGINT) is before
