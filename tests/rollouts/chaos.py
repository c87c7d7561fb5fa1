"""Requests under way at once, whose tools raise, answer with error text or stall; and what all of it came to."""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from langchain_core.messages import AIMessage, HumanMessage, convert_to_openai_messages
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from entcent_agents.chat.model import aclose_clients
from entcent_agents.environments import SqliteEnvironment
from entcent_agents.errors import RolloutsFailedError
from entcent_agents.ledger import MemoryLedger
from entcent_agents.nodes import sweep
from entcent_agents.prebuilt import entropy_centroid_graph
from tests.rollouts.accounts import Account, Effect, audit_effects, audit_requests, audit_rows
from tests.rollouts.agent import Fate, Tools, agent_of, done, make_database, rows_of
from tests.rollouts.lives import thread_of
from tests.rollouts.script import (
    EFFECTS,
    OUTSIDE,
    PLANS,
    Call,
    Script,
    calls_of,
    model_server,
    read_log,
    without_outside,
)

STALL_SECONDS = 0.2
"""After this a tool gives up waiting by itself."""


@dataclass(frozen=True, kw_only=True)
class Chaos:
    """What is run.

    Attributes:
        requests: How many, in all.
        n: Rollouts of each.
        at_once: Requests under way at the same time.
        failing: Share of the calls of each tool that go wrong; a third each raises, answers with error text, stalls.
        seed: What everything is drawn from.
        hang_seconds: A request that takes longer hangs.
        external: Whether the agent's tools may reach outside.
    """

    requests: int
    n: int = 8
    at_once: int = 4
    failing: float = 0.1
    seed: int = 1
    hang_seconds: float = 60.0
    external: bool = True


@dataclass
class Luck:
    """The fate of each call, drawn from the seed, its mark and how often it was made; what came of it is counted."""

    chaos: Chaos
    made: Counter[str] = field(default_factory=Counter[str])
    drawn: Counter[str] = field(default_factory=Counter[str])

    def __call__(self, tool: str, mark: str) -> Fate:
        self.made[f"{tool} {mark}"] += 1
        dice = random.Random(f"{self.chaos.seed} {tool} {mark} {self.made[f'{tool} {mark}']}")
        how = dice.choice(["raised", "answered with error text", "stalled"])
        if dice.random() >= self.chaos.failing:
            how = "went well"
        self.drawn[f"{tool}: {how}"] += 1
        match how:
            case "raised":
                return Fate(error_before=RuntimeError(f"{tool} is out of order"))
            case "answered with error text":
                return Fate(says=f"error: {tool} is closed today")
            case "stalled":
                silent = TimeoutError(f"{tool} did not answer")
                if tool in OUTSIDE and dice.random() < 0.5:  # it happened, and the caller does not know
                    return Fate(after_seconds=STALL_SECONDS, error_after=silent)
                return Fate(before_seconds=STALL_SECONDS, error_before=silent)
            case _:
                return Fate(before_seconds=dice.uniform(0.0, 0.005))


@dataclass
class Ran:
    """What became of the requests, as they end."""

    chaos: Chaos
    folder: Path
    agent: Any
    luck: Luck
    effects: list[Effect]
    ledger: MemoryLedger = field(default_factory=MemoryLedger)
    threads: InMemorySaver = field(default_factory=InMemorySaver)
    rollouts: InMemorySaver = field(default_factory=InMemorySaver)
    account: Account = field(default_factory=Account)
    committed: list[Call] = field(default_factory=list[Call])
    rows: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    waiting: list[str] = field(default_factory=list[str])

    async def request(self, number: int) -> None:
        """One request, under a watchdog."""
        app = self.folder / f"{number}.db"
        make_database(app)
        graph = self.graph(app)
        config: dict[str, Any] = {"configurable": {"thread_id": thread_of(number)}}
        try:
            async with asyncio.timeout(self.chaos.hang_seconds) as watchdog:
                await self.answered(graph, config, number)
            self.account.counts["committed"] += 1
        except RolloutsFailedError as error:
            self.account.counts["ended in an error that says why"] += 1
            if "out of order" not in str(error) and "did not answer" not in str(error):
                self.account.violations.append(f"unclear error: request {number}: {error}")
        except Exception as error:
            if watchdog.expired():
                self.account.violations.append(f"hang: request {number}")
            else:
                self.account.violations.append(f"other error: request {number}: {type(error).__name__}: {error}")
        await self.settle(graph, config, app)

    def graph(self, app: Path) -> Any:
        """A graph of its own for each request, around the one agent."""
        outside: dict[str, Any] = {"ledger": self.ledger} if self.chaos.external else {}
        external = {name: "READ" for name in OUTSIDE}
        return entropy_centroid_graph(
            self.agent,
            n=self.chaos.n,
            effects=EFFECTS if self.chaos.external else EFFECTS | external,
            environments=[SqliteEnvironment(app)],
            checkpointer=self.threads,
            rollout_checkpointer=self.rollouts,
            **outside,
        )

    async def answered(self, graph: Any, config: dict[str, Any], number: int) -> None:
        """Run, and answer questions by what is true."""
        given: Any = {"messages": [HumanMessage(f"request {number}")]}
        while True:
            came = await graph.ainvoke(given, config)
            if "__interrupt__" not in came:
                return
            given = Command(
                resume={
                    asked.id: [self.truth(question) for question in asked.value["questions"]]
                    for asked in came["__interrupt__"]
                }
            )

    def truth(self, question: Any) -> dict[str, Any]:
        """Look whether it happened, and say so."""
        tool, mark = question["tool"], question["arguments"]["mark"]
        happened = any(effect.mark == mark for effect in self.effects)
        self.account.counts[f"{tool}: in doubt, {'had happened' if happened else 'had not happened'}"] += 1
        decision = {"decision": "happened", "result": done(tool, mark)} if happened else {"decision": "run"}
        return {"doubt_id": question["doubt_id"], **decision}

    async def settle(self, graph: Any, config: dict[str, Any], app: Path) -> None:
        """Note what was committed, and what was left behind."""
        state = await graph.aget_state(config)
        messages = state.values.get("messages", [])
        calls = calls_of(convert_to_openai_messages(messages))
        self.committed += calls
        self.rows += rows_of(app)
        self.account.violations.extend(
            f"leftover fork: {fork}" for fork in app.parent.glob(f".entcent-{app.name}/forks/*")
        )
        if state.next:  # it ended in an error, and may be tried again from the rollout that it holds
            self.waiting += [record["thread_id"] for record in state.values.get("rollouts") or ()]
            return
        answered = messages and isinstance(messages[-1], AIMessage) and not messages[-1].tool_calls
        if not answered or any(call.result is None for call in calls):
            self.account.violations.append(f"half committed: {config['configurable']['thread_id']}")


def run_chaos(chaos: Chaos) -> Account:
    """Run all requests, and settle up."""
    with tempfile.TemporaryDirectory(prefix="entcent-chaos-") as name:
        folder = Path(name)
        plans = PLANS if chaos.external else without_outside()
        script = Script(seed=chaos.seed, log=folder / "log", plans=plans)
        with model_server(script) as base_url:
            begun = time.monotonic()
            account = asyncio.run(_run(chaos, folder, base_url))
            account.counts["seconds"] = round(time.monotonic() - begun)
        return account + audit_requests(read_log(script.log), chaos.n, {})


async def _run(chaos: Chaos, folder: Path, base_url: str) -> Account:
    luck, effects = Luck(chaos), list[Effect]()

    async def act(tool: str, mark: str, key: str) -> None:
        effects.append(Effect(tool=tool, mark=mark, key=key))

    ran = Ran(chaos, folder, agent_of(base_url, Tools(luck, act)), luck, effects)
    room = asyncio.Semaphore(chaos.at_once)

    async def one(number: int) -> None:
        async with room:
            await ran.request(number)

    before = asyncio.all_tasks()
    await asyncio.gather(*(one(number) for number in range(chaos.requests)))
    await aclose_clients()
    account = ran.account + audit_effects(ran.committed, effects) + audit_rows(ran.committed, ran.rows)
    account.counts.update(luck.drawn)
    account.violations.extend(await _leftovers(ran, before))
    return account


async def _leftovers(ran: Ran, before: set[asyncio.Task[Any]]) -> list[str]:
    for _ in range(10):
        await asyncio.sleep(0)  # what was cancelled ends
    found = [f"leftover task: {task!r}" for task in asyncio.all_tasks() - before]
    found += [f"leftover thread: {thread}" for thread in ran.rollouts.storage if thread not in ran.waiting]
    await sweep(ran.rollouts, ran.ledger, older_than_seconds=0)
    found += [f"not swept: {thread}" for thread in ran.rollouts.storage]
    return found + [f"leftover call: {record.position}, {record.state}" for record in await ran.ledger.unsettled()]
