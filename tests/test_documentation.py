"""What README and docs show is run. What they link to is looked at by the build of the site."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from importlib import import_module
from pkgutil import iter_modules
from textwrap import dedent, indent

import pytest

import entcent_agents
from entcent_agents.chat.store import ModelStore
from entcent_agents.signals import SIGNALS
from tests.forks import forked, run_text
from tests.pages import ELSEWHERE, ROOT, Block, block_with, blocks

HERE = [block for block in blocks("python") if not any(words in block.text for words in ELSEWHERE)]
EMBEDDED = [block for block in HERE if "open_embedded(" in block.text]
OFFLINE = [block for block in HERE if block not in EMBEDDED]
README = next(block for block in OFFLINE if block.page == "README.md")


@pytest.mark.parametrize("block", OFFLINE, ids=str)
def test_a_python_block_runs_on_its_own(block: Block):
    ran = forked(run_text, block.text, folder=ROOT)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.real
@pytest.mark.timeout(300)
@pytest.mark.parametrize("block", EMBEDDED, ids=str)
def test_a_python_block_runs_on_the_embedded_model(block: Block):
    ModelStore().pull("smollm2-135m")
    ran = forked(run_text, block.text, folder=ROOT)
    assert ran.returncode == 0, ran.stderr


def test_the_first_one_runs_with_nothing_loaded_before_it():
    command = [sys.executable, "-W", "error", "-c", README.text]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.slow
@pytest.mark.parametrize("block", HERE, ids=str)
def test_each_runs_with_nothing_loaded_before_it(block: Block):
    command = [sys.executable, "-W", "error", "-c", block.text]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_there_are_blocks_to_run():
    assert len(OFFLINE) > 40 and len(EMBEDDED) > 3
    for words in ELSEWHERE:
        assert block_with(words)


def test_every_module_that_says_what_it_offers_has_a_page_in_the_reference():
    """The page itself is made from `__all__`: nothing that is in it can be left out."""
    modules = [import_module(f"entcent_agents.{module.name}") for module in iter_modules(entcent_agents.__path__)]
    pages = {path.stem for path in (ROOT / "docs" / "reference").glob("entcent_agents*.md")}
    assert {module.__name__ for module in (entcent_agents, *modules) if hasattr(module, "__all__")} <= pages


def test_the_signals_that_a_selector_takes_are_all_listed_by_what_is_best():
    page = (ROOT / "docs" / "selectors.md").read_text()
    for best in ("lowest", "highest"):
        (row,) = re.findall(rf"^\| the {best} \| (.+) \|$", page, re.MULTILINE)
        assert sorted(re.findall("`([^`]+)`", row)) == sorted(
            name for name, signal in SIGNALS.items() if signal.best == best
        )


def test_the_layers_shown_are_those_that_imports_are_held_to():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = (each["layers"] for each in contracts if "containers" in each)
    (shown,) = (
        block.text for block in blocks("") if block.page == "docs/architecture.md" and "blocking : err" in block.text
    )
    assert [line.partition("  ")[0] for line in shown.strip().splitlines()] == layers


def test_no_python_hides_from_being_run_in_another_kind_of_block():
    others = [block for block in blocks() if block.language in ("", "text", "pycon", "py", "python3")]
    assert [str(block) for block in others if _is_python(block.text)] == []
    assert {block.language for block in blocks()} <= {
        "",
        "text",
        "python",
        "bash",
        "json",
        "toml",
        "{toctree}",
        "{eval-rst}",
    }


@pytest.mark.parametrize(
    "text",
    [
        "from entcent_agents import First\n",
        "result = graph.invoke({…})\n",
        "answer = await graph.ainvoke(inputs)\nprint(answer)\n",
        "async with mcp_tools(servers) as tools:\n    ...\n",
        "rollouts = ParallelRollouts(\n    agent,\n    n=8,\n)\n",
        "    builder.add_node('rollouts', rollouts)  # both\n",
    ],
)
def test_python_is_known_when_it_hides(text: str):
    assert _is_python(text)


@pytest.mark.parametrize(
    "text", ["C = Σ m_n · s_n / L\n", "one ──► two\n", "entcent_agents/\n  errors.py\n", "blocking : errors\n"]
)
def test_drawings_and_formulas_are_not_taken_for_python(text: str):
    assert not _is_python(text)


def _is_python(text: str) -> bool:
    """Whether it would be Python that does something: an import, a definition, an assignment or a call."""
    code = re.sub(r"…|\.\.\.", "...", dedent(text))
    code = re.sub(r"\{\.\.\.\}", "{}", code)
    try:
        tree = ast.parse("async def block():\n" + indent(code, "    "))
    except SyntaxError:
        return False
    doing = (ast.Import, ast.ImportFrom, ast.Assign, ast.Call, ast.With, ast.AsyncWith, ast.ClassDef)
    return any(isinstance(node, doing) for node in ast.walk(tree))
