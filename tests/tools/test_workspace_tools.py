from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from langchain_core.tools import BaseTool

from entcent_agents.environments import DirectoryEnvironment, DirectoryFork, use_environments
from entcent_agents.errors import ConfigurationError, EnvironmentFault
from tools import workspace
from tools.workspace import workspace_tools

TOOLS: dict[str, BaseTool] = {tool.name: tool for tool in workspace_tools()}


@pytest.fixture
def fork(tmp_path: Path) -> Iterator[DirectoryFork]:
    folder = tmp_path / "project"
    (folder / "src").mkdir(parents=True)
    (folder / "README.md").write_text("# Title\nsome text\n")
    (folder / "src" / "main.py").write_text("def main():\n    return 1\n")
    (folder / "blob.bin").write_bytes(b"\xff\xfe\x00def")
    (folder / "out").symlink_to("/etc")
    made = DirectoryEnvironment(folder).fork()
    with use_environments({"workspace": made}):
        yield made
    made.discard()


def call(name: str, **arguments: str | int) -> str:
    return TOOLS[name].invoke(arguments)


def test_effects_are_declared_in_metadata() -> None:
    effects = {name: (tool.metadata or {})["effect"] for name, tool in TOOLS.items()}
    assert effects == {
        **dict.fromkeys(("list_files", "read_file", "search_files"), "READ"),
        **dict.fromkeys(("write_file", "edit_file", "delete_file"), "WRITE"),
    }
    assert {(tool.metadata or {})["environment"] for tool in TOOLS.values()} == {"workspace"}


def test_list_files_shows_sizes_below_a_directory(fork: DirectoryFork) -> None:
    assert "README.md (18 bytes)" in call("list_files").splitlines()
    assert call("list_files", path="src") == "src/main.py (25 bytes)"
    assert call("list_files", path="nowhere").startswith("Error: nowhere is not a directory. The files are: ")
    for number in range(250):
        (fork.path / "src" / f"{number}.txt").touch()
    assert call("list_files", path="src").splitlines()[-1] == "… 51 more files; list a directory"


def test_read_file_reads_and_says_where_it_stops(fork: DirectoryFork) -> None:
    assert call("read_file", path="src/main.py") == "def main():\n    return 1\n"
    assert call("read_file", path="blob.bin") == "Error: blob.bin is not a text file."
    assert call("read_file", path="none.txt").startswith("Error: none.txt: No such file or directory. The files are: ")
    (fork.path / "wide.txt").write_text("x" * 20_001)
    assert call("read_file", path="wide.txt").endswith("x\n… cut: line 1 is longer than 20,000 characters")


def test_a_long_file_is_read_piece_by_piece_without_a_gap(fork: DirectoryFork) -> None:
    lines = [f"line {number}" for number in range(1, 5001)]
    (fork.path / "long.txt").write_text("\n".join(lines))
    read: list[str] = []
    first_line = 1
    while first_line:
        text, _, rest = call("read_file", path="long.txt", first_line=first_line).partition("\n… cut: go on with ")
        read += text.split("\n")
        first_line = int(rest.removeprefix("first_line=") or 0)
    assert read == lines
    assert call("read_file", path="long.txt", first_line=5001) == "Error: long.txt has 5000 lines."


def test_search_files_finds_lines_by_expression(fork: DirectoryFork) -> None:
    assert call("search_files", pattern=r"^def \w+") == "src/main.py:1: def main():"
    assert call("search_files", pattern="zebra") == "(no lines match)"
    assert call("search_files", pattern="(").startswith("Error: '(' is not a regular expression")
    (fork.path / "many.txt").write_text("hit\n" * 60)
    lines = call("search_files", pattern="hit").splitlines()
    assert len(lines) == 51
    assert lines[-1].startswith("… more lines: only 50")


def test_a_search_that_takes_too_long_is_stopped(fork: DirectoryFork, monkeypatch: pytest.MonkeyPatch) -> None:
    (fork.path / "long.txt").write_text("a" * 300)
    monkeypatch.setattr(workspace, "SEARCH_SECONDS", 0.01)
    assert call("search_files", pattern="(.*a){30}[^a]$").startswith("Error: stopped after 0.01 seconds")
    assert call("search_files", pattern="return 1") == "src/main.py:2: return 1"


def test_halves_of_characters_come_back_as_text(fork: DirectoryFork) -> None:
    for name, arguments in (("write_file", {"path": "a", "content": "\ud800"}), ("read_file", {"path": "\ud800"})):
        assert call(name, **arguments).startswith("Error: ")


def test_write_file_changes_the_fork_alone(fork: DirectoryFork) -> None:
    assert call("write_file", path="new/deep.txt", content="hello") == "Wrote 5 characters to new/deep.txt."
    assert call("read_file", path="new/deep.txt") == "hello"
    assert not (fork.environment.path / "new").exists()
    assert call("write_file", path="src", content="x").startswith("Error: src: Is a directory")
    assert call("write_file", path="big.txt", content="x" * 200_001).startswith(
        "Error: 200,001 characters are too many"
    )


def test_edit_file_replaces_what_is_there_once(fork: DirectoryFork) -> None:
    assert call("edit_file", path="src/main.py", old="return 1", new="return 2") == "Edited src/main.py, line 2."
    assert call("read_file", path="src/main.py") == "def main():\n    return 2\n"
    assert "has this piece 0 times" in call("edit_file", path="src/main.py", old="return 1", new="")
    assert "has this piece 0 times" in call("edit_file", path="src/main.py", old="", new="x")
    assert "give more of the lines around it" in call("edit_file", path="README.md", old="t", new="T")
    assert call("edit_file", path="blob.bin", old="a", new="b") == "Error: blob.bin is not a text file."
    assert call("edit_file", path="none.py", old="a", new="b").startswith("Error: none.py: No such file")
    assert (fork.environment.path / "src" / "main.py").read_text() == "def main():\n    return 1\n"


def test_edit_file_keeps_the_line_ends_of_a_file(fork: DirectoryFork) -> None:
    (fork.path / "dos.txt").write_bytes(b"one\r\ntwo\r\nthree\r\n")
    call("edit_file", path="dos.txt", old="one\ntwo", new="1\n2")
    assert (fork.path / "dos.txt").read_bytes() == b"1\r\n2\r\nthree\r\n"


def test_delete_file_deletes_files_alone(fork: DirectoryFork) -> None:
    assert call("delete_file", path="README.md") == "Deleted README.md."
    assert call("read_file", path="README.md").startswith("Error: README.md: No such file")
    assert call("delete_file", path="src").startswith("Error: src: ")
    assert (fork.environment.path / "README.md").exists()


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "out/passwd"])
def test_escapes_come_back_as_text(fork: DirectoryFork, path: str) -> None:
    for name, arguments in (
        ("read_file", {}),
        ("list_files", {}),
        ("write_file", {"content": "x"}),
        ("delete_file", {}),
    ):
        assert call(name, path=path, **arguments).startswith(f"Error: {path} ")


def test_faults_of_the_environment_are_raised(fork: DirectoryFork) -> None:
    with use_environments({}), pytest.raises(ConfigurationError):
        call("list_files")
    fork.discard()
    with pytest.raises(EnvironmentFault, match="discarded"):
        call("read_file", path="README.md")
