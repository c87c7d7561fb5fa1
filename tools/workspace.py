"""Tools on a directory of files: list, read, search, write."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from langchain_core.tools import BaseTool, StructuredTool

from entcent_agents.effects import READ, WRITE, Effect, declare
from entcent_agents.environments import DirectoryFork, current_environment
from entcent_agents.errors import ConfigurationError, PathEscapeError

ENVIRONMENT = "workspace"
LISTED_FILES = 200
READ_CHARACTERS = 20_000
WRITTEN_CHARACTERS = 200_000
HITS = 50
_SEARCHED_BYTES = 1_000_000
_LINE_CHARACTERS = 300


def workspace_tools() -> list[BaseTool]:
    """The tools `list_files`, `read_file`, `search_files` and `write_file`, on the rollout's fork of "workspace".

    What is wrong with an argument comes back as text that starts with "Error:"; what is wrong with the environment is
    raised.
    """
    return [
        _tool(list_files, READ),
        _tool(read_file, READ),
        _tool(search_files, READ),
        _tool(write_file, WRITE),
    ]


def list_files(path: str = ".") -> str:
    """List the files of the workspace below a directory, with their sizes.

    Args:
        path: Directory, relative to the workspace.
    """
    fork = _fork()
    try:
        folder = fork.resolve(path)
    except PathEscapeError as error:
        return f"Error: {error}"
    if not folder.is_dir():
        return f"Error: {path} is not a directory. {_hint(fork)}"
    names = [f"{_relative(fork, file)} ({_size(file)} bytes)" for file in _files(folder)]
    return _capped(names, LISTED_FILES, "files") or "(no files)"


def read_file(path: str) -> str:
    """Read a text file of the workspace, its first 20,000 characters.

    Args:
        path: File, relative to the workspace.
    """
    fork = _fork()
    try:
        with fork.resolve(path).open(encoding="utf-8") as file:
            text = file.read(READ_CHARACTERS + 1)
    except PathEscapeError as error:
        return f"Error: {error}"
    except UnicodeDecodeError:
        return f"Error: {path} is not a text file."
    except OSError as error:
        return f"Error: {path}: {error.strerror}. {_hint(fork)}"
    if len(text) > READ_CHARACTERS:
        return (
            f"{text[:READ_CHARACTERS]}\n… cut after {READ_CHARACTERS:,} characters; search_files finds what comes later"
        )
    return text or "(empty file)"


def search_files(pattern: str) -> str:
    """Search all text files of the workspace, line by line. Returns at most 50 lines as path:line: text.

    Args:
        pattern: Python regular expression.
    """
    fork = _fork()
    try:
        expression = re.compile(pattern)
    except re.error as error:
        return f"Error: {pattern!r} is not a regular expression ({error})."
    hits: list[str] = []
    for file in _files(fork.path):
        if file.is_symlink() or _size(file) > _SEARCHED_BYTES:
            continue
        for number, line in enumerate(_lines(file), start=1):
            if expression.search(line):
                hits.append(f"{_relative(fork, file)}:{number}: {line.strip()}")
                if len(hits) > HITS:
                    return "\n".join([*hits[:HITS], f"… more lines: only {HITS} are shown; narrow the pattern"])
    return "\n".join(hits) or "(no lines match)"


def write_file(path: str, content: str) -> str:
    """Write a whole text file of the workspace; it is created, with its directories, or replaced.

    Args:
        path: File, relative to the workspace.
        content: The whole new text.
    """
    if len(content) > WRITTEN_CHARACTERS:
        return f"Error: {len(content):,} characters are too many; write at most {WRITTEN_CHARACTERS:,} to one file."
    fork = _fork()
    try:
        file = fork.resolve(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, encoding="utf-8")
    except PathEscapeError as error:
        return f"Error: {error}"
    except UnicodeEncodeError:
        return "Error: the content holds characters that cannot be written as UTF-8."
    except OSError as error:
        return f"Error: {path}: {error.strerror}. {_hint(fork)}"
    return f"Wrote {len(content):,} characters to {path}."


def _tool(function: Callable[..., str], effect: Effect) -> BaseTool:
    return declare(StructuredTool.from_function(function, parse_docstring=True), effect, environment=ENVIRONMENT)


def _fork() -> DirectoryFork:
    fork = current_environment(ENVIRONMENT)
    if not isinstance(fork, DirectoryFork):
        raise ConfigurationError(f"the environment {ENVIRONMENT!r} is no directory: pass a DirectoryEnvironment")
    return fork


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
