"""reasoning-gym: generated puzzles and sums, answered in one turn, with as much reasoning as the model writes."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from evals.errors import SuiteMalformedError
from evals.suites.protocol import Reply, Score, Task, World
from evals.suites.world import WithoutWorld

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

SEED: Final = 0
SIZE: Final = 50
"""Tasks of each generator."""
_LEFT_OUT: Final = {
    "its checker evaluates the model's text as Python": (
        "binary_matrix",
        "countdown",
        "intermediate_integration",
        "n_queens",
        "polynomial_multiplication",
        "puzzle24",
        "simple_integration",
        "spiral_matrix",
        "string_insertion",
    ),
    "its tasks differ from one process to the next, under one seed": (
        "isomorphic_strings",
        "knight_swap",
        "list_functions",
        "ransom_note",
        "word_ladder",
    ),
    "it gives no answer to test its checker by": (
        "boxnet",
        "graph_color",
        "propositional_logic",
        "rubiks_cube",
        "rush_hour",
    ),
    "its checker takes any answer": ("game_of_life_halting",),
    "it is a mixture of the others": ("composite",),
}


def open_suite(argument: str) -> ReasoningGym:
    """The suite; it takes no argument."""
    if argument:
        raise SuiteMalformedError(f"suite reasoning_gym takes nothing after its name, and got {argument!r}")
    return ReasoningGym()


class ReasoningGym(WithoutWorld):
    """One category a generator, its standard difficulty."""

    name = "reasoning_gym"
    unsolvable: Mapping[str, str] = {}
    free: Mapping[str, str] = {}

    @property
    def categories(self) -> tuple[str, ...]:
        """The generators, less those left out."""
        left_out = {name for names in _LEFT_OUT.values() for name in names}
        return tuple(sorted(import_module("reasoning_gym.factory").DATASETS.keys() - left_out))

    def tasks(self, category: str) -> Iterator[Task]:
        """What the generator makes first."""
        why = next((why for why, names in _LEFT_OUT.items() if category in names), None)
        if why:
            raise SuiteMalformedError(f"reasoning_gym's {category} is left out: {why}")
        if category not in self.categories:
            raise SuiteMalformedError(f"reasoning_gym has no generator {category!r}: see  python -m evals list")
        system = import_module("reasoning_gym.utils").SYSTEM_PROMPTS["default"]
        for index in range(SIZE):
            yield Task(
                suite=self.name,
                category=category,
                id=f"{category}/{index}",
                messages=(
                    {"role": "system", "content": system},
                    {"role": "user", "content": _entry(category, index)["question"]},
                ),
                truth={"generator": category, "index": index},
            )

    def score(self, task: Task, world: World, replies: Sequence[Reply]) -> Score:
        """The generator's own score of what is between the answer tags; a part of 1 for a part of an answer."""
        del world
        answer = self.outcome(task, replies)
        reward = float(_generator(task.category).score_answer(answer, _entry(task.category, task.truth["index"])))
        return Score(reward=reward, reason="" if reward >= 1 else f"answered {answer!r}")

    def outcome(self, task: Task, replies: Sequence[Reply]) -> str | None:
        """What is between the answer tags."""
        del task
        return import_module("reasoning_gym.utils").extract_answer(replies[0].text if replies else "")

    def right_replies(self, task: Task, world: World) -> Iterator[Reply] | None:
        """The generator's answer."""
        del world
        yield Reply(text=f"<answer>{_entry(task.category, task.truth['index'])['answer']}</answer>")


@cache
def _generator(name: str) -> Any:
    return import_module("reasoning_gym").create_dataset(name, seed=SEED, size=SIZE)


@cache
def _entry(name: str, index: int) -> Any:
    return _generator(name)[index]
