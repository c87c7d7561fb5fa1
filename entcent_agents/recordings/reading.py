"""Reading: an index of the files first, then their candidates, task by task."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from entcent_agents.errors import RecordingError
from entcent_agents.recordings.index import MOST_LISTED, Index, Place, index_of, unreadable
from entcent_agents.recordings.readers import read_candidates
from entcent_agents.recordings.reasons import UNREADABLE, reason_of
from entcent_agents.recordings.records import MAX_LINE_BYTES, BadLine, GroupBy, ReadingOptions, Recorded, Reward


def read_recordings(
    paths: Sequence[str | os.PathLike[str]],
    *,
    skip_bad: bool = False,
    answer: re.Pattern[str] | None = None,
    group_by: GroupBy = "id",
    task_pattern: re.Pattern[str] | None = None,
    max_line_bytes: int = MAX_LINE_BYTES,
) -> Recordings:
    """The tasks in files of recorded generations, of any shape that docs/recordings.md shows.

    The files are looked through at once; candidates are decoded as they are iterated over, one task at a time. Lines
    of one task need not be neighbours, nor in one file.

    Args:
        paths: JSON Lines, or files of one JSON document.
        skip_bad: Whether to go on without lines that cannot be read.
        answer: Where in a generated text its answer is, for votes: the first group of the last match, or that match.
        group_by: Candidates of one task have the same id, or are in the same file.
        task_pattern: Where in an id the task is: the first group, or the whole match. A `task` in the line itself is
            taken as it is.
        max_line_bytes: Longer lines, and longer documents of many lines, are bad.

    Raises:
        RecordingError: Where there is no file, or one cannot be read or is empty.
    """
    if not paths:
        raise RecordingError("no files; expected one or more")
    options = ReadingOptions(
        skip_bad=skip_bad, answer=answer, group_by=group_by, task_pattern=task_pattern, max_line_bytes=max_line_bytes
    )
    files = [Path(path) for path in paths]
    twice = [path for path, count in Counter(path.absolute() for path in files).items() if count > 1]
    if twice:
        raise RecordingError(f"{twice[0]} is named twice: its candidates would count twice")
    return Recordings(files, options)


class Recordings:
    """Tasks with their candidates, in the order of their first lines; may be iterated over again and again."""

    def __init__(self, paths: Sequence[Path], options: ReadingOptions) -> None:
        self._paths = paths
        self._options = options
        self._index: Index = index_of(paths, options)
        self._bad = dict(self._index.bad)

    def __len__(self) -> int:
        """How many tasks the files name; one whose lines all prove bad is not iterated over."""
        return len(self._index.tasks)

    @property
    def bad_lines(self) -> tuple[BadLine, ...]:
        """Lines that could not be read, in order; complete after an iteration."""
        return tuple(bad for _, bad in sorted(self._bad.items()))

    def __iter__(self) -> Iterator[tuple[Recorded, ...]]:
        """The candidates of each task, in the order of their lines.

        Raises:
            RecordingError: On bad lines, unless they are skipped: at the end or after the first 20. No task is given
                once one was found.
        """
        self._bad = dict(self._index.bad)
        with _Files(self._paths) as files:
            for task, places in self._index.tasks.items():
                found: list[Recorded] = []
                for place in places:
                    if self._enough_bad:
                        break
                    found += self._candidates(task, place, files)
                if found and (self._options.skip_bad or not self._bad):
                    yield tuple(
                        replace(candidate, rollout=replace(candidate.rollout, index=index))
                        for index, candidate in enumerate(found)
                    )
        if self._bad and not self._options.skip_bad:
            raise _bad_lines_error(self.bad_lines)

    @property
    def _enough_bad(self) -> bool:
        return not self._options.skip_bad and len(self._bad) >= MOST_LISTED

    def _candidates(self, task: str, place: Place, files: _Files) -> list[Recorded]:
        source = f"{self._paths[place.file]}:{place.line}"
        where = source if place.item is None else f"{source}[{place.item}]"
        data = files.read(place)
        try:
            rollouts = read_candidates(data, place.shape, where, self._options.answer)
            rewards = _rewards(place.reward, len(rollouts))
        except UNREADABLE as error:
            reason = reason_of(error, data)
            if place.item is not None:
                reason = f"item {place.item} of an array: {reason}"
            self._bad[place.file, place.line, place.item or 0] = BadLine(source, reason)
            return []
        return [
            Recorded(task=task, rollout=rollout, reward=reward, source=source)
            for rollout, reward in zip(rollouts, rewards, strict=True)
        ]


class _Files:
    """The files, at most one of them open."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._open: tuple[int, BinaryIO] | None = None

    def __enter__(self) -> _Files:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._open:
            self._open[1].close()
            self._open = None

    def read(self, place: Place) -> bytes:
        try:
            if self._open is None or self._open[0] != place.file:
                self.__exit__()
                self._open = (place.file, self._paths[place.file].open("rb"))
            self._open[1].seek(place.offset)
            return self._open[1].read(place.length)
        except OSError as error:
            raise RecordingError(unreadable(self._paths[place.file], error)) from error


def _rewards(reward: Reward, candidates: int) -> tuple[float | None, ...]:
    if not isinstance(reward, tuple):
        return (reward,) * candidates
    if len(reward) != candidates:
        raise RecordingError(f"{len(reward)} rewards for {candidates} choices; expected one, or one for each choice")
    return reward


def _bad_lines_error(bad: Sequence[BadLine]) -> RecordingError:
    if len(bad) == 1:
        return RecordingError(f"{bad[0]} (--skip-bad goes on without this line)")
    if len(bad) < MOST_LISTED:
        many = f"{len(bad)} bad lines"
    else:
        many = f"{len(bad)} bad lines, and perhaps more"
    return RecordingError("\n".join([f"{many} (--skip-bad goes on without them):", *map(str, bad)]))
