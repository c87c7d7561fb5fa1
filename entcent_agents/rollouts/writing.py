"""What a durable rollout writes down as it goes, so that another process can go on with it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any
from uuid import uuid4

from entcent_agents.capture.recorder import TurnRecorder
from entcent_agents.environments import Environment, Fork
from entcent_agents.errors import EnvironmentFault, EnvironmentUnusableError
from entcent_agents.rollouts.calls import Call, Key
from entcent_agents.rollouts.cleanup import discard, in_a_thread, to_the_end
from entcent_agents.rollouts.heritage import Heritage
from entcent_agents.rollouts.journal import Entry, Journal
from entcent_agents.rollouts.overlay import OverlayStore, apply_writes
from entcent_agents.rollouts.released import Released
from entcent_agents.rollouts.store import Checkpoints, RolloutStore
from entcent_agents.trajectory import BranchMethod, Rollout, Turn, Usage


@dataclass(slots=True)
class Writing:
    """The journal of one rollout, as it is written. It holds the forks, which a crash may have to turn back.

    Attributes:
        store: Where it is kept.
        thread_id: The rollout's thread.
        recorder: Whose turns are kept.
        overlay: Whose writes are kept; None without a LangGraph store.
        forks: Of the environments, by name.
        name: What tells this attempt from an earlier or later one on a thread of the same name.
        method: How the rollout went on from its parent's turn; None where it has none, or has not gone on yet.
        released: The answer that a process before this one released last, if it branched, and nobody knows whether its
            graph had it.
    """

    store: RolloutStore
    thread_id: str
    recorder: TurnRecorder
    overlay: OverlayStore | None
    forks: dict[str, Fork] = field(default_factory=dict[str, Fork])
    name: str = field(default_factory=lambda: uuid4().hex)
    method: BranchMethod | None = None
    released: Released | None = None
    _turns: set[str] = field(default_factory=set[str])
    _usage: Usage = field(default_factory=Usage)
    _writes: Sequence[Any] = ()
    _copies: dict[str, Fork] = field(default_factory=dict[str, Fork])
    _flushing: asyncio.Lock = field(default_factory=asyncio.Lock)
    _begun: bool = False

    async def begin(self, base: str | Checkpoints | None, heritage: Heritage | None = None) -> None:
        """Write down that the rollout begins, with what, and copy the thread, or the checkpoints, that it goes on from.

        A fork is kept only once the journal names it: else a crash in between would leave it to nobody. Nobody would
        read a journal that does not outlive the process.
        """
        if not self.store.durable:
            await self.store.claim(self.thread_id, source=base)
            return
        start = {"name": self.name, "forks": _references(self.forks)}
        start |= {"heritage": heritage.to_dict()} if heritage else {}
        await self.store.begin(self.thread_id, start, source=base)
        self._begun = True
        await _keep(self.forks)

    async def flush(self) -> None:
        """Write down the turns and store writes since the last time."""
        if self.store.durable:
            async with self._flushing:  # what another flush writes must be written before this one's caller goes on
                await self._flush()

    async def _flush(self) -> None:
        turns = [turn for key, turn in self.recorder.turns.items() if key not in self._turns]
        if turns or self.recorder.usage != self._usage:
            self._turns.update(turn.message_id for turn in turns)
            self._usage = self.recorder.usage
            value = {
                "turns": [[turn.to_dict(), self.recorder.words_of(turn)] for turn in turns],
                "usage": asdict(self._usage),
                "method": self.method,
            }
            await self.store.append(self.thread_id, "turns", value)
        if self.overlay and self.overlay.writes != self._writes:
            self._writes = self.overlay.writes
            await self.store.append(self.thread_id, "store", [list(write) for write in self._writes])

    async def release(self, released: Released) -> None:
        """Write down an answer that rollouts branch from."""
        if self.store.durable:
            await self.store.append(self.thread_id, "released", released.to_dict())

    def taken_up(self) -> None:
        """What is known so far was written down by another process."""
        self._begun = True
        self.known()

    def known(self) -> None:
        """What is known so far is written down with the beginning."""
        self._turns.update(self.recorder.turns)
        self._usage = self.recorder.usage
        self._writes = self.overlay.writes if self.overlay else ()

    async def before(self, call: Call) -> None:
        """Put copies of the forks aside: a call that a crash cuts off is undone by them."""
        copies: dict[str, Fork] = {}
        for name, fork in self.forks.items():
            copies[name] = await to_the_end(in_a_thread(fork.fork))
        await self.store.append(self.thread_id, "write", {"key": list(call.key), "copies": _references(copies)})
        await _keep(copies)
        self._copies = copies

    async def after(self, call: Call, result: Mapping[str, Any] | None) -> None:
        """Write down what came of the call; the copies are not needed any more."""
        await self.store.append(self.thread_id, "call", {"key": list(call.key), "result": result})
        copies, self._copies = self._copies, {}
        await discard(copies.values())

    async def end(self, rollout: Rollout) -> None:
        """Write down how the rollout ended; of one that never began there is nothing to go on with."""
        if self._begun:
            await self.flush()
            await self.store.append(self.thread_id, "ended", rollout.to_dict())


async def resumed(journal: Journal, writing: Writing, environments: Sequence[Environment]) -> dict[Key, Any] | None:
    """Take up what a rollout of another process left: its turns, store writes and forks.

    Returns:
        Results of its WRITE calls; None where it died before its forks were kept, and so before it did anything.

    Raises:
        EnvironmentUnusableError: A fork is gone.
    """
    writing.name = journal.start["name"]
    left = await _replayed(journal, writing)
    writing.taken_up()
    by_name = {environment.name: environment for environment in environments}
    if left.cut_off is not None:
        if await in_a_thread(_all_there, by_name, left.cut_off):
            left.turn_back()
            await writing.store.append(writing.thread_id, "forks", dict(left.references))
        else:  # they were not kept yet, and so the call had not begun
            left.put_aside += [left.cut_off]
    if not journal.entries and not await in_a_thread(_all_there, by_name, left.references):
        await in_a_thread(_discard_references, by_name, left.references)
        return None
    for name, reference in left.references.items():
        writing.forks[name] = await in_a_thread(_reopened, by_name[name], reference)
    for old in left.put_aside:
        await in_a_thread(_discard_references, by_name, old)
    return left.results


async def _replayed(journal: Journal, writing: Writing) -> _Left:
    """What a journal says, turns and store writes taken up."""
    left = _Left(references=journal.start["forks"])
    if heritage := heritage_of(journal):
        await inherited(heritage, writing)
        left.results |= heritage.results
    for entry in journal.entries:
        if entry.kind == "turns":
            _remember(writing, entry.value)
        elif entry.kind == "released":
            writing.released = Released.from_dict(entry.value)
        elif entry.kind == "store" and writing.overlay:
            await apply_writes(writing.overlay, entry.value)
        else:
            left.follow(entry)
    return left


async def inherited(heritage: Heritage, writing: Writing) -> None:
    """Take up the turns and store writes that a branch has from its parent."""
    for turn, words in heritage.turns:
        writing.recorder.remember(turn, words)
    if writing.overlay:
        await apply_writes(writing.overlay, heritage.writes)
    writing.known()


@dataclass(slots=True)
class _Left:
    """What a journal says of forks and WRITE calls.

    Attributes:
        references: The forks that the rollout works on.
        cut_off: Copies of them from before a call of which nothing is known; None where there is no such call.
        put_aside: Forks that nobody needs any more.
        results: Of the calls that are done.
    """

    references: Mapping[str, str]
    cut_off: Mapping[str, str] | None = None
    put_aside: list[Mapping[str, str]] = field(default_factory=list[Mapping[str, str]])
    results: dict[Key, Any] = field(default_factory=dict[Key, Any])

    def follow(self, entry: Entry) -> None:
        if entry.kind == "write":
            self.cut_off = entry.value["copies"]
        elif entry.kind == "call":
            self.put_aside += [self.cut_off] if self.cut_off else []
            self.cut_off = None
            if entry.value["result"] is not None:
                namespace, call_id, digest = entry.value["key"]
                self.results[namespace, call_id, digest] = entry.value["result"]
        elif entry.kind == "forks":
            self.put_aside += [self.references]
            self.references, self.cut_off = entry.value, None

    def turn_back(self) -> None:
        """Go on with the copies: nobody knows how far the call came that was cut off."""
        assert self.cut_off is not None
        self.put_aside += [self.references]
        self.references, self.cut_off = self.cut_off, None


async def abandon(journal: Journal, environments: Sequence[Environment]) -> None:
    """Discard the forks of a rollout that nobody will go on with."""
    left = _Left(references=journal.start["forks"])
    for entry in journal.entries:
        left.follow(entry)
    by_name = {environment.name: environment for environment in environments}
    for references in (left.references, left.cut_off or {}, *left.put_aside):
        await in_a_thread(_discard_references, by_name, references)


def ended(journal: Journal | None) -> Rollout | None:
    """The rollout, if its journal says how it ended."""
    found = [entry.value for entry in journal.entries if entry.kind == "ended"] if journal else []
    return Rollout.from_dict(found[-1]) if found else None


def used(journal: Journal | None) -> Usage:
    """What a rollout of another process had used, as far as its journal knows: of calls under way it does not."""
    if (rollout := ended(journal)) is not None:
        return rollout.usage
    found = [entry.value["usage"] for entry in journal.entries if entry.kind == "turns"] if journal else []
    return Usage.from_dict(found[-1]) if found else Usage()


def heritage_of(journal: Journal) -> Heritage | None:
    """What the rollout has from the one that it branched from; None where it did not."""
    record = journal.start.get("heritage")
    return Heritage.from_dict(record) if record else None


async def recorded_branches(
    store: RolloutStore, thread_ids: Mapping[int, str], environments: Sequence[Environment]
) -> dict[int, Heritage | None]:
    """The rollouts that another process began, of those that may have been; one that was not begun whole is forgotten.

    Args:
        store: Where they would be.
        thread_ids: Their threads, by index.
        environments: Of their forks.
    """
    found: dict[int, Heritage | None] = {}
    by_name = {environment.name: environment for environment in environments}
    for index, thread_id in thread_ids.items():
        journal = await store.read(thread_id)
        if journal is None:
            if await store.is_claimed(thread_id):  # its process died while it copied the parent's thread
                await store.forget(thread_id)
            continue
        heritage = heritage_of(journal)
        if heritage and not journal.entries and not await in_a_thread(_all_there, by_name, journal.start["forks"]):
            await abandon(journal, environments)
            await store.forget(thread_id)
            continue
        found[index] = heritage
    return found


def _remember(writing: Writing, value: Mapping[str, Any]) -> None:
    recorder, last = writing.recorder, writing.released
    for record, words in value["turns"]:
        turn = Turn.from_dict(record)
        recorder.remember(turn, words)
        if last and turn.message_id != last.message_id:
            writing.released = None  # the graph had it, and asked for more
    recorder.usage = Usage.from_dict(value["usage"])
    writing.method = value.get("method")


async def _keep(forks: Mapping[str, Fork]) -> None:
    for fork in forks.values():
        await to_the_end(in_a_thread(fork.keep))


def _all_there(environments: Mapping[str, Environment], references: Mapping[str, str]) -> bool:
    try:
        for name, reference in references.items():
            environments[name].reopen(reference)
    except EnvironmentUnusableError:
        return False
    return True


def _reopened(environment: Environment, reference: str) -> Fork:
    fork = environment.reopen(reference)
    fork.keep()  # it belongs to this process now, and may have to outlive it too
    return fork


def _discard_references(environments: Mapping[str, Environment], references: Mapping[str, str]) -> None:
    for name, reference in references.items():
        with suppress(EnvironmentFault):
            environments[name].reopen(reference).discard()


def _references(forks: Mapping[str, Fork]) -> dict[str, str]:
    return {name: fork.reference for name, fork in forks.items()}
