"""What `entcent run` and `entcent calibrate` have in common: an agent, the worlds it works on, and its model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from entcent_agents.cli.agents import Factory, agent_factory, build_agent
from entcent_agents.cli.serving import Served, address_of
from entcent_agents.environments import DirectoryEnvironment, Environment, SqliteEnvironment
from entcent_agents.errors import ConfigurationError

if TYPE_CHECKING:  # LangChain takes seconds to import, and a refusal should not
    from entcent_agents.chat.model import ChatLogprobs

_NOT_STARTED: Final = Served("http://127.0.0.1:9/v1", "not started", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """The options that say who is asked, with what tools, and how often."""

    db: Path | None
    workspace: Path | None
    model: str
    agent: str | None
    n: int
    temperature: float
    seed: int | None
    max_tokens: int
    tool_calling: Literal["text", "native"]
    read: tuple[str, ...]
    external: tuple[str, ...] = ()
    top_logprobs: int = 10

    def require_sensible(self) -> None:
        """Refuse numbers and addresses that cannot be.

        Raises:
            ConfigurationError: With the option's name.
        """
        if self.n < 1:
            raise ConfigurationError(f"-n {self.n}: at least one rollout is needed")
        if not 0.0 <= self.temperature <= 2.0:
            raise ConfigurationError(f"--temperature {self.temperature} is outside 0 to 2")
        address_of(self.model)

    @property
    def model_name(self) -> str:
        """The model's name, without the address it answers at."""
        served = address_of(self.model)
        return served.name if served else self.model

    def chat(self, served: Served) -> ChatLogprobs:
        """The model, where it answers."""
        from entcent_agents.chat.model import ChatLogprobs

        return ChatLogprobs(
            model=served.name,
            base_url=served.base_url,
            api_key=served.api_key,  # pyright: ignore[reportArgumentType]  pydantic makes a secret of it
            tool_calling=self.tool_calling,
            temperature=self.temperature,
            max_tokens=self.max_tokens,
            top_logprobs=self.top_logprobs,
        )


class Prepared:
    """The agent with its environments; looked at before the model is started.

    Args:
        setup: As the user has it.

    Raises:
        EntcentError: Where there is no such agent, no tools, or an environment is not what it should be.
    """

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self.environments: list[Environment] = []
        if setup.db is not None:
            self.environments.append(SqliteEnvironment(setup.db))
        if setup.workspace is not None:
            self.environments.append(DirectoryEnvironment(setup.workspace))
        self._factory: Factory = agent_factory(setup.agent)
        if setup.agent is None and not self.environments:
            raise ConfigurationError("the agent has no tools: pass --db FILE or --workspace DIR")
        self.names: list[str] = [environment.name for environment in self.environments]
        # A model of this computer has no address yet; an agent that is only looked at asks it nothing.
        self._address = address_of(setup.model)
        self.agent: Any = self._built(self._address or _NOT_STARTED)

    def on(self, served: Served) -> Any:
        """The agent, asking the model where it answers."""
        return self.agent if self._address else self._built(served)

    def _built(self, served: Served) -> Any:
        return build_agent(self._factory, self._setup.chat(served), self.names)
