"""`python -m evals list`, `install` and `self-test`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from evals.suites import registry
from evals.suites.registry import ENTRIES


def evals(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "evals", *arguments], capture_output=True, text=True, check=False)


def test_list_says_what_is_here() -> None:
    done = evals("list", "--json")
    assert done.returncode == 0, done.stderr
    listed = {entry["name"]: entry["installed"] for entry in json.loads(done.stdout)}
    assert list(listed) == ["bfcl", "agentdojo", "textarena", "reasoning_gym", "jsonl"]
    assert listed == {name: entry.missing is None for name, entry in ENTRIES.items()}


def test_self_test_of_a_folder_says_what_is_wrong_by_its_exit_code(tmp_path: Path) -> None:
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text('{"id": "a", "prompt": "?", "answer": "4"}\n')
    assert evals("self-test", f"jsonl:{tmp_path}").returncode == 0
    tasks.write_text('{"id": "a", "prompt": "?", "pattern": ".*"}\n')
    done = evals("self-test", f"jsonl:{tmp_path}")
    assert (done.returncode, done.stderr) == (1, "a: doing nothing passes\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("list", "nix"), "no suite 'nix': there are bfcl"),
        (("install", "nix"), "no suite 'nix'"),
        (("self-test", "jsonl"), "jsonl:FOLDER"),
        (("self-test", "jsonl:/nowhere"), "/nowhere/tasks.jsonl cannot be read"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_2(arguments: tuple[str, ...], said: str) -> None:
    done = evals(*arguments)
    assert done.returncode == 2
    assert said in done.stderr and done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1


def test_a_suite_that_is_not_installed_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = registry.Entry(name="ghost", about="", licence="", modules=("ghost_of_a_package",))
    monkeypatch.setitem(ENTRIES, "ghost", entry)
    with pytest.raises(registry.SuiteMissingError, match="run  python -m evals install ghost"):
        registry.load_suite("ghost")


def test_an_install_that_fails_says_what_pip_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from evals.cli.suites import install_suite
    from evals.errors import SuiteInstallError

    absent = str(tmp_path / "ghost-1.0-py3-none-any.whl")
    entry = registry.Entry(name="ghost", about="", licence="", modules=("ghost",), pip=("--no-deps", absent))
    monkeypatch.setitem(ENTRIES, "ghost", entry)
    with pytest.raises(SuiteInstallError, match="failed"):
        install_suite("ghost")
