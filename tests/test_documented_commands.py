"""Commands that the pages show are there: programs, their subcommands and options, modules, make targets, extras."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command

from entcent_agents.cli.app import app as entcent
from evals.cli.app import app as evals
from tests.pages import ROOT, blocks, inline_code

EXTRAS = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
PROGRAMS = {"entcent": get_command(entcent), "evals": get_command(evals)}
SYSTEM = {"cd", "curl", "export", "git", "kill", "mkdir"}
REFUSAL = typer.BadParameter.__base__ or Exception  # usage errors, of click or of the one that comes with typer


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command of a script, without comments, redirections and variables set before it."""
    for line in text.replace("\\\n", " ").splitlines():
        # Only where a word could begin: an address may have a # in it.
        bare = re.sub(r"""('[^']*'|"[^"]*")|(?<!\S)#.*""", lambda found: found[1] or "", line)
        lexer = shlex.shlex(re.sub(r"\b\d>", ">", bare), posix=True, punctuation_chars=True)
        lexer.whitespace_split, lexer.commenters = True, ""
        command: list[str] = []
        words = iter([*lexer, ";"])
        for word in words:
            if word in {";", "&", "&&", "|", "||"}:
                if command:
                    yield command
                command = []
            elif set(word) <= set("<>&"):
                next(words)
            elif command or not re.match(r"\w+=", word):
                command.append(word)


def fault(words: list[str], *, whole: bool = True) -> str | None:
    """What is wrong with a command; None if it could be run here.

    Args:
        words: The command.
        whole: Whether all that it needs is given, as in a script; in a sentence it need not be.
    """
    program, *rest = words
    match Path(program).name, rest:
        case "", _:  # the shell's `.`
            return None
        case "python" | "python3", ["-m", module, *given] | ["-W", "ignore", "-m", module, *given]:
            return _unrunnable(module, given, whole)
        case "python" | "python3", _:
            return "python is shown with -m alone"
        case "make", _:
            return next((f"no target {target}" for target in rest if "=" not in target and target not in TARGETS), None)
        case "pip", _:
            asked = re.findall(r"(?:^|\s)(?:entcent-agents|\.)\[([^\]]*)\]", " ".join(rest))
            return next((f"no extra {one}" for each in asked for one in each.split(",") if one not in EXTRAS), None)
        case name, _ if name in PROGRAMS:
            return _misread(PROGRAMS[name], rest, whole)
        case name, _:
            there = name in SYSTEM or Path(sys.executable).with_name(name).exists()
            return None if there else f"no program {name}"


def _unrunnable(module: str, given: list[str], whole: bool) -> str | None:
    if module in PROGRAMS:
        return _misread(PROGRAMS[module], given, whole)
    try:
        found = find_spec(module)
    except ModuleNotFoundError:
        found = None
    if not found or not found.origin:
        return f"no module {module}"
    path = Path(found.origin)
    if module == "pip":
        return fault(["pip", *given], whole=whole)
    if not path.is_relative_to(ROOT) or ".venv" in path.parts:
        return None
    main = path.with_name("__main__.py") if found.submodule_search_locations else path
    if not main.exists() or "__main__" not in main.name + main.read_text():
        return f"{module} is not a program"
    unknown = _options(given) and _options(given) - _said_by(module)
    return f"no option {', '.join(unknown)}" if unknown else None


@cache
def _said_by(module: str) -> set[str]:
    """The options that a module's own help tells of."""
    command = [sys.executable, "-m", module, "--help"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return set(re.findall(r"(?<![\w-])--?\w[\w-]*", said.stdout + said.stderr))


def _options(words: list[str]) -> set[str]:
    return {word.partition("=")[0] for word in words if word.startswith("-")}


def _misread(command: Any, words: list[str], whole: bool) -> str | None:
    """What the program itself says of the words."""
    while getattr(command, "commands", None) and (words or whole):
        if not words or words[0] not in command.commands:
            return f"no command {' '.join(words[:1])}"
        command, words = command.commands[words[0]], words[1:]
    if not whole:
        unknown = _options(words) - {name for each in command.params for name in each.opts}
        return f"no option {', '.join(unknown)}" if unknown else None
    try:
        command.make_context(command.name, [*words])
    except REFUSAL as error:
        return str(error)
    return None


@pytest.mark.parametrize("block", blocks("bash"), ids=str)
def test_commands_of_a_script_could_be_run(block):
    shown = list(commands(block.text))
    assert shown
    assert {shlex.join(words): said for words in shown if (said := fault(words))} == {}


def test_commands_in_sentences_are_there():
    shown = {
        code: fault(words, whole=False)
        for _, code in inline_code()
        if re.match(r"(entcent|make|pip|python -m) [a-z]", code)
        for words in commands(code)
    }
    assert len(shown) > 30
    assert {code: said for code, said in shown.items() if said} == {}


@pytest.mark.parametrize(
    "command",
    [
        "entcent",
        "entcent fly",
        "entcent run",
        "entcent run x --wings 2",
        "entcent run x --consensus always",
        "entcent run x --model http://127.0.0.1/v1#m --wings 2",
        "entcent models pull",
        "entcent models pull one two",
        "python -m evals run bfcl --nothing",
        "python -m benchmarks.nothing",
        "python -m nothing.at.all",
        "python -m entcent_agents.errors",
        "python -m entcent_agents",
        "python -m tools.penguins --wings 2 penguins.db",
        "python -m pip install '.[wings]'",
        "make coffee",
        "make test; make coffee",
        "make test 2> log && make coffee",
        "pip install 'entcent-agents[wings]'",
        "no-such-program",
    ],
)
def test_a_command_that_is_not_there_is_found(command: str):
    assert any(fault(words) for words in commands(command))


def test_scripts_are_read_as_a_shell_reads_them():
    script = "A=1 make demo  # minutes\nentcent run 'x # y' \\\n  --model http://m/v1#n > out 2>&1 && make test\n"
    assert list(commands(script)) == [
        ["make", "demo"],
        ["entcent", "run", "x # y", "--model", "http://m/v1#n"],
        ["make", "test"],
    ]
