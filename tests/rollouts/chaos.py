"""Requests under way at once, whose model server and tools fail, stall and raise; and what all of it came to."""

from __future__ import annotations

import asyncio
import random
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil
from langchain_core.messages import AIMessage, HumanMessage, convert_to_openai_messages
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from entcent_agents.budget import Budget
from entcent_agents.chat.model import aclose_clients
from entcent_agents.environments import DirectoryEnvironment, SqliteEnvironment
from entcent_agents.errors import EntcentError
from entcent_agents.ledger import MemoryLedger
from entcent_agents.nodes import sweep
from entcent_agents.prebuilt import entropy_centroid_graph
from entcent_agents.rollouts.retries import Retries
from tests.rollouts.accounts import Account, Effect, audit_effects, audit_reads, audit_samples, audit_writes
from tests.rollouts.agent import Fate, Tools, agent_of, done, files_of, make_database, rows_of
from tests.rollouts.faults import FAULTS, Faults
from tests.rollouts.leaks import Holdings, Memory
from tests.rollouts.lives import thread_of
from tests.rollouts.script import (
    EFFECTS,
    OUTSIDE,
    PLANS_WITH_FILES,
    Asked,
    Call,
    ModelServer,
    Script,
    calls_of,
    model_server,
    read_log,
)

TOOL_FAILURES: Final = ("raised", "answered with error text", "stalled")
SAYS_WHY: Final = {
    "a tool raised": r"is out of order",
    "a tool fell silent": r"gave no answer",
    "the server was too busy": r"answered 429",
    "the server was down": r"answered 50\d",
    "the server's answer broke off": r"broke off|no model server answers",
    "the server fell silent": r"did not answer in time",
    "the server's answer was none": r"does not answer as an OpenAI|without a single choice",
    "log-probabilities were missing or impossible": r"log-probabilit",
    "a time limit": r"max_seconds",
}
"""What errors say that requests may end in, by what it tells."""


@dataclass(frozen=True, kw_only=True)
class Chaos:
    """What is run.

    Attributes:
        requests: How many.
        first: The number of the first: other processes may run others.
        n: Rollouts of each.
        at_once: Requests under way at the same time.
        failing: Share of the calls of each tool that go wrong; a third each raises, answers with error text, stalls.
        server_failing: Share of the requests to the model server that go wrong, in ten ways.
        seed: What everything is drawn from.
        silence_seconds: How long a silent server is waited for.
        call_seconds: How long one model call may take.
        rollout_seconds: How long a rollout may take.
        request_seconds: How long a request may take.
        hurry_seconds: How long one may take whose caller is in a hurry.
        hurried: Share of the requests that have `hurry_seconds` instead of `request_seconds`.
        hanging_up: Share of the requests whose caller hangs up within `hurry_seconds`.
        hang_seconds: A request that takes longer hangs.
    """

    requests: int
    first: int = 0
    n: int = 8
    at_once: int = 4
    failing: float = 0.1
    server_failing: float = 0.1
    seed: int = 1
    silence_seconds: float = 2.0
    call_seconds: float = 4.0
    rollout_seconds: float = 30.0
    request_seconds: float = 60.0
    hurry_seconds: float = 6.0
    hurried: float = 0.05
    hanging_up: float = 0.05
    hang_seconds: float = 120.0

    @property
    def numbers(self) -> range:
        """Of the requests."""
        return range(self.first, self.first + self.requests)

    @property
    def faults(self) -> Faults:
        """Of the model server: longer than its clients wait, and in pieces that are not."""
        return Faults(
            share=self.server_failing,
            seed=self.seed,
            stall_seconds=1.5 * self.silence_seconds,
            trickle_seconds=0.25 * self.silence_seconds,
        )

    def hangs_up_after(self, number: int) -> float | None:
        """When the caller of a request hangs up, in seconds; None: never."""
        dice = random.Random(f"{self.seed} hang up {number}")
        return dice.uniform(0.0, self.hurry_seconds) if dice.random() < self.hanging_up else None

    def budget(self, number: int) -> Budget:
        """The time that a request has."""
        hurried = random.Random(f"{self.seed} hurry {number}").random() < self.hurried
        return Budget(
            max_seconds=self.hurry_seconds if hurried else self.request_seconds,
            max_seconds_per_rollout=self.rollout_seconds,
            max_seconds_per_call=self.call_seconds,
        )


@dataclass
class Luck:
    """The fate of each call, drawn from the seed, its mark and how often it was made; what came of it is counted."""

    chaos: Chaos
    made: Counter[str] = field(default_factory=Counter[str])
    drawn: Counter[str] = field(default_factory=Counter[str])

    def __call__(self, tool: str, mark: str) -> Fate:
        self.made[f"{tool} {mark}"] += 1
        dice = random.Random(f"{self.chaos.seed} {tool} {mark} {self.made[f'{tool} {mark}']}")
        how = dice.choice(TOOL_FAILURES)
        if dice.random() >= self.chaos.failing:
            how = "went well"
        self.drawn[f"{tool}: {how}"] += 1
        stall_seconds = 0.1 * self.chaos.silence_seconds
        match how:
            case "raised":
                return Fate(error_before=RuntimeError(f"{tool} is out of order"))
            case "answered with error text":
                return Fate(says=f"error: {tool} is closed today")
            case "stalled":
                silent = TimeoutError(f"{tool} gave no answer")
                if tool in OUTSIDE and dice.random() < 0.5:  # it happened, and the caller does not know
                    return Fate(after_seconds=stall_seconds, error_after=silent)
                return Fate(before_seconds=stall_seconds, error_before=silent)
            case _:
                return Fate(before_seconds=dice.uniform(0.0, 0.005))


@dataclass
class Ran:
    """What became of the requests, as they end."""

    chaos: Chaos
    folder: Path
    base_url: str
    on_end: Callable[[int], None]
    luck: Luck = field(init=False)
    effects: list[Effect] = field(default_factory=list[Effect])
    ledger: MemoryLedger = field(default_factory=MemoryLedger)
    threads: InMemorySaver = field(default_factory=InMemorySaver)
    rollouts: InMemorySaver = field(default_factory=InMemorySaver)
    account: Account = field(default_factory=Account)
    memory: list[Memory] = field(default_factory=list[Memory])
    committed: list[Call] = field(default_factory=list[Call])
    rows: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    files: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    waiting: list[str] = field(default_factory=list[str])
    failed: set[str] = field(default_factory=set[str])
    again: set[int] = field(default_factory=set[int])
    ended: int = 0

    def __post_init__(self) -> None:
        self.luck = Luck(self.chaos)
        tools = Tools(self.luck, self.act)
        patience = {"timeout_seconds": self.chaos.silence_seconds}
        self.agents = [
            agent_of(self.base_url, tools, tool_calling=calling, **patience) for calling in ("native", "text")
        ]

    async def act(self, tool: str, mark: str, key: str) -> None:
        """Something happened outside."""
        self.effects.append(Effect(tool=tool, mark=mark, key=key))

    async def request(self, number: int) -> None:
        """One request, under a watchdog; after an error, and after hanging up, its caller tries again once."""
        place = self.folder / str(number)
        (place / "files").mkdir(parents=True)
        make_database(place / "app.db")
        graph = self.graph(number, place)
        config: dict[str, Any] = {"configurable": {"thread_id": thread_of(number)}}
        try:
            async with asyncio.timeout(self.chaos.hang_seconds) as watchdog:
                asked = {"messages": [HumanMessage(f"request {number}")]}
                if await self.answered_at_once(graph, config, number, asked):
                    self.account.counts["committed"] += 1
                else:
                    self.again.add(number)
                    begun = (await graph.aget_state(config)).values
                    await self.answered(graph, config, None if begun else asked)
                    self.account.counts["committed when the caller tried again"] += 1
        except EntcentError as error:
            self.note_error(number, error)
        except Exception as error:
            kind = "hang" if watchdog.expired() else "other error"
            self.account.violations.append(f"{kind}: request {number}: {type(error).__name__}: {error}")
        await self.settle(graph, config, place)
        self.ended += 1
        if self.ended in {max(1, self.chaos.requests * share // 100) for share in (10, 50)}:
            self.memory.append(Memory.now(self.ended))
        self.on_end(self.ended)

    def note_unheard(self, loop: Any, context: Mapping[str, Any]) -> None:
        """An exception that nobody awaited: of a callback, or of a task that was left alone."""
        self.account.violations.append(f"unheard exception: {context['message']}: {context.get('exception')!r}")

    def note_error(self, number: int, error: EntcentError) -> None:
        """Count a request that ended in an error that says why."""
        told = [kind for kind, says in SAYS_WHY.items() if re.search(says, str(error))]
        self.account.counts["ended in an error that says why"] += 1
        self.account.counts.update(f"the error names: {kind}" for kind in told)
        if not told:
            self.account.violations.append(f"unclear error: request {number}: {error}")

    def graph(self, number: int, place: Path) -> Any:
        """A graph of its own for each request; every other agent has its tools in the prompt, and is streamed."""
        return entropy_centroid_graph(
            self.agents[number % 2],
            n=self.chaos.n,
            effects=EFFECTS,
            environments=[SqliteEnvironment(place / "app.db"), DirectoryEnvironment(place / "files")],
            retries=Retries(attempts=4, first_seconds=0.2, max_seconds=2.0),
            budget=self.chaos.budget(number),
            checkpointer=self.threads,
            rollout_checkpointer=self.rollouts,
            ledger=self.ledger,
        )

    async def answered_at_once(self, graph: Any, config: dict[str, Any], number: int, asked: Any) -> bool:
        """Whether the first try came to an answer, and nobody hung up before."""
        try:
            async with asyncio.timeout(self.chaos.hangs_up_after(number)):
                await self.answered(graph, config, asked)
            return True
        except TimeoutError:
            self.account.counts["callers who hung up"] += 1
        except EntcentError:
            self.account.counts["errors that said why, and were tried again"] += 1
        return False

    async def answered(self, graph: Any, config: dict[str, Any], given: Any) -> None:
        """Run, and answer questions by what is true."""
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

    async def settle(self, graph: Any, config: dict[str, Any], place: Path) -> None:
        """Note what was committed."""
        thread = config["configurable"]["thread_id"]
        state = await graph.aget_state(config)
        messages = state.values.get("messages", [])
        calls = calls_of(convert_to_openai_messages(messages))
        self.committed += calls
        self.rows += rows_of(place / "app.db")
        self.files += files_of(place / "files")
        await self.threads.adelete_thread(thread)
        if state.next:  # it ended in an error, and may be tried again from the rollout that it holds
            self.waiting += [record["thread_id"] for record in state.values.get("rollouts") or ()]
            self.failed.add(thread)
            return
        answered = messages and isinstance(messages[-1], AIMessage) and not messages[-1].tool_calls
        if not answered or any(call.result is None for call in calls):
            self.account.violations.append(f"half committed: {thread}")

    async def leftovers(self, server: ModelServer, before: set[asyncio.Task[Any]]) -> list[str]:
        """What is there after the last request that nobody needs any more."""
        await _comes_to(lambda: asyncio.all_tasks() <= before)
        found = [f"leftover task: {task!r}" for task in asyncio.all_tasks() - before]
        await _comes_to(lambda: not server.open_connections())
        await _comes_to(lambda: not _unexpected(self.folder))
        found += ["leftover connection: at the server"] * server.open_connections()
        found += [f"leftover on disk: {path.relative_to(self.folder)}" for path in _unexpected(self.folder)]
        kept = {thread for (thread, *_) in self.rollouts.writes} | {thread for (thread, *_) in self.rollouts.blobs}
        found += [
            f"leftover thread in the store: {thread}"
            for thread in {*self.rollouts.storage, *kept}
            if thread not in self.waiting
        ]
        await sweep(self.rollouts, self.ledger, older_than_seconds=0)
        found += [f"not swept: {thread}" for thread in self.rollouts.storage]
        for record in await self.ledger.unsettled():
            if record.request.partition(":")[0] in self.failed:  # its caller may try again, and the call with it
                self.account.counts["unsettled calls of requests that ended in an error"] += 1
            else:
                found.append(f"leftover call: {record.position}, {record.state}")
        return found


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What all of it came to: counts and violations, memory held on the way, and time, of processors too."""

    account: Account
    memory: Sequence[Memory]
    seconds: float
    cpu_seconds: float
    server_cpu_seconds: float


def run_chaos(chaos: Chaos, on_end: Callable[[int], None] = lambda ended: None) -> Outcome:
    """Run all requests, and settle up.

    Args:
        chaos: What is run.
        on_end: Told how many requests have ended, each time.
    """
    with tempfile.TemporaryDirectory(prefix="entcent-chaos-") as name:
        folder = Path(name)
        script = Script(seed=chaos.seed, log=folder / "log", plans=PLANS_WITH_FILES, faults=chaos.faults)
        with model_server(script) as server:
            before, begun, cpu = Holdings.now(), time.monotonic(), time.process_time()
            (folder / "requests").mkdir()
            ran = asyncio.run(_run(Ran(chaos, folder / "requests", server.base_url, on_end), server))
            seconds, cpu_seconds = time.monotonic() - begun, time.process_time() - cpu
            served = psutil.Process(server.process.pid).cpu_times()
            ran.account.violations.extend(Holdings.now().left_since(before))
            ran.memory.append(Memory.now(chaos.requests))
        log = read_log(script.log)
    account = ran.account + audit_effects(ran.committed, ran.effects)
    account += audit_writes(ran.committed, "note", ran.rows) + audit_writes(ran.committed, "save", ran.files)
    account += audit_samples([asked for asked in log if asked.number not in ran.again], chaos.n) + audit_reads(log)
    account.counts.update(ran.luck.drawn)
    account.counts.update(of_the_server(log))
    return Outcome(
        account=account,
        memory=ran.memory,
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        server_cpu_seconds=served.user + served.system,
    )


def of_the_server(log: Sequence[Asked]) -> Counter[str]:
    """How often it failed, in which ways, and what was asked again."""
    counts = Counter({"requests to the server": len(log)})
    counts.update(f"server: {fault}" for fault in FAULTS for asked in log if asked.fault == fault)
    last: dict[str, str | None] = {}
    for asked in log:
        if asked.retry:
            counts["sent again by the client"] += 1
        elif last.get(asked.digest):
            counts["asked again by rollouts, or for the choices that were missing"] += 1
        last[asked.digest] = asked.fault
    return counts


async def _run(ran: Ran, server: ModelServer) -> Ran:
    room = asyncio.Semaphore(ran.chaos.at_once)

    async def one(number: int) -> None:
        async with room:
            await ran.request(number)

    before = asyncio.all_tasks()
    asyncio.get_running_loop().set_exception_handler(ran.note_unheard)
    await asyncio.gather(*(one(number) for number in ran.chaos.numbers))
    await aclose_clients()
    ran.account.violations.extend(await ran.leftovers(server, before))
    return ran


async def _comes_to(state: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait until it is so, for a while."""
    for _ in range(int(seconds / 0.01)):
        if state():
            return
        await asyncio.sleep(0.01)


def _unexpected(folder: Path) -> list[Path]:
    """What lies beside the databases and the files that tools wrote, as deep as it goes."""
    beside = [path for place in folder.iterdir() for path in place.iterdir() if path.name not in {"app.db", "files"}]
    inside = [found for path in beside for found in (path, *path.rglob("*"))]
    return [path for path in inside if not (path.is_dir() and any(path.iterdir()))]
