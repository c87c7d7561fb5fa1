"""Moves that win each game, worked out from its hidden state. For self-tests alone."""

from __future__ import annotations

from collections import deque
from itertools import product
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Cell = tuple[int, int]


def _guess_the_number(game: Any) -> Iterator[str]:
    yield f"[{game.game_number}]"


def _mastermind(game: Any) -> Iterator[str]:
    yield f"[{' '.join(map(str, game.state.game_state['secret_code']))}]"


def _secretary(game: Any) -> Iterator[str]:
    draws: list[float] = game.state.game_state["draws"]
    yield from ["[continue]"] * draws.index(max(draws))
    yield "[accept]"


def _tower_of_hanoi(game: Any) -> Iterator[str]:
    def move(disks: int, source: str, target: str, spare: str) -> Iterator[str]:
        if disks:
            yield from move(disks - 1, source, spare, target)
            yield f"[{source} {target}]"
            yield from move(disks - 1, spare, target, source)

    yield from move(game.num_disks, "A", "C", "B")


def _frozen_lake(game: Any) -> Iterator[str]:
    grid: list[list[str]] = game.state.game_state["grid"]
    start: Cell = game.state.game_state["player_pos"]
    goal: Cell = game.state.game_state["goal_pos"]
    ways: dict[Cell, list[str]] = {start: []}
    waiting = deque([start])
    while goal not in ways:
        row, column = waiting.popleft()
        for word, (down, right) in game.actions.items():
            cell = (row + down, column + right)
            if cell not in ways and all(0 <= at < game.size for at in cell) and grid[cell[0]][cell[1]] != "H":
                ways[cell] = [*ways[row, column], f"[{word}]"]
                waiting.append(cell)
    yield from ways[goal]


def _sudoku(game: Any) -> Iterator[str]:
    for row, column in product(range(9), repeat=2):
        if game.game_board[row][column] == 0:
            yield f"[{row + 1} {column + 1} {game.full_grid[row][column]}]"


def _minesweeper(game: Any) -> Iterator[str]:
    yield "[0 0]"  # mines are laid around the first cell
    for row, column in product(range(game.rows), range(game.cols)):
        if game.grid[row][column] != -1 and not game.revealed[row][column]:
            yield f"[{row} {column}]"


def _lights_out(game: Any) -> Iterator[str]:
    """Given the presses of the first row, those of every other row follow from the lights above it."""
    size: int = game.size
    found = [_chased(game, first) for first in product((False, True), repeat=size)]
    presses = min((cells for cells in found if cells is not None), key=len)
    yield from (f"[{row} {column}]" for row, column in presses)


def _chased(game: Any, first: tuple[bool, ...]) -> list[Cell] | None:
    size: int = game.size
    grid = [list(row) for row in game.state.game_state["grid"]]
    presses: list[Cell] = []
    for row, column in product(range(size), repeat=2):
        if first[column] if row == 0 else grid[row - 1][column]:
            game._toggle_lights(grid, row, column)
            presses.append((row, column))
    return None if any(grid[-1]) else presses


SOLUTIONS: Final[dict[str, Callable[[Any], Iterator[str]]]] = {
    "FrozenLake": _frozen_lake,
    "GuessTheNumber": _guess_the_number,
    "LightsOut": _lights_out,
    "Mastermind": _mastermind,
    "Minesweeper": _minesweeper,
    "Secretary": _secretary,
    "Sudoku": _sudoku,
    "TowerOfHanoi": _tower_of_hanoi,
}
