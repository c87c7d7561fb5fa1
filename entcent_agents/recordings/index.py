"""The first pass: which tasks there are, and where in the files their candidates stand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from entcent_agents.errors import RecordingError
from entcent_agents.recordings.reasons import UNREADABLE, error_position, is_cut_off, reason_of
from entcent_agents.recordings.records import BadLine, ReadingOptions, Reward
from entcent_agents.recordings.shapes import Head, Shape, head_of, reward_of, shape_of

MOST_LISTED: Final = 20
"""Bad lines in one error message; there is no looking for more."""
HOPELESS_LINES: Final = 1000
"""A file that starts with so many bad lines holds something else."""
_BOM: Final = b"\xef\xbb\xbf"
_GZIP: Final = b"\x1f\x8b"
_CHUNK: Final = 1 << 20
_ITEMS: Final = msgspec.json.Decoder(list[msgspec.Raw])
_ANY: Final = msgspec.json.Decoder(msgspec.Raw)


@dataclass(frozen=True, slots=True)
class Place:
    """Where one JSON object stands.

    Attributes:
        file: Number of its file among those that are read.
        line: Its line, from 1.
        item: Its number in the array it is in, from 0; None where it is in none.
        offset: Its first byte in the file.
        length: Its bytes.
        shape: The shape it seems to have.
        reward: What it says of the reward.
    """

    file: int
    line: int
    item: int | None
    offset: int
    length: int
    shape: Shape
    reward: Reward


@dataclass(slots=True)
class Index:
    """What the first pass finds: places by task in the order of their first line, and bad lines by place."""

    tasks: dict[str, list[Place]] = field(default_factory=dict[str, list[Place]])
    bad: dict[tuple[int, int, int], BadLine] = field(default_factory=dict[tuple[int, int, int], BadLine])


@dataclass(frozen=True, slots=True)
class _Line:
    """A line that is not blank; `data` is None for one that is too long."""

    number: int
    offset: int
    data: bytes | None


def index_of(paths: Sequence[Path], options: ReadingOptions) -> Index:
    """Look through the files, one line at a time.

    Raises:
        RecordingError: Where a file cannot be read, or holds something else.
    """
    index = Index()
    for number, path in enumerate(paths):
        try:
            if path.exists() and not path.is_dir() and not path.is_file():
                raise RecordingError(f"{path}: a pipe or a device; expected a file, which is read twice")
            with path.open("rb") as file:
                _FileIndex(index, number, path, options).look_through(file)
        except (OSError, ValueError) as error:
            raise RecordingError(unreadable(path, error)) from error
        if len(index.bad) >= MOST_LISTED and not options.skip_bad:
            break
    return index


def unreadable(path: Path, error: Exception) -> str:
    """Why a file cannot be read."""
    if isinstance(error, IsADirectoryError):
        return f"{path}: a directory; expected files, for instance {path}/*.jsonl"
    if isinstance(error, FileNotFoundError):
        return f"{path}: no such file"
    return f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})"


class _FileIndex:
    def __init__(self, index: Index, number: int, path: Path, options: ReadingOptions) -> None:
        self._index = index
        self._number = number
        self._path = path
        self._options = options
        self._places = 0
        self._bad: list[tuple[int, int, int]] = []

    def look_through(self, file: BinaryIO) -> None:
        start = self._start(file)
        first: _Line | None = None
        for line in self._lines(file, start):
            if first is None:
                first = line
                if self._is_document(file, line):
                    return
            self._line(line)
            if self._gives_up():
                break
        if first is None:
            raise RecordingError(f"{self._path}: empty; expected recorded generations")
        if self._places == 0:
            self._nothing_found(file, first)

    def _start(self, file: BinaryIO) -> int:
        start = file.read(len(_BOM))
        if start.startswith(_GZIP):
            raise RecordingError(f"{self._path}: compressed; expected plain text: run  gunzip {self._path}")
        return len(_BOM) if start == _BOM else 0

    def _lines(self, file: BinaryIO, start: int) -> Iterator[_Line]:
        offset, number, limit = start, 0, self._options.max_line_bytes
        while True:
            file.seek(offset)
            data = file.readline(limit + 1)
            if not data:
                return
            number += 1
            length, whole = len(data), data if len(data) <= limit or data.endswith(b"\n") else None
            if whole is None:
                data = b""
                length += _rest_of_line(file)
            if whole is None or whole.strip():
                yield _Line(number, offset, whole)
            offset += length

    def _line(self, line: _Line) -> None:
        if line.data is None:
            limit = f"{self._options.max_line_bytes:,}"
            self._add_bad(line.number, 0, f"a line of more than {limit} bytes; expected one recorded generation a line")
            return
        try:
            self._text(line.data, line)
        except UNREADABLE as error:
            self._add_bad(line.number, 0, reason_of(error, line.data))

    def _is_document(self, file: BinaryIO, first: _Line) -> bool:
        """Whether the whole file is one JSON value over several lines; it is then looked through."""
        data = self._document(file, first)
        if data is None or _syntax_error(data):
            return False
        self._line(_Line(first.number, first.offset, data))
        return True

    def _document(self, file: BinaryIO, first: _Line) -> bytes | None:
        """The whole file, where its first line is the beginning of something."""
        error = None if first.data is None else _syntax_error(first.data)
        if error is None or not is_cut_off(error):
            return None
        file.seek(first.offset)
        data = file.read(self._options.max_line_bytes + 1)
        return data if len(data) <= self._options.max_line_bytes else None

    def _text(self, data: bytes, line: _Line) -> None:
        """One JSON object, or an array of them."""
        _check_encoding(data)
        if not data.lstrip().startswith(b"["):
            self._object(data, line.number, None, line.offset)
            return
        items = _ITEMS.decode(data)
        if not items:
            raise RecordingError("an empty array; expected responses")
        end, number = data.index(b"[") + 1, line.number
        number += data.count(b"\n", 0, end)
        for item, raw in enumerate(items):
            text = bytes(raw)
            offset = data.find(text, end)
            number += data.count(b"\n", end, offset)
            try:
                self._object(text, number, item, line.offset + offset)
            except UNREADABLE as error:
                self._add_bad(number, item, f"item {item} of an array: {reason_of(error, text)}")
            number += text.count(b"\n")
            end = offset + len(text)

    def _object(self, data: bytes, line: int, item: int | None, offset: int) -> None:
        head = head_of(data)
        shape = shape_of(head)
        place = Place(self._number, line, item, offset, len(data), shape, reward_of(head))
        self._index.tasks.setdefault(self._task(head, line, item), []).append(place)
        self._places += 1

    def _task(self, head: Head, line: int, item: int | None) -> str:
        if self._options.group_by == "file":
            return str(self._path)
        if head.task not in (None, ""):
            return str(head.task)
        if head.own_id is None:
            return f"{self._path}:{line}" if item is None else f"{self._path}:{line}[{item}]"
        if self._options.task_pattern is None:
            return head.own_task or head.own_id
        found = self._options.task_pattern.search(head.own_id)
        if found is None:
            pattern = self._options.task_pattern.pattern
            raise RecordingError(f"the task pattern {pattern!r} finds nothing in the id {head.own_id!r}")
        return next((group for group in found.groups() if group is not None), found[0])

    def _add_bad(self, line: int, item: int, reason: str) -> None:
        key = (self._number, line, item)
        self._index.bad[key] = BadLine(f"{self._path}:{line}", reason)
        self._bad.append(key)

    def _gives_up(self) -> bool:
        enough = not self._options.skip_bad and len(self._index.bad) >= MOST_LISTED
        return enough or (self._places == 0 and len(self._bad) >= HOPELESS_LINES)

    def _nothing_found(self, file: BinaryIO, first: _Line) -> None:
        """A file of bad lines alone: say it once where it is one broken document, or something else altogether."""
        if first.data is not None and first.data.strip() in (b"{", b"["):
            for key in self._bad:
                del self._index.bad[key]
            self._broken_document(self._document(file, first), first)
        elif len(self._bad) >= HOPELESS_LINES:
            reason = self._index.bad[self._bad[0]].reason
            raise RecordingError(f"{self._path}: its first {HOPELESS_LINES:,} lines are bad, the first one: {reason}")

    def _broken_document(self, data: bytes | None, first: _Line) -> None:
        error = None if data is None else _syntax_error(data)
        if data is None or error is None:
            limit = f"{self._options.max_line_bytes:,}"
            self._add_bad(first.number, 0, f"one JSON document of more than {limit} bytes; expected JSON Lines")
            return
        data = data.rstrip()
        line = first.number + data.count(b"\n", 0, error_position(error, data))
        many = "in a JSON document of many lines: " if b"\n" in data else ""
        self._add_bad(line, 0, many + reason_of(error, data))


def _rest_of_line(file: BinaryIO) -> int:
    """Read on to the end of a line without keeping it; its length."""
    length = 0
    while chunk := file.readline(_CHUNK):
        length += len(chunk)
        if chunk.endswith(b"\n"):
            break
    return length


def _check_encoding(data: bytes) -> None:
    if not data.isascii():
        data.decode()


def _syntax_error(data: bytes) -> Exception | None:
    try:
        _ANY.decode(data)
    except UNREADABLE as error:
        return error
    return None
