"""The conformance suite finds what is wrong with environments that are wrong on purpose."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from entcent_agents.environments import Change, MemoryEnvironment, MemoryFork
from tests.environments.test_conformance import TestMemory as Memory

ISOLATION = "test_forks_see_neither_each_other_nor_touch_the_real_thing"


class SharesTheRealThing(MemoryEnvironment):
    def fork(self) -> MemoryFork:
        return MemoryFork(self, self.value, {"words": []})


class SeesNoConflict(MemoryEnvironment):
    class Fork(MemoryFork):
        def seal(self) -> Any:
            return {"words": [*self.value["words"]]}

    def fork(self) -> MemoryFork:
        return self.Fork(self, {"words": [*self.value["words"]]}, {"words": [*self.value["words"]]})


class LosesCommits(SeesNoConflict):
    class Fork(MemoryFork):
        def apply(self, sealed: Any) -> None:
            self.discard()


class HasNoDifference(SeesNoConflict):
    class Fork(MemoryFork):
        def diff(self) -> tuple[Change, ...]:
            return ()


class CopiesShareWithTheirOriginal(SeesNoConflict):
    class Fork(MemoryFork):
        def fork(self) -> MemoryFork:
            return MemoryFork(self.environment, self.value, self._base)


class LivesOn(SeesNoConflict):
    class Fork(MemoryFork):
        def discard(self) -> None:
            pass


class ForgetsReferences(MemoryEnvironment):
    def reopen(self, reference: str) -> MemoryFork:
        return self.fork()


class CallsEverythingCommitted(MemoryEnvironment):
    def committed(self, reference: str) -> bool:
        return True


class PretendsToKeep(SeesNoConflict):
    class Fork(MemoryFork):
        def keep(self) -> None:  # type: ignore[override]
            pass


@pytest.mark.parametrize(
    ("broken", "test", "message"),
    [
        (SharesTheRealThing, ISOLATION, r"the first fork: \['first', 'second'\], expected \['first'\]"),
        (SeesNoConflict, "test_a_change_by_somebody_else_is_a_conflict", "should have raised EnvironmentConflict"),
        (
            SeesNoConflict,
            "test_the_second_of_two_commits_is_told_and_changes_nothing",
            "should have raised EnvironmentConflict",
        ),
        (
            SeesNoConflict,
            "test_of_two_writers_that_race_one_wins_and_the_other_is_told",
            r"were told: \['committed', 'committed'\]",
        ),
        (LosesCommits, "test_a_commit_makes_one_fork_real_once", r"the real thing: \[\], expected \['one', 'two'\]"),
        (HasNoDifference, "test_a_difference_is_empty_at_first_and_the_same_for_equal_forks", "has no difference"),
        (
            CopiesShareWithTheirOriginal,
            "test_a_fork_of_a_fork_has_what_came_before_it_and_goes_its_own_way",
            r"the original: \['before', 'original', 'copy'\]",
        ),
        (LivesOn, "test_a_discarded_fork_is_gone_and_may_be_discarded_again", "diff should have raised"),
        (ForgetsReferences, "test_a_fork_is_found_by_its_reference", r"the fork that was found: \[\]"),
        (CallsEverythingCommitted, "test_a_fork_is_found_by_its_reference", "counts as committed"),
        (PretendsToKeep, "test_keeping_lets_a_fork_outlive_its_process_or_is_refused", "keep should have raised"),
    ],
)
def test_what_is_broken_is_found_and_said(
    tmp_path: Path, broken: type[MemoryEnvironment], test: str, message: str
) -> None:
    class Suite(Memory):
        __test__ = False

        def make(self, folder: Path) -> None:
            self.opened[folder] = broken({"words": []})

    with pytest.raises(AssertionError, match=message):
        getattr(Suite(), test)(tmp_path)


def test_a_durable_suite_says_why_its_child_process_failed(tmp_path: Path) -> None:
    class Suite(Memory):
        __test__ = False
        durable = True

    with pytest.raises(AssertionError, match=r"the process that was to fork_and_die failed: (.|\n)*AttributeError"):
        Suite().test_keeping_lets_a_fork_outlive_its_process_or_is_refused(tmp_path)
