"""`entcent doctor`: what a model's server can do, and what follows from it."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from types import TracebackType
from typing import Any, Final, Self

import typer
from rich.console import Console
from rich.status import Status
from rich.table import Table
from rich.text import Text

from entcent_agents.cli.serving import address_of, serve
from entcent_agents.errors import LogprobsError

SLOTS: Final = 4
"""Of an embedded server: as many as `entcent run` has rollouts by default."""


def diagnose(model: str, *, as_json: bool, timeout_seconds: float) -> None:
    """Measure the model's server and print what was found.

    Args:
        model: As `--model` has it.
        as_json: Whether to print the record instead of the table.
        timeout_seconds: Longest silence of the server. Questions are short, but the first one may find a server that
            still loads its model, or compiles it.

    Raises:
        typer.Exit: With code 1 where the server gives no log-probabilities, or such as cannot be.
    """
    address_of(model)
    try:
        capabilities = asyncio.run(_measured(model, timeout_seconds))
    except KeyboardInterrupt:
        Console(stderr=True).print("[bold]interrupted[/]")
        raise typer.Exit(130) from None
    except LogprobsError as error:
        if as_json:
            _print_json({"usable": False, "reason": str(error)})
        Console(stderr=True, highlight=False).print(Text(f"unusable: {error}", "bold red"), soft_wrap=True)
        raise typer.Exit(1) from None
    if as_json:
        _print_json({"usable": True, **capabilities.to_dict(), "recommended": capabilities.recommended()})
    else:
        _print(capabilities, embedded=address_of(model) is None)


async def _measured(model: str, timeout_seconds: float) -> Any:
    with _Stages() as stages:
        stages.say(f"starting {model}" if address_of(model) is None else f"asking {model}")
        async with serve(model, SLOTS) as served:
            from pydantic import SecretStr

            from entcent_agents.chat.capabilities import measure_capabilities
            from entcent_agents.chat.model import ChatLogprobs, aclose_clients

            key = SecretStr(served.api_key) if served.api_key else None
            chat = ChatLogprobs(
                model=served.name, base_url=served.base_url, api_key=key, timeout_seconds=timeout_seconds
            )
            try:
                return await measure_capabilities(chat, lambda name: stages.say(f"measuring {_words(name)}"))
            finally:
                await aclose_clients()


class _Stages:
    """What is being done, on standard error: a line that changes, or one line each where it is no terminal."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._status = Status("", console=self._console)
        self._started = time.perf_counter()

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._status.stop()

    def say(self, stage: str) -> None:
        if self._console.is_terminal:
            self._status.update(Text(stage))
        else:
            self._console.print(Text(f"{time.perf_counter() - self._started:6.1f} s  {stage}"))


def _print_json(record: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(record) + "\n")


def _print(capabilities: Any, *, embedded: bool) -> None:
    console = Console(highlight=False)
    owner = f" (owner: {capabilities.owner})" if capabilities.owner else ""
    console.print(Text(f"{capabilities.model} at {capabilities.base_url}"), soft_wrap=True)
    console.print(Text(f"calls itself {capabilities.served_model or 'nothing'}{owner}", "dim"), soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    table.add_column("capability", no_wrap=True)
    table.add_column("measured")
    table.add_column("what it means")
    for name, measured in capabilities.measured.items():
        style = "dim" if measured.value is None else ""
        table.add_row(_words(name), Text(measured.shown), Text(measured.means), style=style)
    console.print(table)
    cost = capabilities.cost
    console.print(
        f"cost: {cost.requests} requests, {cost.prompt_tokens:,} prompt and {cost.generated_tokens:,} generated "
        f"tokens, {cost.seconds:.1f} s",
        soft_wrap=True,
    )
    console.print(Text(f"recommended: {_constructor(capabilities, embedded=embedded)}", "bold"), soft_wrap=True)


def _constructor(capabilities: Any, *, embedded: bool) -> str:
    """The line to copy; an embedded server has another address each time."""
    where = ("server.model", "server.base_url") if embedded else (repr(capabilities.model), repr(capabilities.base_url))
    settings = ", ".join(f"{name}={value!r}" for name, value in capabilities.recommended().items())
    return f"ChatLogprobs(model={where[0]}, base_url={where[1]}, {settings})"


def _words(name: str) -> str:
    return name.replace("_", " ")
