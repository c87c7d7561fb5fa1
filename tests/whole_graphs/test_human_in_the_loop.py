"""LangChain's HumanInTheLoopMiddleware: approve, edit, reject; the person sees the winner's calls alone."""

from __future__ import annotations

from typing import Any

from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.tools import tool

from entcent_agents.effects import EXTERNAL, READ
from entcent_agents.testing import ScriptedChat
from tests.whole_graphs.comparing import ROLLOUTS, assert_asks_the_same, says, scripts, since_human, winner_of


def decided(*decisions: dict[str, Any]) -> dict[str, Any]:
    return {"decisions": list(decisions)}


def mailing_agent(sent: list[str]):
    @tool
    def send_mail(to: str) -> str:
        """Send a mail."""
        sent.append(to)
        return f"sent to {to}"

    @tool
    def look(x: int) -> str:
        """Look."""
        return f"seen {x}"

    def mails(index: int):
        turns = [
            says("first", ("look", {"x": index}), ("send_mail", {"to": f"ann{index}"})),
            says("then", ("send_mail", {"to": f"bob{index}"})),
            says(f"done {index}"),
        ]
        return lambda messages: turns[since_human(messages)]

    return create_agent(
        ScriptedChat(scripts=scripts(mails)),
        [send_mail, look],
        middleware=[HumanInTheLoopMiddleware(interrupt_on={"send_mail": True})],
    )


@ROLLOUTS
async def test_what_is_approved_is_sent_once_and_nothing_else_is(n: int):
    sent: list[str] = []
    approve = decided({"type": "approve"})
    state, asked = await assert_asks_the_same(
        mailing_agent(sent), [approve, approve], n, turns=1, effects={"look": READ, "send_mail": EXTERNAL}
    )
    winner = winner_of(n)
    assert sorted(sent) == [f"ann{winner}"] * 2 + [f"bob{winner}"] * 2  # alone, and as rollouts
    assert [requests["action_requests"][0]["args"] for questions in asked[:2] for requests in questions] == [
        {"to": f"ann{winner}"},
        {"to": f"bob{winner}"},
    ]
    assert state["messages"][-1].text == f"done {winner}"


@ROLLOUTS
async def test_an_edited_call_is_made_as_edited_and_a_rejected_one_is_not_made(n: int):
    sent: list[str] = []
    edit = decided({"type": "edit", "edited_action": {"name": "send_mail", "args": {"to": "carl"}}})
    reject = decided({"type": "reject", "message": "not bob"})
    state, _ = await assert_asks_the_same(
        mailing_agent(sent), [edit, reject], n, turns=1, effects={"look": READ, "send_mail": EXTERNAL}
    )
    assert sent == ["carl", "carl"]
    assert any("not bob" in message.text for message in state["messages"])
