"""The middleware by itself: which turn is committed, what selectors are asked about, and what becomes of the others."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, ExtendedModelResponse, ModelResponse
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler, UsageMetadataCallbackHandler
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_stream_writer
from langgraph.errors import NodeCancelledError
from langgraph.types import Command

from entcent_agents.chat import ChatLogprobs
from entcent_agents.effects import READ
from entcent_agents.errors import ConfigurationError, LogprobsMissingError
from entcent_agents.middleware import EntropyCentroidMiddleware
from entcent_agents.prebuilt import entropy_centroid_graph
from entcent_agents.selection import First, LowestCentroid, LowestMeanEntropy, MajorityVote
from entcent_agents.testing import ScriptedChat, ScriptedTurn
from tests.chat_server import says
from tests.middleware.stepping import GO, WAYS, Chosen, ask, chat, looking, said, stream, texts, turns

N = 4
BEST = 2


def steps(events: list[Any]) -> list[Any]:
    return [event for event in events if event["type"] == "entcent.step"]


def look_then_answer(index: int) -> Any:
    return turns(said(f"thinks{index}", ("look", {"at": f"place{index}"})), said(f"answer{index}"))


ANSWERING = chat(lambda index: turns(said(f"answer{index}")))


@WAYS
async def test_only_the_selected_turn_is_said_and_only_its_tools_run(way: str):
    seen: list[str] = []
    agent = create_agent(
        chat(look_then_answer), [looking(seen)], middleware=[EntropyCentroidMiddleware(N, selector=Chosen(BEST))]
    )
    result = await ask(agent, way)
    assert texts(result) == ["Go.", f"thinks{BEST}", f"saw place{BEST}", f"answer{BEST}"]
    assert seen == [f"place{BEST}"]
    assert list(result) == ["messages"]


@WAYS
async def test_a_candidate_is_scored_at_the_end_of_the_trajectory_so_far(way: str):
    """Midpoints of the peaks, counted from the beginning of the trajectory, over its length."""
    calm = said("thinks", ("look", {"at": "here"}), entropy=0.01, tokens=400)
    peak, flat = [1.5] * 20, [0.01] * 20
    entropies = [flat * 20 + peak, flat * 2 + peak + flat]

    def script(index: int) -> Any:
        return turns(calm, ScriptedTurn(text=f"answer{index}", entropy=entropies[index]))

    selector = LowestCentroid(min_scored_tokens=0)
    middleware = EntropyCentroidMiddleware(2, selector=selector)
    events = await stream(
        create_agent(chat(script, 2), [looking([])], middleware=[middleware]), way, stream_mode="custom"
    )
    values = [candidate["value"] for candidate in events[-1]["candidates"]]
    assert values == pytest.approx([(400 + 410) / 820, (400 + 50) / 480])
    assert events[-1]["winner"] == 1


@WAYS
@pytest.mark.parametrize(("scope", "turns_at_the_end"), [("request", 2), ("thread", 4)])
async def test_the_scope_says_which_turns_count(way: str, scope: Any, turns_at_the_end: int):
    chosen = Chosen(0)
    agent = create_agent(
        chat(look_then_answer),
        [looking([])],
        middleware=[EntropyCentroidMiddleware(N, selector=chosen, scope=scope)],
        checkpointer=InMemorySaver(),
    )
    for _ in range(2):
        result = await ask(agent, way, thread="t")
    last = chosen.asked[-1][0].trajectory
    assert len(last.turns) == turns_at_the_end
    of_the_model = [message for message in result["messages"] if isinstance(message, AIMessage)]
    assert [turn.message_id for turn in last.turns] == [message.id for message in of_the_model[-turns_at_the_end:]]
    assert len((agent.get_state({"configurable": {"thread_id": "t"}})).values["entcent_turns"]) == turns_at_the_end


async def test_a_turn_whose_message_was_taken_out_does_not_count_any_more():
    chosen = Chosen(0)
    agent = create_agent(
        chat(look_then_answer),
        [looking([])],
        middleware=[EntropyCentroidMiddleware(N, selector=chosen, scope="thread")],
        checkpointer=InMemorySaver(),
    )
    config: Any = {"configurable": {"thread_id": "t"}}
    result = await ask(agent, "async", thread="t")
    answer = result["messages"][-1]
    await agent.aupdate_state(config, {"messages": [RemoveMessage(id=answer.id)]})
    await ask(agent, "async", thread="t")
    assert answer.id not in {turn.message_id for turn in chosen.asked[-1][0].trajectory.turns}
    assert len(chosen.asked[-1][0].trajectory.turns) == 3


@WAYS
async def test_candidates_that_call_the_same_are_one_with_the_votes_of_all(way: str):
    places = [{"at": "here"}, {"at": "there"}, {"at": "there"}, {"at": "nowhere"}]
    entropies = [0.01, 0.3, 0.2, 0.4]

    def script(index: int) -> Any:
        call = said(f"thinks{index}", ("look", places[index]), entropy=entropies[index])
        return turns(call, said("The same answer."))

    seen: list[str] = []
    middleware = EntropyCentroidMiddleware(N, selector=MajorityVote().then(LowestMeanEntropy()))
    agent = create_agent(chat(script), [looking(seen)], middleware=[middleware])
    events = steps(await stream(agent, way, stream_mode="custom"))
    assert seen == ["there"]
    assert events[0]["winner"] == 2  # of the two that called the same, the one that the selector prefers
    assert {each["rollout"]: each["votes"] for each in events[0]["candidates"]} == {0: 1, 2: 2, 3: 1}
    assert [each["votes"] for each in events[1]["candidates"]] == [4]
    assert events[1]["usage"]["generated_tokens"] == 80


@WAYS
async def test_a_candidate_that_fails_is_data(way: str):
    def script(index: int) -> Any:
        return turns(ScriptedTurn(error=OSError("gone")) if index != BEST else said("answer"))

    agent = create_agent(chat(script), [], middleware=[EntropyCentroidMiddleware(N)])
    [event] = steps(await stream(agent, way, stream_mode="custom"))
    assert (event["winner"], event["failed"]) == (BEST, 3)
    assert texts(await ask(agent, way)) == ["Go.", "answer"]


@WAYS
async def test_where_all_fail_the_error_of_the_first_is_raised(way: str):
    agent = create_agent(
        chat(lambda index: turns(ScriptedTurn(error=OSError(f"gone {index}")))),
        [],
        middleware=[EntropyCentroidMiddleware(N)],
    )
    with pytest.raises(OSError, match="gone 0"):
        await ask(agent, way)


@WAYS
async def test_a_programming_error_in_one_candidate_is_raised(way: str):
    agent = create_agent(
        chat(lambda index: turns(ScriptedTurn(error=NameError("misspelt")) if index == BEST else said("answer"))),
        [],
        middleware=[EntropyCentroidMiddleware(N)],
    )
    with pytest.raises(NameError, match="misspelt"):
        await ask(agent, way)


@WAYS
async def test_arguments_that_do_not_parse_do_not_win_over_those_that_do(way: str):
    class Garbling(AgentMiddleware):
        def wrap_model_call(self, request: Any, handler: Any) -> Any:
            return self._garbled(handler(request))

        async def awrap_model_call(self, request: Any, handler: Any) -> Any:
            return self._garbled(await handler(request))

        def _garbled(self, response: ModelResponse) -> ModelResponse:
            message = response.result[0]
            if "0" in message.text:
                bad: Any = {"name": "look", "args": "{", "id": "1", "error": "no JSON", "type": "invalid_tool_call"}
                message.invalid_tool_calls = [bad]
            return response

    middleware = [EntropyCentroidMiddleware(2, selector=First()), Garbling()]
    agent = create_agent(ANSWERING, [], middleware=middleware)
    assert texts(await ask(agent, way)) == ["Go.", "answer1"]


@WAYS
async def test_a_model_without_log_probabilities_is_an_error_that_says_what_to_do(way: str):
    model = chat(lambda index: turns(ScriptedTurn(text=f"answer{index}", generated_tokens=5)))
    with pytest.raises(LogprobsMissingError, match="with_logprobs"):
        await ask(create_agent(model, [], middleware=[EntropyCentroidMiddleware(N)]), way)
    fallback = EntropyCentroidMiddleware(N, on_unscorable="fallback")
    assert texts(await ask(create_agent(model, [], middleware=[fallback]), way)) == ["Go.", "answer0"]


@WAYS
async def test_a_model_of_another_integration_is_asked_for_log_probabilities(way: str, serve: Any):
    server = serve(lambda request: [says("an answer", logprobs=bool(request.body.get("logprobs")))])
    model = ChatOpenAI(model="scripted", base_url=server.base_url, api_key="none", max_retries=0)  # type: ignore[arg-type]
    agent = create_agent(model, [], middleware=[EntropyCentroidMiddleware(2)])
    assert texts(await ask(agent, way)) == ["Go.", "an answer"]
    assert [request.body["top_logprobs"] for request in server.requests] == [10, 10]


@WAYS
async def test_a_model_that_gives_none_the_way_it_is_set_is_refused_before_it_is_asked(way: str):
    model: Any = ChatOpenAI(model="m", base_url="http://127.0.0.1:9", api_key="none", use_responses_api=True)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="Responses API"):
        await ask(create_agent(model, [], middleware=[EntropyCentroidMiddleware(2)]), way)


@WAYS
async def test_a_selector_that_abstains_is_an_error_that_says_what_to_do(way: str):
    middleware = EntropyCentroidMiddleware(N, selector=MajorityVote())
    agent = create_agent(ANSWERING, [], middleware=[middleware])
    with pytest.raises(ConfigurationError, match=r"First\(\)"):
        await ask(agent, way)


class Writing(AgentMiddleware):
    """Writes to the stream and to the state what the model says."""

    def wrap_model_call(self, request: Any, handler: Any) -> Any:
        return self._written(handler(request), request)

    async def awrap_model_call(self, request: Any, handler: Any) -> Any:
        return self._written(await handler(request), request)

    def _written(self, response: ModelResponse, request: Any) -> ExtendedModelResponse:
        text = response.result[0].text
        request.runtime.stream_writer({"by runtime": text})
        get_stream_writer()({"by name": text})
        return ExtendedModelResponse(response, Command(update={"messages": [HumanMessage(f"noted {text}")]}))


class Passing(AgentMiddleware):
    """Does nothing, further in or further out."""

    def wrap_model_call(self, request: Any, handler: Any) -> Any:
        return handler(request)

    async def awrap_model_call(self, request: Any, handler: Any) -> Any:
        return await handler(request)


@WAYS
@pytest.mark.parametrize("between", [[], [Passing()]], ids=["next to it", "with another between"])
@pytest.mark.parametrize("inside", [True, False], ids=["further in", "further out"])
async def test_no_stream_and_no_state_shows_what_a_loser_did(way: str, inside: bool, between: list[Any]):
    ours = EntropyCentroidMiddleware(N, selector=Chosen(BEST))
    middleware = [ours, *between, Writing()] if inside else [Writing(), *between, ours]
    saver = InMemorySaver()
    agent = create_agent(ANSWERING, [], middleware=middleware, checkpointer=saver)
    modes = ["values", "updates", "messages", "custom", "tasks", "checkpoints", "debug"]
    config = {"configurable": {"thread_id": "t"}}
    events = await stream(agent, way, config=config, stream_mode=modes, subgraphs=True)
    everything = f"{events} {list(saver.list(None))}"
    assert not any(f"answer{loser}" in everything for loser in set(range(N)) - {BEST})
    custom = [event for _, mode, event in events if mode == "custom"]
    assert [event for event in custom if "type" not in event] == [
        {"by runtime": f"answer{BEST}"},
        {"by name": f"answer{BEST}"},
    ]
    told = [event[0].text for _, mode, event in events if mode == "messages"]
    assert told == [f"answer{BEST}", f"noted answer{BEST}"]
    assert texts(agent.get_state(config).values) == ["Go.", f"answer{BEST}", f"noted answer{BEST}"]


@pytest.mark.filterwarnings("ignore:astream_events version='v1'", "ignore:The v3 streaming protocol")
@pytest.mark.parametrize("version", ["v1", "v2", "v3"])
async def test_no_event_shows_what_a_loser_did(version: Any):
    middleware = EntropyCentroidMiddleware(N, selector=Chosen(BEST))
    agent = create_agent(ANSWERING, [], middleware=[middleware, Writing()])
    found = agent.astream_events(GO, version=version)
    events = repr([event async for event in (await found if version == "v3" else found)])
    assert f"answer{BEST}" in events
    assert not any(f"answer{loser}" in events for loser in set(range(N)) - {BEST})


@WAYS
async def test_what_is_cancelled_in_a_candidate_cancels_the_step(way: str):
    class Ended(AgentMiddleware):
        def wrap_model_call(self, request: Any, handler: Any) -> Any:
            raise asyncio.CancelledError

        async def awrap_model_call(self, request: Any, handler: Any) -> Any:
            raise asyncio.CancelledError

    agent = create_agent(ANSWERING, [], middleware=[EntropyCentroidMiddleware(N), Ended()])
    with pytest.raises(NodeCancelledError):
        await ask(agent, way)


class Hearing(BaseCallbackHandler):
    def __init__(self) -> None:
        self.heard: list[str] = []

    def on_llm_end(self, response: Any, **kwargs: Any) -> None:
        self.heard += [response.generations[0][0].text]


class Held(AgentMiddleware[Any, Any, Any]):
    """Candidates go no further before they are let go."""

    def __init__(self) -> None:
        self.let_go = threading.Event()

    def wrap_model_call(self, request: Any, handler: Any) -> Any:
        self.let_go.wait()
        return handler(request)

    async def awrap_model_call(self, request: Any, handler: Any) -> Any:
        await asyncio.to_thread(self.let_go.wait)
        return await handler(request)


@WAYS
async def test_the_stream_says_that_candidates_are_under_way_while_they_are(way: str):
    held = Held()
    agent = create_agent(ANSWERING, [], middleware=[EntropyCentroidMiddleware(N), held])
    told: list[Any] = []

    def hear(event: Any) -> None:
        told.append((held.let_go.is_set(), event))
        held.let_go.set()

    if way == "sync":
        for event in agent.stream(GO, stream_mode="custom"):
            hear(event)
    else:
        async for event in agent.astream(GO, stream_mode="custom"):
            hear(event)
    assert told[0] == (False, {"type": "entcent.sampling", "turn": 0, "n": N})
    assert [event["type"] for _, event in told[1:]] == ["entcent.step"]


@WAYS
async def test_usage_of_all_candidates_is_counted_and_other_callbacks_hear_of_none(way: str):
    hearing, usage = Hearing(), UsageMetadataCallbackHandler()
    agent = create_agent(ANSWERING, [], middleware=[EntropyCentroidMiddleware(N)])
    events = await stream(agent, way, config={"callbacks": [hearing, usage]}, stream_mode="custom")
    assert hearing.heard == []
    assert events[-1]["usage"]["model_calls"] == N


@WAYS
async def test_calls_of_our_chat_model_are_one_request(way: str, serve: Any):
    server = serve(lambda request: [says(f"answer {index}") for index in range(request.n)])
    model = ChatLogprobs(model="scripted", base_url=server.base_url)
    agent = create_agent(model, [], middleware=[EntropyCentroidMiddleware(N, selector=Chosen(BEST))])
    assert texts(await ask(agent, way)) == ["Go.", f"answer {BEST}"]
    assert [request.n for request in server.answered] == [N]


async def test_the_same_seed_is_sent_for_the_same_conversation(serve: Any):
    server = serve([says("answer")])
    for seed in (7, 7, 8):
        model = ChatLogprobs(model="scripted", base_url=server.base_url)
        await ask(create_agent(model, [], middleware=[EntropyCentroidMiddleware(2, seed=seed)]), "async")
    seeds = [request.body["seed"] for request in server.answered]
    assert seeds[0] == seeds[1] != seeds[2]


class Foreign(BaseChatModel):
    """A model that leaves raw log-probabilities on its messages, as integrations do."""

    @property
    def _llm_type(self) -> str:
        return "foreign"

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        top = [{"token": "a", "logprob": -0.7, "bytes": None}, {"token": "b", "logprob": -0.7, "bytes": None}]
        content = [{"token": "a", "logprob": -0.7, "bytes": [97], "top_logprobs": top}] * 5
        message = AIMessage("aaaaa", response_metadata={"logprobs": {"content": content}})
        return ChatResult(generations=[ChatGeneration(message=message)])


@WAYS
async def test_other_chat_models_are_scored_and_their_raw_log_probabilities_stay_out_of_the_state(way: str):
    chosen = Chosen(0)
    agent = create_agent(Foreign(), [], middleware=[EntropyCentroidMiddleware(2, selector=chosen)])
    result = await ask(agent, way)
    assert "logprobs" not in result["messages"][-1].response_metadata
    assert chosen.asked[-1][0].trajectory.scored_tokens == 5


@pytest.mark.parametrize("model", [chat(look_then_answer), Foreign()], ids=["ours", "foreign"])
async def test_in_a_rollout_its_turns_are_those_of_the_rollout(model: BaseChatModel):
    middleware = EntropyCentroidMiddleware(2, selector=First())
    agent = create_agent(model, [looking([])], middleware=[middleware])
    chosen = Chosen(0)
    graph = entropy_centroid_graph(agent, n=2, selector=chosen, effects={"look": READ})
    await graph.ainvoke(GO)
    for rollout in chosen.asked[-1]:
        assert rollout.trajectory.coverage == 1.0 and rollout.trajectory.scored_tokens >= 5
        assert rollout.usage.model_calls == 2 * len(rollout.trajectory.turns)


@WAYS
async def test_a_cache_of_langchains_does_not_make_all_candidates_alike(way: str):
    chosen = Chosen(0)
    agent = create_agent(
        ANSWERING,
        [],
        middleware=[EntropyCentroidMiddleware(N, selector=chosen)],
    )
    set_llm_cache(InMemoryCache())
    try:
        for _ in range(2):
            await ask(agent, way)
            assert len(chosen.asked[-1]) == N
    finally:
        set_llm_cache(None)


async def test_a_cancelled_step_ends_all_its_candidates():
    class Waiting(Passing):
        def __init__(self) -> None:
            self.running, self.all_run = 0, asyncio.Event()

        async def awrap_model_call(self, request: Any, handler: Any) -> Any:
            self.running += 1
            if self.running == N:
                self.all_run.set()
            try:
                await asyncio.sleep(60)
            finally:
                self.running -= 1

    waiting = Waiting()
    agent = create_agent(
        chat(lambda index: turns(said("answer"))), [], middleware=[EntropyCentroidMiddleware(N), waiting]
    )
    asking = asyncio.create_task(agent.ainvoke(GO))
    await waiting.all_run.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert waiting.running == 0


@WAYS
async def test_one_candidate_leaves_the_agent_as_it_is(way: str):
    agent = create_agent(chat(look_then_answer), [looking([])], middleware=[EntropyCentroidMiddleware(1)])
    alone = create_agent(chat(look_then_answer), [looking([])])
    ours, theirs = [await stream(each, way, stream_mode=["messages", "custom"]) for each in (agent, alone)]
    assert [mode for mode, _ in ours] == [mode for mode, _ in theirs]
    assert texts(await ask(agent, way)) == texts(await ask(alone, way))


def test_the_turns_are_private():
    agent = create_agent(ScriptedChat(scripts=[]), [], middleware=[EntropyCentroidMiddleware(2)])
    assert "entcent_turns" not in str(agent.get_input_jsonschema()) + str(agent.get_output_jsonschema())


@pytest.mark.parametrize(
    "settings", [{"n": 0}, {"scope": "step"}, {"on_unscorable": "ignore"}, {"selector": LowestCentroid}]
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any]):
    with pytest.raises(ConfigurationError):
        EntropyCentroidMiddleware(**settings)


@pytest.mark.parametrize(("tools", "api"), [([], False), ([{"type": "web_search"}], None)])
def test_a_model_with_a_tool_of_its_providers_own_keeps_the_api_that_has_it(tools: list[Any], api: bool | None):
    seen: list[bool | None] = []

    class Answering(AgentMiddleware[Any, Any, Any]):
        def wrap_model_call(self, request: Any, handler: Any) -> Any:
            seen.append(request.model.use_responses_api)
            return ModelResponse(result=[AIMessage("Hello.")])

    middleware = [EntropyCentroidMiddleware(2, selector=First(), on_unscorable="fallback"), Answering()]
    create_agent(ChatOpenAI(model="gpt-4.1", api_key="none"), tools, middleware=middleware).invoke(GO)
    assert seen == [api, api]
