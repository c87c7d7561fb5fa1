"""SummarizationMiddleware rewrites history: removals and replacements have to reach the outer graph."""

from __future__ import annotations

from langchain.agents import create_agent
from langchain.agents.middleware import SummarizationMiddleware
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool

from entcent_agents.effects import Effect
from entcent_agents.testing import ScriptedChat
from tests.whole_graphs.comparing import LIVE_OR_HELD, ROLLOUTS, assert_same_as_alone, says, scripts, winner_of


@tool
def look_up(what: str) -> str:
    """Look something up."""
    return f"{what} is known"


def summarising_agent():
    def answers(index: int):
        return lambda messages: (
            says(f"answer {index}")
            if messages[-1].type == "tool"
            else says("hm", ("look_up", {"what": messages[-1].text}))
        )

    summariser = ScriptedChat(scripts=scripts(lambda i: lambda messages: says(f"in short {i}")))
    middleware = SummarizationMiddleware(model=summariser, trigger=("messages", 6), keep=("messages", 2))
    return create_agent(ScriptedChat(scripts=scripts(answers)), [look_up], middleware=[middleware])


@ROLLOUTS
@LIVE_OR_HELD
async def test_rewritten_history_replaces_the_old_one_and_the_next_request_goes_on_from_it(n: int, effect: Effect):
    requests = [{"messages": [HumanMessage(f"question {k}")]} for k in range(4)]
    state = await assert_same_as_alone(summarising_agent(), requests, n, effects={"look_up": effect})
    texts = [message.text for message in state["messages"]]
    assert f"in short {winner_of(n)}" in texts[0]
    assert "question 0" not in texts and texts[-1] == f"answer {winner_of(n)}"
