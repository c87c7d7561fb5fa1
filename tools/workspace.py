"""Tools on a directory of files: list, read, search, write, edit, delete."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import regex
from langchain_core.tools import BaseTool

from entcent_agents.effects import READ, WRITE
from entcent_agents.environments import DirectoryEnvironment, DirectoryFork
from entcent_agents.errors import PathEscapeError
from tools.binding import Function, bound_tools, fork_of

ENVIRONMENT = "workspace"
LISTED_FILES = 200
READ_CHARACTERS = 20_000
WRITTEN_CHARACTERS = 200_000
HITS = 50
SEARCH_SECONDS = 5.0
_SEARCHED_BYTES = 1_000_000
_LINE_CHARACTERS = 300


def workspace_tools(environment: DirectoryEnvironment | None = None) -> list[BaseTool]:
    """The tools `list_files`, `read_file`, `search_files`, `write_file`, `edit_file` and `delete_file`.

    They act on the rollout's fork of the environment "workspace". What is wrong with an argument comes back as text
    that starts with "Error:", so that the model can mend it; what is wrong with the environment is raised.

    Args:
        environment: The directory, for an agent that runs alone: see `bound_tools`.
    """
    reading = dict.fromkeys((list_files, read_file, search_files), READ)
    writing = dict.fromkeys((write_file, edit_file, delete_file), WRITE)
    return bound_tools(reading | writing, ENVIRONMENT, environment)


def _mendable(function: Function) -> Function:
    """The function; what a model can mend is said to it."""

    @functools.wraps(function)
    def call(path: str = ".", *args: object, **kwargs: object) -> str:
        try:
            return function(path, *args, **kwargs)
        except PathEscapeError as error:
            return f"Error: {error}"
        except UnicodeDecodeError:
            return f"Error: {path} is not a text file."
        except OSError as error:
            return f"Error: {path}: {error.strerror}. {_hint(_fork())}"

    return call


@_mendable
def list_files(path: str = ".") -> str:
    """List the files of the workspace below a directory, with their sizes.

    Args:
        path: Directory, relative to the workspace.
    """
    fork = _fork()
    folder = fork.resolve(path)
    if not folder.is_dir():
        return f"Error: {path} is not a directory. {_hint(fork)}"
    names = [f"{_relative(fork, file)} ({_size(file)} bytes)" for file in _files(folder)]
    return _capped(names, LISTED_FILES, "files") or "(no files)"


@_mendable
def read_file(path: str, first_line: int = 1) -> str:
    """Read a text file of the workspace, 20,000 characters at a time.

    Args:
        path: File, relative to the workspace.
        first_line: Number of the line to begin at.
    """
    with _fork().resolve(path).open(encoding="utf-8") as file:
        before = sum(1 for _ in islice(file, max(0, first_line - 1)))
        text = file.read(READ_CHARACTERS + 1)
    if not text:
        return f"Error: {path} has {before} lines." if first_line > 1 else "(empty file)"
    if len(text) <= READ_CHARACTERS:
        return text
    lines, newline, _ = text.rpartition("\n")
    if not newline:
        return f"{text[:READ_CHARACTERS]}\n… cut: line {before + 1} is longer than {READ_CHARACTERS:,} characters"
    return f"{lines}\n… cut: go on with first_line={before + lines.count(newline) + 2}"


def search_files(pattern: str) -> str:
    """Search all text files of the workspace, line by line. Returns at most 50 lines as path:line: text.

    Args:
        pattern: Python regular expression.
    """
    try:
        return _found(regex.compile(pattern))
    except regex.error as error:
        return f"Error: {pattern!r} is not a regular expression ({error})."
    except TimeoutError:
        return f"Error: stopped after {SEARCH_SECONDS:g} seconds; write a simpler pattern, without repeats in repeats."


def _found(expression: regex.Pattern[str]) -> str:
    """The lines that match.

    Raises:
        TimeoutError: It takes too long: some patterns take ages on a single line.
    """
    fork, until = _fork(), time.monotonic() + SEARCH_SECONDS
    hits: list[str] = []
    for file in _files(fork.path):
        if file.is_symlink() or _size(file) > _SEARCHED_BYTES:
            continue
        for number, line in enumerate(_lines(file), start=1):
            left = max(until - time.monotonic(), 0.001)
            if expression.search(line, concurrent=True, timeout=left):  # other threads go on
                hits.append(f"{_relative(fork, file)}:{number}: {line.strip()}")
                if len(hits) > HITS:
                    return "\n".join([*hits[:HITS], f"… more lines: only {HITS} are shown; narrow the pattern"])
    return "\n".join(hits) or "(no lines match)"


@_mendable
def write_file(path: str, content: str) -> str:
    """Write a whole text file of the workspace; it is created, with its directories, or replaced.

    Args:
        path: File, relative to the workspace.
        content: The whole new text.
    """
    if len(content) > WRITTEN_CHARACTERS:
        return f"Error: {len(content):,} characters are too many; write at most {WRITTEN_CHARACTERS:,} to one file."
    file = _fork().resolve(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content, encoding="utf-8")
    return f"Wrote {len(content):,} characters to {path}."


@_mendable
def edit_file(path: str, old: str, new: str) -> str:
    """Replace one piece of a text file of the workspace.

    Args:
        path: File, relative to the workspace.
        old: The piece as it is now, spaces and line breaks included. It must be in the file exactly once.
        new: What takes its place.
    """
    file = _fork().resolve(path)
    text = file.read_bytes().decode()
    if "\r\n" in text:  # read_file shows its lines without
        old, new = (piece.replace("\r\n", "\n").replace("\n", "\r\n") for piece in (old, new))
    found = text.count(old) if old else 0
    if found != 1:
        advice = "copy it from read_file" if not found else "give more of the lines around it"
        return f"Error: {path} has this piece {found} times, and it must be once: {advice}."
    file.write_bytes(text.replace(old, new).encode())
    return f"Edited {path}, line {text[: text.index(old)].count(chr(10)) + 1}."


@_mendable
def delete_file(path: str) -> str:
    """Delete a file of the workspace.

    Args:
        path: File, relative to the workspace.
    """
    _fork().resolve(path).unlink()
    return f"Deleted {path}."


def _fork() -> DirectoryFork:
    return fork_of(ENVIRONMENT, DirectoryFork)


def _files(folder: Path) -> Iterator[Path]:
    """Files below a directory, in order; links to directories are not followed."""
    for parent, folders, names in os.walk(folder):
        folders.sort()
        yield from (Path(parent, name) for name in sorted(names))


def _lines(file: Path) -> list[str]:
    try:
        return [line[:_LINE_CHARACTERS] for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError):
        return []


def _size(file: Path) -> int:
    return file.lstat().st_size


def _relative(fork: DirectoryFork, file: Path) -> str:
    return file.relative_to(fork.path).as_posix()


def _hint(fork: DirectoryFork) -> str:
    names = [_relative(fork, file) for _, file in zip(range(20), _files(fork.path), strict=False)]
    return f"The files are: {', '.join(names)}." if names else "The workspace has no files yet."


def _capped(lines: list[str], limit: int, noun: str) -> str:
    more = len(lines) - limit
    return "\n".join([*lines[:limit], f"… {more} more {noun}; list a directory"] if more > 0 else lines)
