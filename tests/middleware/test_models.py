"""Which models are asked for log-probabilities: configured by the run, bound, and brought in by other middleware."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, ModelFallbackMiddleware
from langchain.chat_models import init_chat_model
from langchain_core.caches import InMemoryCache
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.runnables import ConfigurableField
from langchain_openai import ChatOpenAI

from entcent_agents.capture.settings import with_logprobs_unless_set
from entcent_agents.errors import ConfigurationError, LogprobsMissingError
from entcent_agents.middleware import EntropyCentroidMiddleware
from entcent_agents.prebuilt import create_entropy_centroid_agent
from tests.chat_server import ChatServer, Reply, Request, says
from tests.middleware.stepping import GO, WAYS, ask, looking, texts

N = 2
CONFIGURED: Any = {"configurable": {"model": "made-up", "model_provider": "openai"}}


def answered(request: Request) -> list[Reply]:
    """With log-probabilities for those alone who ask."""
    return [says("an answer", logprobs=bool(request.body.get("logprobs")))]


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with ChatServer(answered) as running:
        yield running


@pytest.fixture
def down() -> Iterator[ChatServer]:
    with ChatServer([Reply(status=503, error="down")]) as running:
        yield running


def openai(server: ChatServer, **settings: Any) -> Any:
    made_up: Any = {"model": "made-up", "api_key": "none", "max_retries": 0, "base_url": server.base_url}
    return ChatOpenAI(**made_up | settings)


class Dynamic(AgentMiddleware[Any, Any, Any]):
    """Another model for the occasion."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def wrap_model_call(self, request: Any, handler: Any) -> Any:
        return handler(request.override(model=self.model))

    async def awrap_model_call(self, request: Any, handler: Any) -> Any:
        return await handler(request.override(model=self.model))


@WAYS
@pytest.mark.parametrize("of", [ModelFallbackMiddleware, Dynamic])
@pytest.mark.parametrize("whole", [False, True], ids=["step by step", "whole rollouts"])
async def test_a_model_that_other_middleware_brings_in_is_asked(
    way: str, of: Any, whole: bool, server: ChatServer, down: ChatServer
):
    other = of(openai(server))
    if whole:
        agent: Any = create_entropy_centroid_agent(openai(down), [], middleware=[other], n=N)
    else:
        agent = create_agent(openai(down), [], middleware=[EntropyCentroidMiddleware(N), other])
    assert texts(await ask(agent, way)) == ["Go.", "an answer"]
    assert [request.body["top_logprobs"] for request in server.requests] == [10] * N


@WAYS
async def test_several_further_in_are_passed_through(way: str, server: ChatServer, down: ChatServer):
    further_in = [Dynamic(openai(down)), ModelFallbackMiddleware(openai(server))]
    agent = create_agent(openai(down), [], middleware=[EntropyCentroidMiddleware(N), *further_in])
    assert texts(await ask(agent, way)) == ["Go.", "an answer"]


@WAYS
async def test_no_cache_answers_for_a_model_that_is_brought_in(way: str, server: ChatServer, down: ChatServer):
    agent = create_agent(
        openai(down), [], middleware=[EntropyCentroidMiddleware(N), ModelFallbackMiddleware(openai(server))]
    )
    set_llm_cache(InMemoryCache())
    try:
        for _ in range(2):
            await ask(agent, way)
    finally:
        set_llm_cache(None)
    assert len(server.requests) == 2 * N


@WAYS
async def test_one_that_gives_none_is_refused_before_it_is_asked(way: str, server: ChatServer, down: ChatServer):
    no_logprobs = openai(server, use_responses_api=True)
    agent = create_agent(
        openai(down), [], middleware=[EntropyCentroidMiddleware(N), ModelFallbackMiddleware(no_logprobs)]
    )
    with pytest.raises(LogprobsMissingError, match="Responses API"):
        await ask(agent, way)
    assert server.requests == []


@WAYS
async def test_a_candidate_that_came_to_one_that_gives_none_leaves_the_others_alone(way: str):
    first: list[Request] = []

    def one_fails(request: Request) -> list[Reply]:
        first.append(request)
        return [Reply(status=503, error="down")] if len(first) == 1 else answered(request)

    with ChatServer(one_fails) as server:
        fallback = ModelFallbackMiddleware(openai(server, use_responses_api=True))
        agent = create_agent(openai(server), [], middleware=[EntropyCentroidMiddleware(N), fallback])
        assert texts(await ask(agent, way)) == ["Go.", "an answer"]
        assert len(server.requests) == N


@WAYS
@pytest.mark.parametrize("default", [True, False], ids=["default", "no default"])
@pytest.mark.parametrize("whole", [False, True], ids=["step by step", "whole rollouts"])
@pytest.mark.parametrize("bound", [{}, {"stop": ["END"]}], ids=["bare", "bound"])
async def test_a_configurable_model_is_asked_as_the_run_configures_it(
    way: str, default: bool, whole: bool, bound: Any, server: ChatServer
):
    fields: Any = ("model", "model_provider")
    settings: Any = {"base_url": server.base_url, "api_key": "none", "max_retries": 0}
    model: Any = init_chat_model("openai:default" if default else None, configurable_fields=fields, **settings)
    model = model.bind(**bound) if bound else model
    if whole:
        agent: Any = create_entropy_centroid_agent(model, [], n=N)
    else:
        agent = create_agent(model, [], middleware=[EntropyCentroidMiddleware(N)])
    result = agent.invoke(GO, CONFIGURED) if way == "sync" else await agent.ainvoke(GO, CONFIGURED)
    assert texts(result) == ["Go.", "an answer"]
    asked = [request.body for request in server.requests]
    assert [body["model"] for body in asked] == ["made-up"] * N  # the run's, not the default
    assert [(body["top_logprobs"], body.get("stop")) for body in asked] == [(10, bound.get("stop"))] * N


@WAYS
@pytest.mark.parametrize("whole", [False, True], ids=["step by step", "whole rollouts"])
async def test_configurable_fields_and_alternatives_are_asked_too(way: str, whole: bool, server: ChatServer):
    other = openai(server, model="other").configurable_fields(temperature=ConfigurableField("warmth"))
    model: Any = openai(server).configurable_alternatives(ConfigurableField("which"), other=other)
    if whole:
        agent: Any = create_entropy_centroid_agent(model, [], n=N)
    else:
        agent = create_agent(model, [], middleware=[EntropyCentroidMiddleware(N)])
    config: Any = {"configurable": {"which": "other", "warmth": 0.5}}
    result = agent.invoke(GO, config) if way == "sync" else await agent.ainvoke(GO, config)
    assert texts(result) == ["Go.", "an answer"]
    asked = [(r.body["model"], r.body["temperature"], r.body["top_logprobs"]) for r in server.requests]
    assert asked == [("other", 0.5, 10)] * N


@WAYS
@pytest.mark.parametrize("whole", [False, True], ids=["step by step", "whole rollouts"])
async def test_a_binding_is_asked_and_keeps_what_was_bound(way: str, whole: bool, server: ChatServer):
    model: Any = openai(server).bind(stop=["END"])
    if whole:
        agent: Any = create_entropy_centroid_agent(model, [], n=N)
    else:
        agent = create_agent(model, [], middleware=[EntropyCentroidMiddleware(N)])
    assert texts(await ask(agent, way)) == ["Go.", "an answer"]
    assert [(r.body["top_logprobs"], r.body["stop"]) for r in server.requests] == [(10, ["END"])] * N


@WAYS
async def test_a_binding_asks_no_cache_either(way: str, server: ChatServer):
    agent = create_agent(openai(server).bind(stop=["END"]), [], middleware=[EntropyCentroidMiddleware(N)])
    set_llm_cache(InMemoryCache())
    try:
        await ask(agent, way)
    finally:
        set_llm_cache(None)
    assert len(server.requests) == N


@WAYS
@pytest.mark.parametrize("tools", [[], [looking([])]], ids=["no tools", "tools"])
async def test_a_binding_that_asks_already_is_asked_for_as_many(way: str, tools: Any, server: ChatServer):
    """Where there are tools, `create_agent` binds them to the model inside, and what was bound is lost."""
    model: Any = openai(server).bind(logprobs=True, top_logprobs=3)
    await ask(create_agent(model, tools, middleware=[EntropyCentroidMiddleware(N)]), way)
    assert [request.body["top_logprobs"] for request in server.requests] == [3] * N


def test_what_cannot_be_asked_inside_a_binding(server: ChatServer):
    unknown: Any = GenericFakeChatModel(messages=iter(()))
    assert with_logprobs_unless_set(unknown) is unknown
    assert with_logprobs_unless_set(bound := unknown.bind(stop=["END"])) is bound
    with pytest.raises(ConfigurationError, match="leave it out of bind"):
        with_logprobs_unless_set(openai(server).bind(stream=True))
    reasons = openai(server, model="o3", base_url=None)
    with pytest.raises(ConfigurationError, match="reasons"):
        with_logprobs_unless_set(reasons.bind(stop=["END"]))
    assert with_logprobs_unless_set(asking := reasons.bind(logprobs=True)) is asking


def test_what_the_fallback_of_unscorable_steps_lets_through_is_answered(server: ChatServer, down: ChatServer):
    ours = EntropyCentroidMiddleware(N, on_unscorable="fallback")
    reasons = openai(server, model="o3", base_url=None)
    with pytest.raises(ConfigurationError, match="reasons"):
        with_logprobs_unless_set(reasons)
    brings = Dynamic(openai(server))
    result = create_agent(reasons, [], middleware=[ours, brings]).invoke(GO)
    assert isinstance(result["messages"][-1], AIMessage) and len(server.requests) == N
