"""Whether a suite judges as it should, found out without a model.

For each task: the ground truth, played on a fork, passes; doing nothing, on another, fails; none of this is seen in the
world that was forked, in which the ground truth then passes too. And of the answers to other tasks most fail: not all
have to, as a way over one frozen lake may lead over the next.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from evals.suites.protocol import Allowance, Reply, respond

if TYPE_CHECKING:
    from evals.suites.protocol import Score, SelfTested, Task, World


@dataclass(kw_only=True)
class Findings:
    """What a self-test of one category saw.

    Attributes:
        category: The part of the suite.
        tasks: Tasks looked at.
        solved: Of these, how many the ground truth solves.
        without_truth: How many have no ground truth.
        unsolvable: How many fail by their ground truth, as is known.
        free: How many pass when nothing is done, as is known.
        refused: How many answers to other tasks were refused.
        accepted: Tasks at which such an answer passed.
        faults: What is wrong, a line each.
    """

    category: str
    tasks: int = 0
    solved: int = 0
    without_truth: int = 0
    unsolvable: int = 0
    free: int = 0
    refused: int = 0
    accepted: list[str] = field(default_factory=list[str])
    faults: list[str] = field(default_factory=list[str])


def examine(suite: SelfTested, category: str, most: int | None = None) -> Findings:
    """Test the first tasks of a category; all of them where `most` is None."""
    findings = Findings(category=category)
    before: tuple[Reply, ...] | None = None
    for task in islice(suite.tasks(category), most):
        findings.tasks += 1
        before = _examine(suite, task, before, findings)
    if len(findings.accepted) > findings.refused:
        findings.faults.append(f"{category}: most answers to other tasks pass, say at {findings.accepted[0]}")
    return findings


def play(suite: SelfTested, task: Task, world: World, replies: Iterable[Reply]) -> tuple[Score, tuple[Reply, ...]]:
    """Have these replies written in this world, as far as the task lets them, and judge them."""
    allowance = Allowance(task)
    written: list[Reply] = []
    for reply in replies:
        written.append(reply)
        if not allowance.permits(reply) or not respond(task, world, reply):
            break
    return suite.score(task, world, written), tuple(written)


def silence() -> Iterator[Reply]:
    """A model that writes nothing, as often as it is asked."""
    while True:
        yield Reply()


def _examine(
    suite: SelfTested, task: Task, wrong: tuple[Reply, ...] | None, findings: Findings
) -> tuple[Reply, ...] | None:
    """Test one task; `wrong` is what was right for another. What is right for this one."""
    parent = suite.make_env(task)
    untouched = suite.state(parent)
    nothing, _ = play(suite, task, suite.fork(parent), silence())
    if nothing.passed != (task.id in suite.free):
        findings.faults.append(f"{task.id}: doing nothing {'passes' if nothing.passed else 'fails, and is listed'}")
    findings.free += nothing.passed
    right = _try_truth(suite, task, suite.fork(parent), findings)
    if right is None:
        return None
    if wrong is not None and wrong != right and task.id not in suite.free:
        _try_wrong(suite, task, suite.fork(parent), wrong, findings)
    if suite.state(parent) != untouched:
        findings.faults.append(f"{task.id}: what was done on forks is seen in the world they were forked from")
    again, _ = play(suite, task, parent, right)
    if again.passed != (task.id not in suite.unsolvable):
        findings.faults.append(f"{task.id}: after wrong rollouts the ground truth is judged otherwise: {again.reason}")
    return right


def _try_truth(suite: SelfTested, task: Task, world: World, findings: Findings) -> tuple[Reply, ...] | None:
    replies = suite.right_replies(task, world)
    if replies is None:
        findings.without_truth += 1
        return None
    score, right = play(suite, task, world, replies)
    if score.passed == (task.id in suite.unsolvable):
        said = f"fails: {score.reason}" if not score.passed else "passes, and is listed as failing"
        findings.faults.append(f"{task.id}: the ground truth {said}")
    findings.solved += score.passed
    findings.unsolvable += not score.passed
    return right


def _try_wrong(suite: SelfTested, task: Task, world: World, wrong: tuple[Reply, ...], findings: Findings) -> None:
    score, _ = play(suite, task, world, wrong)
    if score.passed:
        findings.accepted.append(task.id)
    findings.refused += not score.passed
