"""What was done, next to what was committed: every difference is named. Pure, so that it can be tested itself."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tests.rollouts.script import OUTSIDE, Asked, Call


@dataclass(frozen=True, kw_only=True)
class Effect:
    """A line that an external call left in the world."""

    tool: str
    mark: str
    key: str

    @classmethod
    def from_line(cls, line: str) -> Effect:
        tool, mark, key = line.split()
        return cls(tool=tool, mark=mark, key=key)


@dataclass(frozen=True, kw_only=True)
class Account:
    """Counts of what was found, and violations, each in a line that begins with its kind."""

    counts: Counter[str] = field(default_factory=Counter[str])
    violations: list[str] = field(default_factory=list[str])

    def __add__(self, other: Account) -> Account:
        return Account(counts=self.counts + other.counts, violations=self.violations + other.violations)

    def kinds(self) -> Counter[str]:
        """How many violations of each kind."""
        return Counter(line.partition(":")[0] for line in self.violations)


def audit_effects(committed: Iterable[Call], effects: Sequence[Effect]) -> Account:
    """Every external call of the committed conversations happened once; nothing else did."""
    keys: defaultdict[str, list[str]] = defaultdict(list)
    for effect in effects:
        keys[effect.mark].append(effect.key)
    calls = {call.mark: call for call in committed if call.tool in OUTSIDE}
    account = Account()
    for mark in keys.keys() - calls.keys():
        account.violations.append(f"loser effect: {mark} happened and is in no committed conversation")
    for mark, call in calls.items():
        times, different = len(keys[mark]), len(set(keys[mark]))
        account.counts[f"{call.tool}: calls"] += 1
        account.counts[f"{call.tool}: happened"] += times > 0
        if call.tool == "book":
            account.counts["book: repeated with its key"] += times > 1
        if (different if call.tool == "book" else times) > 1:
            account.violations.append(f"double effect: {mark} happened {times} times, with {different} keys")
        if call.succeeded and not times:
            account.violations.append(f"lost effect: {mark} said {call.result!r} and did not happen")
    return account


def audit_writes(committed: Iterable[Call], tool: str, rows: Iterable[tuple[str, int]]) -> Account:
    """The real rows or files are those that the tool wrote in committed conversations, each once and whole."""
    rows = list(rows)
    times = Counter(mark for mark, _ in rows)
    written = {call.mark for call in committed if call.tool == tool and call.succeeded}
    account = Account(counts=Counter({f"{tool}: written": len(written)}))
    account.violations.extend(f"loser write: {mark}" for mark in times.keys() - written)
    account.violations.extend(f"lost write: {mark}" for mark in written - times.keys())
    account.violations.extend(f"double write: {mark}, {count} times" for mark, count in times.items() if count > 1)
    account.violations.extend(f"torn write: {mark}" for mark, whole in rows if not whole)
    return account


def audit_requests(log: Sequence[Asked], n: int, durable: Mapping[int, Collection[str]]) -> Account:
    """No turn that was on record is sampled again, and each kill costs a rollout one model request at most.

    Args:
        log: What the server was asked, in order.
        n: Rollouts of a request.
        durable: Marks of turns that were on record when a life ended, by life.
    """
    allowed = {asked.digest: n if asked.shared else 1 for asked in log}
    life_of = {mark: asked.life for asked in log for mark in asked.marks}
    kept = {mark for marks in durable.values() for mark in marks} | {mark for asked in log for mark in asked.used}
    marks: defaultdict[str, list[str]] = defaultdict(list)
    again = Counter[int]()
    for asked in log:
        over = max(0, len(marks[asked.digest]) + len(asked.marks) - allowed[asked.digest])
        again[asked.life] += min(over, len(asked.marks))
        marks[asked.digest].extend(asked.marks)
    account = Account(counts=Counter({"model requests": len(life_of), "model requests repeated": sum(again.values())}))
    account.counts["most repeated after one kill"] = max(again.values(), default=0)
    account.violations.extend(
        f"repeated request: {count} model requests again in life {life}, with {n} rollouts"
        for life, count in again.items()
        if count > n
    )
    for digest, given in marks.items():
        lives = Counter(life_of[mark] for mark in given)
        for life, count in lives.items():
            known = sum(mark in kept and life_of[mark] < life for mark in given)
            if count + known > allowed[digest]:
                account.violations.append(
                    f"sampled again: {digest} in life {life}: {count} choices, {known} on record, "
                    f"{allowed[digest]} rollouts"
                )
    return account + audit_reads(log)


def audit_samples(log: Sequence[Asked], n: int) -> Account:
    """No turn that a rollout went on from is sampled again. Answers that came too late, or broken, may be.

    Args:
        log: What the server was asked, in order.
        n: Rollouts of a request.
    """
    used = {mark for asked in log for mark in asked.used}
    taken = Counter[str]()
    account = Account(counts=Counter({"turns sampled": sum(len(asked.marks) for asked in log)}))
    for asked in log:
        allowed = n if asked.shared else 1
        if taken[asked.digest] + len(asked.marks) > allowed:
            account.violations.append(
                f"sampled again: {asked.digest}: {len(asked.marks)} choices, where rollouts had gone on from "
                f"{taken[asked.digest]} of {allowed}"
            )
        taken[asked.digest] += sum(mark in used for mark in asked.marks)
    return account


def audit_reads(log: Sequence[Asked]) -> Account:
    """Every rollout saw what it had written, and nothing else."""
    return Account(violations=[f"unsound read: {line}" for asked in log for line in asked.complaints])
