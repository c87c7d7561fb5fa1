"""Commands that the pages show are there: programs, their subcommands and options, modules, make targets, extras."""

from __future__ import annotations

import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from entcent_agents.cli.app import app as entcent
from evals.cli.app import app as evals
from tests.pages import ROOT, blocks, inline_code

EXTRAS = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
PROGRAMS = {"entcent": get_command(entcent), "evals": get_command(evals)}


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command of a script, without what is around it."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words:
            end = next((i for i, word in enumerate(words) if word in ("&&", "|", ">", ">>", ";")), len(words))
            yield words[:end]
            words = [] if words[end : end + 1] in (["&gt;"], [">"], [">>"]) else words[end + 1 :]


def fault(words: list[str], *, whole: bool = True) -> str | None:
    """What is wrong with a command; None if it could be run here.

    Args:
        words: The command.
        whole: Whether its options have their values, as in a script; in a sentence they need not.
    """
    program, *rest = words
    program = Path(program).name
    if program == "python":
        if rest[:1] != ["-m"]:
            return "python is shown with -m alone"
        program, rest = rest[1], rest[2:]
        if program not in PROGRAMS:
            return None if find_spec(program) else f"no module {program}"
    if program in PROGRAMS:
        return _misread(PROGRAMS[program], rest, whole)
    if program == "make":
        return next((f"no target {target}" for target in rest if target not in TARGETS), None)
    if program == "pip":
        asked = re.findall(r"(?:^|\s)(?:entcent-agents|\.)\[([^\]]*)\]", " ".join(rest))
        return next((f"no extra {extra}" for each in asked for extra in each.split(",") if extra not in EXTRAS), None)
    if program == "export" or Path(sys.executable).with_name(program).exists():
        return None
    return f"no program {program}"


def _misread(command: Any, words: list[str], whole: bool) -> str | None:
    """What the program's own parser says of the words."""
    while getattr(command, "commands", None) and words and not words[0].startswith("-"):
        if words[0] not in command.commands:
            return f"no command {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    try:
        given, _, _ = command.make_parser(command.context_class(command)).parse_args([*words])
    except Exception as error:  # of click, or of the one that comes with typer
        return str(error) if whole or "requires" not in str(error) else None
    missing = [each.name for each in command.params if each.required and given.get(each.name) in (None, ())]
    return f"no {missing[0]}" if missing and whole else None


@pytest.mark.parametrize("block", blocks("bash"), ids=str)
def test_commands_of_a_script_could_be_run(block):
    shown = list(commands(block.text))
    assert shown
    assert {shlex.join(words): said for words in shown if (said := fault(words))} == {}


def test_commands_in_sentences_are_there():
    shown = {
        code: fault(shlex.split(code), whole=False)
        for _, code in inline_code()
        if re.match(r"(entcent|make|python -m) [a-z]", code)
    }
    assert len(shown) > 30
    assert {code: said for code, said in shown.items() if said} == {}


@pytest.mark.parametrize(
    "command",
    [
        "entcent fly",
        "entcent run x --wings 2",
        "entcent models pull",
        "python -m evals run bfcl --nothing",
        "python -m benchmarks.nothing",
        "make coffee",
        "pip install 'entcent-agents[wings]'",
        "no-such-program",
    ],
)
def test_a_command_that_is_not_there_is_found(command: str):
    assert fault(shlex.split(command))
