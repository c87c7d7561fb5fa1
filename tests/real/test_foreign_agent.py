"""An agent that was not written for this library, on a real model: `create_agent` over `ChatOpenAI`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from langchain.agents import create_agent
from langchain_core.messages import ToolMessage
from langchain_openai import ChatOpenAI

from entcent_agents.chat.embedded import EmbeddedServer, open_embedded
from entcent_agents.chat.store import ModelStore
from entcent_agents.effects import READ
from entcent_agents.prebuilt import entropy_centroid_graph

MODEL = "qwen2.5-coder-1.5b"
pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    ModelStore().pull(MODEL)
    with open_embedded(MODEL, slots=4, context_tokens=2048) as running:
        yield running


async def test_it_works_under_the_one_line_graph_and_real_tools_are_called(server: EmbeddedServer):
    asked: list[str] = []

    def stock(article: str) -> str:
        """How many of an article are in stock.

        Args:
            article: Name of the article, such as "lamp".
        """
        asked.append(article)
        return f"There are 17 of {article}."

    model = ChatOpenAI(
        model=server.model,
        base_url=server.base_url,
        api_key="none",  # type: ignore[arg-type]
        logprobs=True,
        top_logprobs=10,
        temperature=0.7,
        max_tokens=120,
        use_responses_api=False,
    )
    agent = create_agent(model, [stock], system_prompt="You answer questions about the stock with the tool stock.")
    graph = entropy_centroid_graph(agent, n=4, effects={"stock": READ}, recursion_limit=9)
    records: list[dict] = []
    messages: list = []
    async for update in graph.astream({"messages": [("user", "How many lamps are in stock?")]}, stream_mode="updates"):
        records = update.get("rollouts", {}).get("rollouts", records)
        messages = update.get("select", {}).get("messages", messages)
    finished = [record for record in records if record["status"] == "finished"]
    assert asked, "no rollout called the tool"
    assert finished and messages
    assert all(turn["logprobs"] for record in finished for turn in record["turns"])
    assert all("logprobs" not in message.response_metadata for message in messages)
    assert any(isinstance(message, ToolMessage) for message in messages) or len(asked) < 4
