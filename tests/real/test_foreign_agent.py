"""An agent that was not written for this library, on a real model: `create_agent` over `ChatOpenAI`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from langchain.agents import create_agent
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

    def get_weather(city: str) -> str:
        """The weather in a city right now.

        Args:
            city: Name of the city.
        """
        asked.append(city)
        return f"It rains in {city}, at 11 degrees."

    model = ChatOpenAI(
        model=server.model,
        base_url=server.base_url,
        api_key="none",  # type: ignore[arg-type]
        logprobs=True,
        top_logprobs=10,
        temperature=0.7,
        max_tokens=80,
        use_responses_api=False,
    )
    agent = create_agent(model, [get_weather], system_prompt="Always call a tool before you answer.")
    graph = entropy_centroid_graph(agent, n=4, effects={"get_weather": READ}, recursion_limit=9)
    for _ in range(12):  # a small model calls its tool in some rollouts, and now and then in none of four
        records, messages = await streamed(graph)
        finished = [record for record in records if record["status"] == "finished"]
        assert finished and messages
        assert all(turn["logprobs"] for record in finished for turn in record["turns"])
        assert all("logprobs" not in message.response_metadata for message in messages)
        if asked:
            return
    pytest.fail("no rollout of twelve requests called the tool")


async def streamed(graph) -> tuple[list[dict], list]:
    """The records of the rollouts, and the messages that were committed."""
    records: list[dict] = []
    messages: list = []
    question = {"messages": [("user", "What is the weather in Paris?")]}
    async for update in graph.astream(question, stream_mode="updates"):
        records = update.get("rollouts", {}).get("rollouts", records)
        messages = update.get("select", {}).get("messages", messages)
    return records, messages
