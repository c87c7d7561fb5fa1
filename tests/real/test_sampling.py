"""Several answers and answers continued, on the embedded server with the small model."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from entcent_agents.chat.continuation import ContinuationMethod, Joint
from entcent_agents.chat.embedded import EmbeddedServer, open_embedded
from entcent_agents.chat.model import ChatLogprobs

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

COUNT = "Count from one to ten in words."
EMOJI = "Write one sentence about rain, with an emoji 😀."
SLOTS = 2


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    with open_embedded("smollm2-135m", slots=SLOTS, context_tokens=512) as server:
        yield server


def chat(server: EmbeddedServer, **settings: object) -> ChatLogprobs:
    return ChatLogprobs(
        **{"model": server.model, "base_url": server.base_url, "temperature": 0, "max_tokens": 24, **settings}
    )


@pytest.mark.parametrize("question", [COUNT, EMOJI])
async def test_an_answer_goes_on_from_its_own_tokens_as_it_had_gone_on(server: EmbeddedServer, question: str) -> None:
    model = chat(server)
    (answer,) = await model.agenerate_n(question, 1)
    assert len(answer.token_logprobs) > 4
    for cut in (2, len(answer.token_logprobs) // 2):
        found = await model.acontinue(question, answer.token_logprobs.head(cut))
        assert found.method is ContinuationMethod.LLAMA_TOKENS
        assert found.joint is Joint.EXACT
        assert found.reused_tokens >= cut
        assert found.generation.token_logprobs.scored_tokens == len(found.generation.token_logprobs)
        same = answer.token_logprobs.head(cut + 2).text.decode()
        assert found.message.text.startswith(same)


async def test_a_text_is_gone_on_from_as_a_message_too(server: EmbeddedServer) -> None:
    found = await chat(server).acontinue(COUNT, "one, two,", method=ContinuationMethod.TRAILING_MESSAGE)
    assert found.message.text.startswith("one, two,")
    assert found.generation.token_logprobs.text.decode() == found.message.text.removeprefix("one, two,")


async def test_several_answers_read_the_prompt_once_and_more_than_slots_come_in_parts(server: EmbeddedServer) -> None:
    model = chat(server, temperature=1.0, max_tokens=8)
    question = "apple river stone " * 60
    answers = await model.agenerate_n(question, SLOTS)
    read = sum(
        usage["input_tokens"] - usage["input_token_details"]["cache_read"]
        for usage in (answer.message.usage_metadata for answer in answers)
    )
    assert 150 < read < 300  # as the server counts: twice as much, were it read for each
    answers = await model.agenerate_n("Name a colour.", 2 * SLOTS + 1)
    assert len(answers) == 2 * SLOTS + 1
    assert all(answer.token_logprobs.scored_tokens for answer in answers)
