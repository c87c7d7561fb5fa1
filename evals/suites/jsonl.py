r"""Tasks of one's own: a folder with `tasks.jsonl` and, where a pattern does not do, `checker.py`.

A line of `tasks.jsonl` has `id`; `prompt`, or `messages` as OpenAI writes them; `category` where tasks are of several
kinds; and what makes an answer right:

- `answer`: the text to be found. With `pattern`, a regular expression, the first group of its last match, or the match
  where it has no group, must be equal to it; without, the last line of the reply that is not empty. Space at the ends
  and case make no difference.
- `pattern` without `answer`: it must match somewhere.
- neither, with `checker.py`: its function `check(task, text)` gets the line as a dictionary and the reply, and returns
  a bool, or a number from 0 to 1. It may use any further keys of the line. `solution` is the reply of which the
  self-test expects that it passes.
"""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, cast

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator, model_validator

from evals.errors import SuiteMalformedError
from evals.suites.protocol import Message, Reply, Score, Task, World
from evals.suites.world import WithoutWorld

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

_TASKS: Final = "tasks.jsonl"
_CHECKER: Final = "checker.py"


class Said(BaseModel):
    """A message as OpenAI writes it, texts alone."""

    model_config = ConfigDict(strict=True, extra="forbid")
    role: str
    content: str


class Line(BaseModel):
    """A line of `tasks.jsonl`; further keys are the checker's."""

    model_config = ConfigDict(strict=True, extra="allow")
    id: str = Field(min_length=1)
    category: str = "all"
    prompt: str | None = None
    messages: list[Said] | None = Field(default=None, min_length=1)
    answer: str | None = None
    pattern: str | None = None
    solution: str | None = None

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise ValueError(f"no regular expression: {error}") from error
        return pattern

    @model_validator(mode="after")
    def _asks_once(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("there should be a prompt or messages, and not both")
        return self

    @property
    def said(self) -> tuple[Message, ...]:
        """What the model is told."""
        if self.prompt is not None:
            return ({"role": "user", "content": self.prompt},)
        return tuple(each.model_dump() for each in self.messages or ())

    @property
    def checks_itself(self) -> bool:
        """Whether the line says what is right."""
        return self.answer is not None or self.pattern is not None


_LINE: Final = TypeAdapter(Line)


def open_suite(argument: str) -> Jsonl:
    """The suite in this folder.

    Raises:
        SuiteMalformedError: There is no such folder, or a line or the checker is not what it should be.
    """
    if not argument:
        raise SuiteMalformedError("suite jsonl needs a folder with tasks.jsonl: jsonl:FOLDER")
    return _read(Path(argument).expanduser().resolve())


@dataclass(frozen=True, kw_only=True)
class Jsonl(WithoutWorld):
    """The tasks of one folder."""

    folder: Path
    lines: Mapping[str, Line]
    checker: Callable[[dict[str, Any], str], bool | float] | None

    unsolvable: Mapping[str, str] = field(default_factory=dict[str, str])
    free: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def name(self) -> str:
        """With the folder's: task 1 here is not task 1 there."""
        return f"jsonl:{self.folder.name}"

    @property
    def categories(self) -> tuple[str, ...]:
        """Those of the lines, in the order of the file."""
        return tuple(dict.fromkeys(line.category for line in self.lines.values()))

    def tasks(self, category: str) -> Iterator[Task]:
        """The lines of a category."""
        if category not in self.categories:
            raise SuiteMalformedError(f"{self.folder} has no category {category!r}: {', '.join(self.categories)}")
        for name, line in self.lines.items():
            if line.category == category:
                truth = line.model_dump(exclude_none=True)
                yield Task(suite=self.name, category=category, id=name, messages=line.said, truth=truth)

    def score(self, task: Task, world: World, replies: Sequence[Reply]) -> Score:
        """By the checker, or by the line's answer and pattern."""
        del world
        line = self.lines[task.id]
        if not line.checks_itself:
            return self._checked(task, replies[0].text if replies else "")
        found = self.outcome(task, replies)
        right = found is not None and (line.answer is None or _same(found, line.answer))
        return Score(reward=1) if right else Score(reward=0, reason=f"found {found!r}")

    def outcome(self, task: Task, replies: Sequence[Reply]) -> str | None:
        """What the pattern finds, or the last line."""
        return _found(self.lines[task.id].pattern, replies[0].text if replies else "")

    def right_replies(self, task: Task, world: World) -> Iterator[Reply] | None:
        """The line's `solution`, or its answer where no pattern has to find it."""
        del world
        line = self.lines[task.id]
        solution = line.solution if line.solution is not None or line.pattern is not None else line.answer
        return None if solution is None else iter([Reply(text=solution)])

    def _checked(self, task: Task, text: str) -> Score:
        assert self.checker is not None  # such lines are refused without a checker
        where = f"{self.folder / _CHECKER}: check() of task {task.id!r}"
        try:
            reward = float(self.checker(dict(task.truth), text))
        except Exception as error:
            raise SuiteMalformedError(f"{where} raised {error!r}: return a bool, or a number from 0 to 1") from error
        if not 0 <= reward <= 1:
            raise SuiteMalformedError(f"{where} returned {reward}: return a bool, or a number from 0 to 1")
        return Score(reward=reward, reason="" if reward >= 1 else "checker.py says no")


def _read(folder: Path) -> Jsonl:
    path = folder / _TASKS
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SuiteMalformedError(f"{path} cannot be read ({error}): it should have one task a line") from error
    checker = _load_checker(folder / _CHECKER)
    lines: dict[str, Line] = {}
    for number, written in enumerate(text.splitlines(), start=1):
        if written.strip():
            where = f"{path}, line {number}"
            line = _line(written, where)
            if line.id in lines:
                raise SuiteMalformedError(f"{where}: there is a task {line.id!r} before it")
            if checker is None and not line.checks_itself:
                raise SuiteMalformedError(f"{where}: nothing says what is right: give answer or pattern, or {_CHECKER}")
            lines[line.id] = line
    if not lines:
        raise SuiteMalformedError(f"{path} has no task: write one a line")
    return Jsonl(folder=folder, lines=lines, checker=checker)


def _line(written: str, where: str) -> Line:
    try:
        return _LINE.validate_json(written)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise SuiteMalformedError(f"{where}{f', {place}' if place else ''}: {first['msg']}") from error


def _load_checker(path: Path) -> Callable[[dict[str, Any], str], bool | float] | None:
    if not path.exists():
        return None
    spec = importlib.util.spec_from_file_location("evals_checker", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise SuiteMalformedError(f"{path} cannot be imported: {error!r}") from error
    check = getattr(module, "check", None)
    if not callable(check):
        raise SuiteMalformedError(f"{path} has no function check(task, text)")
    return cast("Callable[[dict[str, Any], str], bool | float]", check)


def _found(pattern: str | None, text: str) -> str | None:
    if pattern is None:
        written = text.strip().splitlines()
        return written[-1] if written else None
    matches = list(re.finditer(pattern, text))
    if not matches:
        return None
    return matches[-1][1] if matches[-1].re.groups else matches[-1][0]


def _same(found: str, answer: str) -> bool:
    return found.strip().casefold() == answer.strip().casefold()
