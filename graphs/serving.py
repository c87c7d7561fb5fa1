"""What the applications share: what a request may set, the model, and how an agent becomes a served graph."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar, cast

from langchain_core.language_models import BaseChatModel
from langgraph.graph.state import CompiledStateGraph
from langgraph_sdk.runtime import ServerRuntime
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

from entcent_agents.budget import Budget
from entcent_agents.chat.model import ChatLogprobs
from entcent_agents.environments import Environment
from entcent_agents.errors import ConfigurationError
from entcent_agents.ledger import SqliteLedger
from entcent_agents.prebuilt import entropy_centroid_graph
from entcent_agents.selection.catalogue import named_selectors

Agent = CompiledStateGraph[Any, Any, Any, Any]
ToolCalling = Literal["native", "text"]
DEFAULT_MODEL: Final = "http://127.0.0.1:8080/v1#default"
_RECURSION_LIMIT: Final = 100


def _known(name: str) -> str:
    if name not in named_selectors():
        raise ValueError(f"no selector is named {name!r}; there are {', '.join(named_selectors())}")
    return name


SelectorName = Annotated[
    str,
    AfterValidator(_known),
    Field(description="Which rollout is chosen.", json_schema_extra={"enum": list(named_selectors())}),
]
"""A selector by its name; one that nobody knows is refused."""


class Settings(BaseModel):
    """What a request may set: the context of its run, or of an assistant."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    n: int = Field(default=4, ge=1, le=32, description="How many rollouts.")
    temperature: float = Field(default=0.7, ge=0, le=2, description="Sampling temperature.")
    selector: SelectorName = "default chain"
    turn_tokens: int = Field(default=800, ge=1, description="Most tokens of one turn.")
    max_tokens: int | None = Field(default=None, ge=1, description="Most tokens of the request, read and sampled.")
    max_seconds: float | None = Field(default=None, gt=0, description="After so long, the best there is is taken.")
    seed: int | None = Field(default=None, description="Makes sampling repeatable on a deterministic server.")


SettingsT = TypeVar("SettingsT", bound=Settings)


@asynccontextmanager
async def served(
    runtime: ServerRuntime[Any],
    settings_type: type[SettingsT],
    make_agent: Callable[[BaseChatModel, Sequence[str], SettingsT], Agent],
    worlds: Mapping[str, Callable[[str], Environment]],
) -> AsyncGenerator[Agent]:
    """An agent as parallel rollouts, set up as one request asks; for a factory of langgraph.json.

    Args:
        runtime: What the server gives the factory.
        settings_type: The context that the agent's requests have.
        make_agent: Takes the model, the names of the environments there are, and the settings.
        worlds: Environments by the variable that says where they are; one of them is enough.

    Raises:
        ConfigurationError: None of the variables is set.
        ValidationError: The request's context cannot be.
    """
    executing = runtime.execution_runtime
    settings = settings_type.model_validate(executing.context or {}) if executing else settings_type()

    def graph(**stores: Any) -> Agent:
        environments = [make(os.environ[name]) for name, make in worlds.items() if os.environ.get(name)]
        if not environments:
            raise ConfigurationError(f"the agent has nothing to work on: set {' or '.join(worlds)}")
        model = model_from_environment(temperature=settings.temperature, max_tokens=settings.turn_tokens)
        agent = make_agent(model, [environment.name for environment in environments], settings)
        return entropy_centroid_graph(
            agent,
            n=settings.n,
            selector=named_selectors()[settings.selector],
            environments=environments,
            budget=Budget(max_tokens=settings.max_tokens, max_seconds=settings.max_seconds),
            seed=settings.seed,
            recursion_limit=_RECURSION_LIMIT,
            name=agent.name,
            **stores,
        )

    # In threads: the server refuses what blocks its loop.
    if executing is None:
        yield await asyncio.to_thread(graph)
        return
    # Imported here, because the agents run without it too.
    from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

    # A question to a person may be answered in another run, after a restart: what waits for it has to be there.
    folder = Path(os.environ.get("ENTCENT_STATE", ".entcent"))
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    ledger = await asyncio.to_thread(SqliteLedger, folder / "ledger.db")
    async with aclosing(ledger), AsyncSqliteSaver.from_conn_string(str(folder / "rollouts.db")) as saver:
        yield await asyncio.to_thread(graph, rollout_checkpointer=saver, ledger=ledger)


def model_from_environment(**settings: Any) -> ChatLogprobs:
    """The model at `ENTCENT_MODEL`, `http://…/v1#name`; `ENTCENT_TOOL_CALLING=native` where the server calls tools.

    Args:
        **settings: Further ones of `ChatLogprobs`.
    """
    key = os.environ.get("ENTCENT_API_KEY")
    return make_model(
        os.environ.get("ENTCENT_MODEL", DEFAULT_MODEL),
        SecretStr(key) if key else None,
        cast(ToolCalling, os.environ.get("ENTCENT_TOOL_CALLING", "text")),
        **settings,
    )


def make_model(address: str, api_key: SecretStr | None, tool_calling: ToolCalling, **settings: Any) -> ChatLogprobs:
    """The model at an address.

    Args:
        address: `http://…/v1#name`.
        api_key: Where the server asks for one.
        tool_calling: As in `ChatLogprobs`.
        **settings: Further ones of it.
    """
    base_url, _, name = address.partition("#")
    return ChatLogprobs(
        model=name or "default", base_url=base_url, api_key=api_key, tool_calling=tool_calling, **settings
    )
