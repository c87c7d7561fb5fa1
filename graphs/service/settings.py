"""What the service is set up with: environment variables that begin with ENTCENT_."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, SecretStr, StringConstraints, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from graphs.serving import DEFAULT_MODEL, SelectorName, ToolCalling


class ServiceSettings(BaseSettings):
    """Each field is a variable: `n` is `ENTCENT_N`."""

    model_config = SettingsConfigDict(env_prefix="ENTCENT_", frozen=True, extra="ignore")

    database: str = Field(description="Connection string of PostgreSQL.")
    model: Annotated[str, StringConstraints(pattern="^https?://")] = Field(
        default=DEFAULT_MODEL, description="Where the model is: http://…/v1#name."
    )
    api_key: SecretStr | None = Field(default=None, description="Of the model's server.")
    tool_calling: ToolCalling = "text"
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535, description="0 takes a free one.")

    n: int = Field(default=4, ge=1, le=32, description="Rollouts of a request; with `initial`, at most.")
    initial: int | None = Field(default=None, ge=1, description="Begin with so many, and branch; None: all n at once.")
    lent_rollouts: int = Field(default=64, ge=1, description="Most that easy requests leave to hard ones.")
    selector: SelectorName = "default chain"
    shadow: bool = Field(default=False, description="Answer with the first rollout, and record what would be chosen.")
    temperature: float = Field(default=0.7, ge=0, le=2)
    turn_tokens: int = Field(default=800, ge=1, description="Most tokens of one turn.")
    ask_before_refunds: bool = Field(default=True, description="Whether a person approves the agent's refunds.")

    max_tokens: int | None = Field(default=100_000, ge=1, description="Of one request, read and sampled.")
    max_seconds: float | None = Field(default=120.0, gt=0, description="After so long, the best there is is taken.")
    max_requests: int = Field(default=200, ge=1, description="Accepted and not answered; more are told to come again.")
    max_working: int = Field(default=32, ge=1, description="Worked on at once; the others wait in line.")
    max_connections: int = Field(default=64, ge=1, description="To the model, of all requests together.")
    database_connections: int = Field(default=16, ge=4)
    database_seconds: float = Field(default=10.0, gt=0, description="A free connection is waited for so long.")

    lease_seconds: float = Field(default=30.0, gt=0, description="A request unheard of for so long is taken over.")
    drain_seconds: float = Field(default=20.0, ge=0, description="What is under way may take, when it ends.")
    keep_days: float = Field(default=30.0, gt=0, description="What came of a request can be asked for so long.")

    @model_validator(mode="after")
    def _begins_with_fewer(self) -> Self:
        if self.initial is not None and self.initial > self.n:
            raise ValueError(f"initial={self.initial} is above n={self.n}, the most rollouts of a request")
        return self
