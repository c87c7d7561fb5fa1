"""A sub-agent in a module of its own, and ways in which other modules call it."""

from __future__ import annotations

from typing import Any

from langchain.agents import create_agent

from entcent_agents.testing import ScriptedChat
from tests.rollouts.worlds import ASK

AGENT: Any = create_agent(ScriptedChat(scripts=[]), [], name="elsewhere")


def ask_it() -> str:
    return str(AGENT.invoke(ASK))


class Office:
    def __init__(self, agent: Any) -> None:
        self.agent = agent

    def ask(self) -> str:
        return str(self.agent.invoke(ASK))


OFFICE = Office(AGENT)
