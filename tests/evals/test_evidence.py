"""The committed pages of evidence are what the committed traces say, to the digit."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from evals.cli.app import app
from evals.store import TABLE

pytest.importorskip("pyarrow")
REPOSITORY = Path(__file__).parents[2]
TRACES = sorted(path.relative_to(REPOSITORY) for path in (REPOSITORY / "evals" / "traces").iterdir())
MOST_BYTES = 10_000_000


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("command", "page"), [("report", "selectors.md"), ("validity", "validity.md")])
def test_the_pages_are_what_the_traces_say(
    command: str, page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    runs = [str(run / TABLE) for run in TRACES if command == "validity" or not run.name.endswith("_rationale")]
    written = tmp_path / page
    done = CliRunner().invoke(app, [command, *runs, "--out", str(written)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    committed = REPOSITORY / "docs" / "evidence" / page
    assert written.read_text() == committed.read_text(), "make evidence writes the pages anew"


def test_traces_are_small() -> None:
    assert sum((REPOSITORY / run / TABLE).stat().st_size for run in TRACES) < MOST_BYTES
