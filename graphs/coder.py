"""A coder: changes the files of a workspace, and runs commands once a person has approved them.

The selected rollout's changes are committed before its command runs, in a copy of them; all rollouts go on with what
the command said.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractAsyncContextManager
from typing import Final

from langchain import agents
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.language_models import BaseChatModel
from langgraph_sdk.runtime import ServerRuntime
from pydantic import Field

from entcent_agents.environments import DirectoryEnvironment
from graphs.serving import Agent, Settings, served
from tools.commands import command_tools
from tools.workspace import workspace_tools

PROMPT: Final = """\
You are a careful programmer who changes the files of a workspace with tools.
Before every call write one or two sentences: what you know now, and what you do next and why.
Read a file before you change it, and change no more than the task asks for. Prefer edit_file to write_file where a file
is there. When the change is made, run the tests with run_command, if there are any; mend what they show.
At the end say in one or two sentences what you changed, without a call."""


class CoderSettings(Settings):
    """What a request to the coder may set."""

    turn_tokens: int = Field(default=2_000, ge=1, description="Most tokens of one turn; a file is written in one.")
    ask_before_commands: bool = Field(
        default=True, description="Whether a person approves each command. Otherwise to be selected is to be approved."
    )


def make_graph(runtime: ServerRuntime[CoderSettings]) -> AbstractAsyncContextManager[Agent]:
    """The application, on the folder `ENTCENT_WORKSPACE`."""

    def make(model: BaseChatModel, names: Collection[str], settings: CoderSettings) -> Agent:
        return make_agent(model, names, asks=settings.ask_before_commands)

    return served(runtime, CoderSettings, make, {"ENTCENT_WORKSPACE": DirectoryEnvironment})


def make_agent(model: BaseChatModel, environments: Collection[str] = ("workspace",), *, asks: bool = True) -> Agent:
    """The agent.

    Args:
        model: Bound to the tools here.
        environments: Names; `workspace` must be among them when it runs.
        asks: Whether it asks a person before a command.
    """
    return agents.create_agent(
        model,
        [*workspace_tools(), *command_tools()],
        system_prompt=PROMPT,
        middleware=[HumanInTheLoopMiddleware(interrupt_on={"run_command": asks})],
        context_schema=CoderSettings,
        name="coder",
    )
