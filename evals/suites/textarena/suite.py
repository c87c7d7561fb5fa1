"""The suite: a task is a game and a seed, a reply is a move, and a reward of 1 is a win."""

from __future__ import annotations

import random
from contextlib import contextmanager
from copy import deepcopy
from functools import cache
from importlib import import_module
from threading import RLock
from typing import TYPE_CHECKING, Any, Final

from evals.errors import SuiteMalformedError
from evals.suites.protocol import Call, Reply, Score, Task, ToolSpec, World
from evals.suites.textarena.solutions import SOLUTIONS

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping, Sequence

GAMES: Final = (
    "FrozenLake-v0",
    "FrozenLake-v0-random",
    "FrozenLake-v0-hardcore",
    "GuessTheNumber-v0",
    "GuessTheNumber-v0-hardcore",
    "LightsOut-v0",
    "Mastermind-v0",
    "Mastermind-v0-hard",
    "Mastermind-v0-extreme",
    "Minesweeper-v0-small",
    "Minesweeper-v0",
    "Minesweeper-v0-medium",
    "Minesweeper-v0-hard",
    "Secretary-v0",
    "Secretary-v0-long",
    "Sudoku-v0-very-easy",
    "Sudoku-v0-easy",
    "Sudoku-v0",
    "Sudoku-v0-medium",
    "TowerOfHanoi-v0",
    "TowerOfHanoi-v0-medium",
    "TowerOfHanoi-v0-hard",
    "TowerOfHanoi-v0-hardcore",
    "TowerOfHanoi-v0-extreme",
)
"""Games for one player that need no network, whose solution can be had from their state, and that start in a second.
Of the others some fetch word lists or ask a model to judge, some do not import under Python 3.11, and some give a text
for a reward."""
SEEDS: Final = 50
_SAME_FOR_EVERY_SEED: Final = "TowerOfHanoi"
_SLACK: Final = 2
"""Replies that a game answers with a warning for each one that it counts, and one more."""
_RANDOM: Final = RLock()


def open_suite(argument: str) -> TextArena:
    """The suite; it takes no argument."""
    if argument:
        raise SuiteMalformedError(f"suite textarena takes nothing after its name, and got {argument!r}")
    return TextArena()


class Game:
    """A game under way. It draws from a generator of its own, though games know the global one alone."""

    def __init__(self, name: str, seed: int) -> None:
        with _lent_random(None) as left:
            # The raw game tells what is new; the standard wrapper would tell all of it again each time.
            raw = import_module("textarena").make(f"{name}-raw")
            self.env: Any = import_module("textarena.wrappers").ActionFormattingWrapper(raw)
            self.env.reset(num_players=1, seed=seed)
            self.opening = self._heard()
        self.random = left[0]
        self.ended = False

    def run(self, call: Call) -> str:
        """There are no tools."""
        return f"there is no tool {call.name!r}"

    def proceed(self, text: str) -> str | None:
        """Make a move; what the game says to it."""
        if self.ended:
            return None
        with _lent_random(self.random) as left:
            self.ended, _ = self.env.step(text)
            heard = self._heard()
        self.random = left[0]
        return None if self.ended else heard

    def _heard(self) -> str:
        _, observations = self.env.get_observation()
        return "\n".join(text for sender, text, _ in observations if sender < 0)


class TextArena:
    """Games with a seed each."""

    name = "textarena"
    categories = GAMES
    unsolvable: Mapping[str, str] = {}
    free: Mapping[str, str] = {}

    def tasks(self, category: str) -> Iterator[Task]:
        """The game under seeds 0, 1, 2, ….; only once where the seed makes no difference."""
        if category not in GAMES:
            raise SuiteMalformedError(f"textarena has no game {category!r} here: there are {', '.join(GAMES)}")
        for seed in range(1 if category.startswith(_SAME_FOR_EVERY_SEED) else SEEDS):
            game = _opened(category, seed)
            yield Task(
                suite=self.name,
                category=category,
                id=f"{category}/{seed}",
                messages=(
                    {"role": "system", "content": _system_prompt()},
                    {"role": "user", "content": game.opening},
                ),
                max_replies=_SLACK * game.env.state.max_turns + 1,
                truth={"game": category, "seed": seed},
            )

    def make_env(self, task: Task) -> World:
        """The game at its first move."""
        return deepcopy(_opened(task.truth["game"], task.truth["seed"]))

    def fork(self, world: World) -> World:
        """The game as it stands, the generator's state included."""
        return deepcopy(world)

    def tools(self, task: Task, world: World) -> tuple[ToolSpec, ...]:
        """None: moves are words."""
        del task, world
        return ()

    def score(self, task: Task, world: World, replies: Sequence[Reply]) -> Score:
        """The game's own reward; below 1 it is what the game gives for a part."""
        assert isinstance(world, Game)
        if not world.ended:
            return Score(reward=0, reason="the game is not over")
        rewards, info = world.env.close()
        # An invalid move can end a game without a reward, or with less than nothing.
        reward = min(max(float(rewards[0]), 0.0), 1.0)
        return Score(reward=reward, reason="" if reward >= 1 else str(info[0].get("reason", "")))

    def right_replies(self, task: Task, world: World) -> Iterator[Reply] | None:
        """Moves that win, by what the player cannot see."""
        assert isinstance(world, Game)
        return (Reply(text=move) for move in SOLUTIONS[task.category.partition("-")[0]](world.env.env))

    def state(self, world: World) -> object:
        """All that the game remembers."""
        assert isinstance(world, Game)
        game: Any = world.env.env
        remembered: dict[str, Any] = {**vars(game), "state": vars(game.state)}
        return repr((sorted(remembered.items()), world.random, world.ended))


@contextmanager
def _lent_random(state: Any) -> Generator[list[Any]]:
    """The global generator in this state, and at the end its state in the list and the generator as it was."""
    left: list[Any] = []
    with _RANDOM:
        before = random.getstate()
        if state is not None:
            random.setstate(state)
        try:
            yield left
            left.append(random.getstate())
        finally:
            random.setstate(before)


@cache
def _opened(game: str, seed: int) -> Game:
    return Game(game, seed)


def _system_prompt() -> str:
    return import_module("textarena.agents.basic_agents").STANDARD_GAME_PROMPT
