"""What every environment has to keep, as tests: for those of this library, and for your own.

A pytest class that is extended with five words about the environment under test. Wherever a property can only be seen
from another process, a child is started, and where that matters it is killed with SIGKILL.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from entcent_agents.environments import Environment, Fork, commit
from entcent_agents.errors import ConfigurationError, EnvironmentConflictError, EnvironmentUnusableError
from entcent_agents.testing.expectations import expect_equal, expect_raised, expect_true
from entcent_agents.testing.processes import last_words, race_of_processes, race_of_threads


class EnvironmentConformance:
    """Extend it in a test module, say how your environment is made, changed and read, and pytest runs the rest.

    The real thing is used as a list of words: tools and other people add words to it, and it is read as all of them,
    in order.

    Attributes:
        durable: Whether forks can be kept for other processes. Where not, `keep` has to refuse.
        races: How often two writers race for one commit.
    """

    durable: ClassVar[bool] = True
    races: ClassVar[int] = 200

    def make(self, folder: Path) -> None:
        """Make the real thing, without words, in an empty folder."""
        raise NotImplementedError

    def open(self, folder: Path) -> Environment:
        """Its environment; another process opens it too where forks are durable."""
        raise NotImplementedError

    def add(self, fork: Any, word: str) -> None:
        """Add a word in a fork, as a tool would."""
        raise NotImplementedError

    def words(self, fork: Any) -> list[str]:
        """The words that a tool finds in a fork."""
        raise NotImplementedError

    def add_for_real(self, environment: Any, word: str) -> None:
        """Add a word to the real thing, as somebody would who knows nothing of this library."""
        raise NotImplementedError

    def real_words(self, environment: Any) -> list[str]:
        """The words in the real thing, read without this library."""
        raise NotImplementedError

    def leftovers(self, environment: Any) -> list[str]:
        """What of forks is still there; by default any trace beside the real thing."""
        path: Path | None = getattr(environment, "path", None)
        return sorted(str(found) for found in path.parent.glob(".entcent-*/forks/*")) if path else []

    def test_forks_see_neither_each_other_nor_touch_the_real_thing(self, tmp_path: Path) -> None:
        environment = self._made(tmp_path)
        first, second = environment.fork(), environment.fork()
        self.add(first, "first")
        self.add(second, "second")
        expect_equal("the first fork", self.words(first), ["first"])
        expect_equal("the second fork", self.words(second), ["second"])
        expect_equal("the real thing", self.real_words(environment), [])
        expect_true(first.environment is environment, "fork.environment is not what was forked")
        first.discard()
        expect_equal("the second fork after the first was discarded", self.words(second), ["second"])
        second.discard()
        self._nothing_left(environment)

    def test_a_fork_of_a_fork_has_what_came_before_it_and_goes_its_own_way(self, tmp_path: Path) -> None:
        environment = self._made(tmp_path)
        fork = environment.fork()
        self.add(fork, "before")
        copy = fork.fork()
        self.add(fork, "original")
        self.add(copy, "copy")
        expect_equal("the original", self.words(fork), ["before", "original"])
        expect_equal("the copy", self.words(copy), ["before", "copy"])
        fork.discard()
        commit([copy])
        expect_equal("the real thing", self.real_words(environment), ["before", "copy"])
        self._nothing_left(environment)

    def test_a_difference_is_empty_at_first_and_the_same_for_equal_forks(self, tmp_path: Path) -> None:
        environment = self._made(tmp_path)
        fork = environment.fork()
        expect_equal("the difference of a fresh fork", fork.diff(), ())
        self.add(fork, "word")
        changes, again = fork.diff(), fork.fork().diff()
        expect_true(bool(changes), "a fork that was changed has no difference")
        expect_true(all(change.text for change in changes), f"not readable: {changes}")
        expect_equal("the target of the changes", {change.target for change in changes}, {environment.name})
        expect_equal("the order of the changes", sorted(changes, key=lambda change: change.subject), list(changes))
        expect_equal("the difference of a copy", again, changes)
        other = environment.fork()
        self.add(other, "another")
        expect_true(other.diff() != changes, "forks that differ have the same difference")

    def test_a_commit_makes_one_fork_real_once(self, tmp_path: Path) -> None:
        environment = self._made(tmp_path)
        fork = environment.fork()
        self.add(fork, "one")
        self.add(fork, "two")
        commit([fork])
        expect_equal("the real thing", self.real_words(environment), ["one", "two"])
        self._is_gone(environment, fork)
        expect_raised(EnvironmentUnusableError, commit, [fork])
        expect_equal("the real thing after a second commit", self.real_words(environment), ["one", "two"])
        after = environment.fork()
        expect_equal("a fork after the commit", self.words(after), ["one", "two"])
        after.discard()
        self._nothing_left(environment)

    def test_the_second_of_two_commits_is_told_and_changes_nothing(self, tmp_path: Path) -> None:
        environment = self._made(tmp_path)
        winner, late = environment.fork(), environment.fork()
        self.add(winner, "winner")
        self.add(late, "late")
        before = late.diff()
        commit([winner])
        expect_raised(EnvironmentConflictError, commit, [late])
        expect_equal("the real thing", self.real_words(environment), ["winner"])
        expect_equal("the fork that came late", self.words(late), ["late"])
        try:
            expect_equal("its difference", late.diff(), before)
        except EnvironmentConflictError:
            pass  # there is nothing to compare with any more: that may be said too
        expect_raised(EnvironmentConflictError, commit, [late.fork()])
        late.discard()

    def test_a_change_by_somebody_else_is_a_conflict(self, tmp_path: Path) -> None:
        environment = self._made(tmp_path)
        fork = environment.fork()
        self.add(fork, "ours")
        self.add_for_real(environment, "theirs")
        expect_raised(EnvironmentConflictError, commit, [fork])
        expect_equal("the real thing", self.real_words(environment), ["theirs"])
        fork.discard()
        again = environment.fork()
        self.add(again, "ours")
        commit([again])
        expect_equal("the real thing", self.real_words(environment), ["theirs", "ours"])
        self._nothing_left(environment)

    def test_a_fork_that_changed_nothing_conflicts_with_nothing(self, tmp_path: Path) -> None:
        environment = self._made(tmp_path)
        fork = environment.fork()
        self.words(fork)
        self.add_for_real(environment, "theirs")
        commit([fork])
        expect_equal("the real thing", self.real_words(environment), ["theirs"])
        self._is_gone(environment, fork)
        self._nothing_left(environment)

    def test_a_discarded_fork_is_gone_and_may_be_discarded_again(self, tmp_path: Path) -> None:
        environment = self._made(tmp_path)
        fork = environment.fork()
        self.add(fork, "word")
        fork.discard()
        fork.discard()
        self._is_gone(environment, fork)
        expect_equal("the real thing", self.real_words(environment), [])
        self._nothing_left(environment)

    def test_a_fork_is_found_by_its_reference(self, tmp_path: Path) -> None:
        environment = self._made(tmp_path)
        fork = environment.fork()
        self.add(fork, "word")
        found = environment.reopen(fork.reference)
        expect_equal("the fork that was found", self.words(found), ["word"])
        expect_true(not environment.committed(fork.reference), "a fork that was not committed counts as committed")
        commit([found])
        expect_equal("the real thing", self.real_words(environment), ["word"])
        self._is_gone(environment, fork)

    def test_two_forks_of_one_environment_are_not_committed_together(self, tmp_path: Path) -> None:
        environment = self._made(tmp_path)
        forks = [environment.fork(), environment.fork()]
        for fork in forks:
            self.add(fork, "word")
        expect_raised(ConfigurationError, commit, forks)
        expect_equal("the real thing", self.real_words(environment), [])

    def test_keeping_lets_a_fork_outlive_its_process_or_is_refused(self, tmp_path: Path) -> None:
        environment = self._made(tmp_path)
        if not self.durable:
            expect_raised(ConfigurationError, environment.fork().keep)
            return
        kept, lost = last_words(self, tmp_path, "fork_and_die").split()
        environment = self.open(tmp_path)
        expect_raised(EnvironmentUnusableError, environment.reopen, lost)
        fork = environment.reopen(kept)
        expect_equal("the kept fork", self.words(fork), ["kept"])
        expect_true(not environment.committed(kept), "a kept fork counts as committed")
        self.add(fork, "on")
        commit([fork])
        expect_equal("the real thing", self.real_words(environment), ["kept", "on"])
        expect_true(self.open(tmp_path).committed(kept), "a kept fork that was committed does not count as committed")
        expect_raised(EnvironmentUnusableError, environment.reopen, kept)
        self._nothing_left(environment)

    def test_a_kept_fork_that_was_discarded_is_not_committed(self, tmp_path: Path) -> None:
        if not self.durable:
            return
        environment = self._made(tmp_path)
        fork = environment.fork()
        self.add(fork, "word")
        fork.keep()
        fork.discard()
        expect_true(not environment.committed(fork.reference), "a discarded fork counts as committed")
        self._is_gone(environment, fork)

    def test_a_commit_that_is_killed_at_any_step_happened_wholly_or_not_at_all(self, tmp_path: Path) -> None:
        if not self.durable:
            return
        step, decided, said = 0, False, ""
        while not said.endswith("committed"):
            folder = tmp_path / str(step)
            folder.mkdir()
            self.make(folder)
            said = last_words(self, folder, "commit_and_die", str(step))
            reference, *steps = said.splitlines()
            decided = decided or "published" in steps
            environment = self.open(folder)
            where = f"after a kill at {steps[-1]!r}"
            expect_equal(f"committed() {where}", environment.committed(reference), decided)
            expect_equal(f"the real thing {where}", self.real_words(environment), ["one", "two"] if decided else [])
            if not decided:
                commit([environment.reopen(reference)])
                expect_equal("the real thing, once committed again", self.real_words(environment), ["one", "two"])
            expect_raised(EnvironmentUnusableError, environment.reopen, reference)
            self._nothing_left(environment)
            step += 1
        expect_true(decided, "no step was called 'published': commit with `entcent_agents.environments.commit`")

    def test_of_two_writers_that_race_one_wins_and_the_other_is_told(self, tmp_path: Path) -> None:
        environment = self._made(tmp_path)
        racing = race_of_processes(self, tmp_path) if self.durable else race_of_threads(self, environment)
        with racing as race:
            for round_ in range(self.races):
                told = race(f"word{round_}-")
                expect_equal(
                    f"what the two writers of round {round_} were told", sorted(told), ["committed", "conflict"]
                )
                expected = f"word{round_}-{told.index('committed')}"
                expect_equal(f"the last word of round {round_}", self.real_words(environment)[round_:], [expected])
        self._nothing_left(environment)

    def _made(self, folder: Path) -> Environment:
        self.make(folder)
        return self.open(folder)

    def _is_gone(self, environment: Environment, fork: Fork) -> None:
        for action in (fork.diff, fork.fork, lambda: environment.reopen(fork.reference)):
            expect_raised(EnvironmentUnusableError, action)

    def _nothing_left(self, environment: Environment) -> None:
        expect_equal("what is left of forks", self.leftovers(environment), [])
