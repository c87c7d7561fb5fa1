"""Games draw from a generator of their own, though they know the global one alone."""

from __future__ import annotations

import json
import random
import subprocess
import sys

import pytest

from evals.suites.registry import ENTRIES, load_suite

if ENTRIES["textarena"].missing:
    pytest.skip("textarena is not installed: python -m evals install textarena", allow_module_level=True)

from evals.suites.textarena.suite import Game, TextArena


def opened(name: str, number: int = 0) -> tuple[TextArena, Game]:
    suite = load_suite("textarena")
    assert isinstance(suite, TextArena)
    task = next(task for task in suite.tasks(name) if task.id == f"{name}/{number}")
    world = suite.make_env(task)
    assert isinstance(world, Game)
    return suite, world


def test_forks_of_a_game_draw_the_same_and_leave_the_global_generator_alone() -> None:
    suite, game = opened("Minesweeper-v0")  # mines are laid at the first move
    random.seed(1)
    before = random.getstate()
    boards: list[str | None] = []
    for _ in range(2):
        fork = suite.fork(game)
        boards.append(fork.proceed("[3 3]"))
        assert random.getstate() == before
        random.seed(2)
        before = random.getstate()
    assert boards[0] == boards[1] and boards[0]


def test_a_fork_goes_on_from_where_its_parent_is() -> None:
    suite, game = opened("GuessTheNumber-v0")
    assert game.proceed("[1]") is not None  # a wrong guess
    said = suite.fork(game).proceed("[1]")
    assert said is not None and "already guessed" in said


def test_a_game_that_is_not_over_is_not_won() -> None:
    suite, game = opened("GuessTheNumber-v0")
    task = next(iter(suite.tasks("GuessTheNumber-v0")))
    assert suite.score(task, game, []).reason == "the game is not over"


def test_the_same_seed_is_the_same_game_in_another_process() -> None:
    names = ("Sudoku-v0", "FrozenLake-v0-random", "LightsOut-v0")
    asks = (
        "import json; from evals.suites.registry import load_suite; s = load_suite('textarena'); "
        f"print(json.dumps([next(iter(s.tasks(name))).messages for name in {names}]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", asks], capture_output=True, text=True, check=True, env={"PYTHONPATH": "."}
    )
    suite = load_suite("textarena")
    assert json.loads(done.stdout) == [list(next(iter(suite.tasks(name))).messages) for name in names]
