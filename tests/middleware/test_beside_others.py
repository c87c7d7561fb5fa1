"""The middleware with LangChain's own, before and after it, and with structured output."""

from __future__ import annotations

from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import (
    HumanInTheLoopMiddleware,
    ModelCallLimitMiddleware,
    ModelFallbackMiddleware,
    SummarizationMiddleware,
    ToolCallLimitMiddleware,
)
from langchain.agents.structured_output import ProviderStrategy, StructuredOutputValidationError, ToolStrategy
from langchain_core.messages import AIMessage, BaseMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command
from pydantic import BaseModel

from entcent_agents.middleware import EntropyCentroidMiddleware
from entcent_agents.testing import ScriptedTurn
from tests.middleware.stepping import GO, WAYS, Chosen, ask, chat, looking, said, texts, turns

N = 3
BEST = 1
ORDERS = pytest.mark.parametrize("order", ["before it", "after it"])


def together(order: str, other: Any, chosen: Any = None) -> list[Any]:
    ours = EntropyCentroidMiddleware(N, selector=chosen or Chosen(BEST))
    return [other, ours] if order == "before it" else [ours, other]


def look_then_answer(index: int) -> Any:
    return turns(said(f"thinks{index}", ("look", {"at": f"place{index}"})), said(f"answer{index}"))


@WAYS
@ORDERS
async def test_a_person_is_asked_about_the_selected_call_alone(way: str, order: str):
    seen: list[str] = []
    chosen = Chosen(BEST)
    middleware = together(order, HumanInTheLoopMiddleware(interrupt_on={"look": True}), chosen)
    agent = create_agent(
        chat(look_then_answer, N), [looking(seen)], middleware=middleware, checkpointer=InMemorySaver()
    )
    stopped = await ask(agent, way, thread="t")
    [interrupt] = stopped["__interrupt__"]
    assert [action["args"] for action in interrupt.value["action_requests"]] == [{"at": f"place{BEST}"}]
    assert (seen, len(chosen.asked)) == ([], 1)
    edited = {"name": "look", "args": {"at": "elsewhere"}}
    answer = Command(resume={"decisions": [{"type": "edit", "edited_action": edited}]})
    result = await ask(agent, way, answer, thread="t")
    assert (seen, result["messages"][-1].text) == (["elsewhere"], f"answer{BEST}")
    assert [len(candidate.trajectory.turns) for candidate in chosen.asked[-1]] == [2] * N


@WAYS
@ORDERS
async def test_a_summary_takes_the_turns_that_it_replaces_out_of_the_trajectory(way: str, order: str):
    def script(index: int) -> Any:
        def next_turn(messages: list[BaseMessage]) -> ScriptedTurn:
            if "in short" in messages[0].text:
                return said(f"answer{index}")
            looked = sum(isinstance(message, AIMessage) for message in messages)
            return said("", ("look", {"at": f"place{index} {looked}"}))

        return next_turn

    summariser = chat(lambda index: turns(said("in short")))
    summarising = SummarizationMiddleware(model=summariser, trigger=("messages", 6), keep=("messages", 4))
    chosen = Chosen(BEST)
    agent = create_agent(
        chat(script, N), [looking([])], middleware=together(order, summarising, chosen), checkpointer=InMemorySaver()
    )
    result = await ask(agent, way, thread="t")
    assert result["messages"][-1].text == f"answer{BEST}" and "in short" in texts(result)[0]
    assert [len(asked[0].trajectory.turns) for asked in chosen.asked] == [1, 2, 3, 3]


@WAYS
@ORDERS
async def test_another_model_steps_in_for_candidates_or_for_all_of_them(way: str, order: str):
    failing = chat(lambda index: turns(ScriptedTurn(error=OSError("down"))), N)
    other = chat(lambda index: turns(said(f"other{index}")), N)
    agent = create_agent(failing, [], middleware=together(order, ModelFallbackMiddleware(other)))
    assert texts(await ask(agent, way)) == ["Go.", f"other{BEST}"]


@WAYS
async def test_before_it_another_model_is_not_asked_while_one_candidate_answers(way: str):
    def script(index: int) -> Any:
        return turns(ScriptedTurn(error=OSError("down")) if index == BEST else said(f"answer{index}"))

    other = chat(lambda index: turns(said(f"other{index}")), N)
    middleware = together("before it", ModelFallbackMiddleware(other))
    assert texts(await ask(create_agent(chat(script, N), [], middleware=middleware), way)) == ["Go.", "answer0"]


@WAYS
@ORDERS
async def test_a_limit_of_model_calls_counts_steps(way: str, order: str):
    seen: list[str] = []
    limit = ModelCallLimitMiddleware(run_limit=1)
    agent = create_agent(chat(look_then_answer, N), [looking(seen)], middleware=together(order, limit))
    result = await ask(agent, way)
    assert seen == [f"place{BEST}"]
    assert "limit" in result["messages"][-1].text


@WAYS
@ORDERS
async def test_a_limit_of_tool_calls_counts_those_of_the_selected_turns(way: str, order: str):
    def script(index: int) -> Any:
        looks = [said("", ("look", {"at": f"place{index} {number}"})) for number in range(3)]
        return turns(*looks, said(f"answer{index}"))

    seen: list[str] = []
    limit = ToolCallLimitMiddleware(run_limit=2, exit_behavior="continue")
    agent = create_agent(chat(script, N), [looking(seen)], middleware=together(order, limit))
    result = await ask(agent, way)
    assert seen == [f"place{BEST} 0", f"place{BEST} 1"]
    assert result["messages"][-1].text == f"answer{BEST}"


class Word(BaseModel):
    """A word."""

    word: str


@WAYS
async def test_a_structured_answer_by_a_tool_is_that_of_the_selected_turn(way: str):
    arguments = [{"wrong": "name"}, {"word": "one"}, {"word": "two"}]
    agent = create_agent(
        chat(lambda index: turns(said("", ("Word", arguments[index]))), N),
        [],
        middleware=[EntropyCentroidMiddleware(N, selector=Chosen(0))],
        response_format=ToolStrategy(Word),
    )
    result = await ask(agent, way)
    assert result["structured_response"] == Word(word="one")  # the first has arguments that do not fit
    assert [message.type for message in result["messages"]] == ["human", "ai", "tool"]


@WAYS
async def test_where_no_structured_answer_fits_the_agent_tries_again(way: str):
    def script(index: int) -> Any:
        return turns(said("", ("Word", {"wrong": "name"})), said("", ("Word", {"word": f"word{index}"})))

    agent = create_agent(
        chat(script, N),
        [],
        middleware=[EntropyCentroidMiddleware(N, selector=Chosen(BEST))],
        response_format=ToolStrategy(Word),
    )
    result = await ask(agent, way)
    assert result["structured_response"] == Word(word=f"word{BEST}")
    assert [message.type for message in result["messages"]] == ["human", "ai", "tool", "ai", "tool"]


@WAYS
async def test_a_structured_answer_of_the_provider_is_that_of_the_selected_turn(way: str):
    answers = ["no JSON", '{"word": "one"}', '{"word": "two"}']
    agent = create_agent(
        chat(lambda index: turns(said(answers[index])), N),
        [],
        middleware=[EntropyCentroidMiddleware(N, selector=Chosen(0))],
        response_format=ProviderStrategy(Word),
    )
    assert (await ask(agent, way))["structured_response"] == Word(word="one")


@WAYS
async def test_where_no_answer_of_the_provider_fits_its_error_is_raised(way: str):
    agent = create_agent(
        chat(lambda index: turns(said("no JSON")), N),
        [],
        middleware=[EntropyCentroidMiddleware(N)],
        response_format=ProviderStrategy(Word),
    )
    with pytest.raises(StructuredOutputValidationError):
        await ask(agent, way)


@WAYS
@pytest.mark.parametrize("strategy", [ToolStrategy(Word), ProviderStrategy(Word)], ids=["tool", "provider"])
@ORDERS
async def test_structured_output_and_another_model_together(way: str, order: str, strategy: Any):
    failing = chat(lambda index: turns(ScriptedTurn(error=OSError("down"))), N)

    def script(index: int) -> Any:
        word = {"word": f"word{index}"}
        by_tool = isinstance(strategy, ToolStrategy)
        return turns(said("", ("Word", word)) if by_tool else said(Word(**word).model_dump_json()))

    middleware = together(order, ModelFallbackMiddleware(chat(script, N)))
    agent = create_agent(failing, [], middleware=middleware, response_format=strategy)
    assert (await ask(agent, way, GO))["structured_response"] == Word(word=f"word{BEST}")
