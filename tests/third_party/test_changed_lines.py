"""The table of docs/third-party-graphs.md says what the scripts show."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.third_party.pairs import FOLDER, PAIRS

PAGE = Path(__file__).parents[2] / "docs" / "third-party-graphs.md"
ROW = re.compile(r"^\| \[(\S+)\]\(\.\./tests/third_party/(\w+)/(\w+)\.py\) (\S+) \|.*\| (\d+) \|$", re.MULTILINE)
ROWS = ROW.findall(PAGE.read_text())


def test_every_script_has_its_row():
    scripts = {
        (path.parent.name, path.stem) for path in FOLDER.glob("*/with_*.py") if path.parent.name != "__pycache__"
    }
    assert {(name, script) for _, name, script, _, _ in ROWS} == scripts
    assert {name for name, _ in scripts} == set(PAIRS)


@pytest.mark.parametrize(("package", "name", "script", "tested", "lines"), ROWS)
def test_the_lines_that_change_are_as_many_as_the_page_says(
    package: str, name: str, script: str, tested: str, lines: str
):
    assert PAIRS[name].package == package
    assert PAIRS[name].changed_lines(script) == int(lines)
    assert int(lines) <= 3


@pytest.mark.parametrize(("package", "name", "script", "tested", "lines"), ROWS)
def test_the_version_is_the_tested_one_or_a_later_one(package: str, name: str, script: str, tested: str, lines: str):
    installed, said = ([int(part) for part in text.split(".")[:3]] for text in (version(package), tested))
    assert installed >= said
