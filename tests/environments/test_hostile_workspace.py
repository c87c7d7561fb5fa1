"""Workspaces that somebody prepared, or a tool left: they end in clear errors, and nothing outside them is touched."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import stat
import tempfile
import threading
import tracemalloc
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from entcent_agents.environments import DirectoryEnvironment, DirectoryFork, commit, tree
from entcent_agents.errors import EnvironmentUnusableError, PathEscapeError

NOBODY = 65534
FILES = 100_000


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A file that stands for those of the system."""
    path = tmp_path / "outside"
    path.write_text("theirs")
    path.chmod(0o644)
    return path


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "a.txt").write_text("old")
    return folder


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_device(path: Path) -> None:
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 5))  # endless zeros
    except PermissionError:
        pytest.skip("devices are made by the superuser alone")


def a_socket(path: Path) -> None:
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as server:
        server.bind(str(path))


def leftovers(workspace: Path) -> list[Path]:
    return list(workspace.parent.glob(".entcent-*"))


def refused(fork: DirectoryFork, message: str) -> None:
    """A fork that holds what cannot be committed says so at every turn, and goes without a trace."""
    real = fork.environment.path
    for action in (fork.diff, fork.fork, lambda: commit([fork])):
        with pytest.raises(EnvironmentUnusableError, match=message):
            action()
    assert (real / "a.txt").read_text() == "old"
    fork.discard()
    assert not leftovers(real)


@contextlib.contextmanager
def as_nobody() -> Generator[Path, None, None]:
    """Without the superuser's eyes, which see everything; with a folder that anybody can use."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        if os.geteuid():
            yield Path(folder)
            return
        os.seteuid(NOBODY)
        try:
            yield Path(folder)
        finally:
            os.seteuid(0)


@pytest.mark.parametrize("make", [a_pipe, a_device, a_socket])
def test_what_is_no_file_is_refused_before_it_is_opened(workspace: Path, make: Callable[[Path], None]) -> None:
    make(workspace / "strange")
    with pytest.raises(EnvironmentUnusableError, match="strange is neither a file, a directory nor a link: move it"):
        DirectoryEnvironment(workspace).fork()
    assert not leftovers(workspace)


@pytest.mark.parametrize("make", [a_pipe, a_device, a_socket])
def test_what_a_tool_made_that_is_no_file_is_not_committed(
    workspace: Path, make: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    fork = DirectoryEnvironment(workspace).fork()
    fork.resolve("a.txt").write_text("new")
    monkeypatch.chdir(fork.path)  # the name of a socket may not be long
    make(Path("strange"))
    refused(fork, "strange is neither a file")


@pytest.mark.parametrize("appears", ["pipe", "link"])
def test_a_file_that_becomes_something_else_under_the_copy_is_neither_waited_for_nor_followed(
    workspace: Path, outside: Path, monkeypatch: pytest.MonkeyPatch, appears: str
) -> None:
    environment = DirectoryEnvironment(workspace)
    copy_file = tree._copy_file  # pyright: ignore[reportPrivateUsage]
    copied: list[Path] = []

    def change_and_copy(source: str, target: str) -> None:
        copied.append(Path(target))
        Path(source).unlink()
        os.mkfifo(source) if appears == "pipe" else Path(source).symlink_to(outside)
        copy_file(source, target)
        assert copied[-1].is_symlink()

    monkeypatch.setattr(tree, "_copy_file", change_and_copy)
    if appears == "pipe":
        with pytest.raises(EnvironmentUnusableError, match="neither a file"):
            environment.fork()
        assert not leftovers(workspace)
    else:
        assert (environment.fork().path / "a.txt").readlink() == outside
    assert copied


def test_links_to_the_system_stay_links_and_nothing_behind_them_is_read_or_written(
    workspace: Path, outside: Path
) -> None:
    (workspace / "secret").symlink_to(outside)
    (workspace / "etc").symlink_to("/etc")
    environment = DirectoryEnvironment(workspace)
    fork = environment.fork()
    for path in ("secret", "etc/passwd", "etc"):
        with pytest.raises(PathEscapeError, match="leads through a link out of the workspace"):
            fork.resolve(path)
    fork.resolve("a.txt").write_text("new")
    (fork.path / "secret").unlink()
    (fork.path / "other").symlink_to(outside)
    texts = {change.subject: change.text for change in fork.diff()}
    assert texts["other"] == f"+link {outside}"
    assert "theirs" not in "".join(texts.values())
    commit([fork])
    assert (workspace / "other").readlink() == outside
    assert outside.read_text() == "theirs"
    assert stat.S_IMODE(outside.stat().st_mode) == 0o644
    environment.fork().discard()
    assert outside.read_text() == "theirs"


def test_discarding_follows_no_link(workspace: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    (theirs / "deep").mkdir(parents=True)
    (theirs / "deep" / "file").touch()
    theirs.chmod(0o555)
    fork = DirectoryEnvironment(workspace).fork()
    (fork.path / "sub").mkdir()
    (fork.path / "link").symlink_to(theirs)
    (fork.path / "sub" / "link").symlink_to(theirs / "deep")
    fork.discard()
    assert (theirs / "deep" / "file").exists()
    assert stat.S_IMODE(theirs.stat().st_mode) == 0o555
    assert not leftovers(workspace)


def test_a_second_name_of_a_system_file_becomes_a_file_of_its_own(workspace: Path, outside: Path) -> None:
    os.link(outside, workspace / "same")
    fork = DirectoryEnvironment(workspace).fork()
    fork.resolve("same").write_text("ours")
    assert outside.read_text() == "theirs"
    commit([fork])
    assert (workspace / "same").read_text() == "ours"
    assert outside.read_text() == "theirs"


@pytest.mark.parametrize("what", ["file", "directory"])
def test_what_cannot_be_read_is_named(what: str) -> None:
    with as_nobody() as folder:
        workspace = folder / "files"
        workspace.mkdir()
        (workspace / "a.txt").write_text("old")
        environment = DirectoryEnvironment(workspace)
        fork = environment.fork()
        hidden = fork.resolve("hidden")
        hidden.write_text("x") if what == "file" else hidden.mkdir()
        hidden.chmod(0)
        for action in (fork.diff, fork.fork):
            with pytest.raises(
                EnvironmentUnusableError, match=r"hidden cannot be read: make|cannot be copied \(.*denied: .*hidden"
            ):
                action()
        fork.discard()
        hidden = workspace / "hidden"
        hidden.write_text("x") if what == "file" else hidden.mkdir()
        hidden.chmod(0)
        with pytest.raises(EnvironmentUnusableError, match=r"hidden cannot be read: make|\(.*denied: .*hidden"):
            environment.fork()
        hidden.chmod(0o700)
        assert not leftovers(workspace)


NAMES = ["new\nline", "\x1b[31mred", "-rf", "a b", "é", os.fsdecode(b"\xff\xfe"), "'\"`$(id)", "x" * 255]


def test_names_of_every_kind_survive_and_are_shown_in_one_valid_line(workspace: Path) -> None:
    for name in NAMES:
        (workspace / f"{name[:250]}").write_text("old\n")
    fork = DirectoryEnvironment(workspace).fork()
    for name in NAMES:
        (fork.path / name[:250]).write_text("new\n")
    (fork.path / "link").symlink_to("to\n+++ b/a.txt")
    changes = fork.diff()
    assert len(changes) == len(NAMES) + 1
    for change in changes:
        assert change.subject.isprintable()
        assert "\n+++ b/a.txt" not in change.text
        json.dumps([change.subject, change.text], ensure_ascii=False).encode()
    fork.keep()
    commit([DirectoryEnvironment(workspace).reopen(fork.reference)])
    assert {path.name for path in workspace.iterdir()} == {"a.txt", "link", *(name[:250] for name in NAMES)}
    assert all((workspace / name[:250]).read_text() == "new\n" for name in NAMES)


def test_a_file_larger_than_memory_is_shown_by_its_size(workspace: Path) -> None:
    (workspace / "large").touch()
    os.truncate(workspace / "large", 64 << 20)
    fork, same = DirectoryEnvironment(workspace).fork(), DirectoryEnvironment(workspace).fork()
    for copy in (fork, same):
        with (copy.path / "large").open("r+b") as file:
            file.seek(63 << 20)
            file.write(b"x" if copy is fork else b"\0")
    tracemalloc.start()
    try:
        changes = fork.diff()
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    assert [change.text for change in changes] == ["(large file: 67,108,864 bytes → 67,108,864 bytes)"]
    assert same.diff() == ()  # written again with what was in it


@pytest.mark.parametrize("depth", [250, 900, 3000])
def test_directories_that_are_too_deep_are_refused_and_can_be_removed(workspace: Path, depth: int) -> None:
    fork = DirectoryEnvironment(workspace).fork()
    here = os.getcwd()  # noqa: PTH109
    try:
        os.chdir(fork.path)
        for _ in range(depth):
            os.mkdir("d")  # noqa: PTH102
            os.chdir("d")
    finally:
        os.chdir(here)
    refused(fork, "more than 200 directories in one another")


def test_directories_of_the_greatest_depth_can_be_committed_and_forked_again(workspace: Path) -> None:
    environment = DirectoryEnvironment(workspace)
    fork = environment.fork()
    deep = fork.path.joinpath(*["d"] * (tree.DEEPEST - 1))
    deep.mkdir(parents=True)
    (deep / "file").touch()
    commit([fork])
    again = environment.fork()
    assert again.fork().diff() == ()


def test_a_name_that_is_too_long_for_a_path_is_refused(workspace: Path) -> None:
    fork = DirectoryEnvironment(workspace).fork()
    here = os.getcwd()  # noqa: PTH109
    try:
        os.chdir(fork.path)
        for _ in range(20):
            os.mkdir("d" * 255)  # noqa: PTH102
            os.chdir("d" * 255)
    finally:
        os.chdir(here)
    refused(fork, r"cannot be read \(File name too long\)")


def test_a_fork_can_be_removed_while_a_tool_goes_on_removing(workspace: Path) -> None:
    fork = DirectoryEnvironment(workspace).fork()
    for number in range(2000):
        (fork.path / str(number)).touch()

    def tool() -> None:
        for number in reversed(range(2000)):
            (fork.path / str(number)).unlink(missing_ok=True)

    thread = threading.Thread(target=tool)
    thread.start()
    fork.discard()
    thread.join()
    assert not leftovers(workspace)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_hundred_thousand_files_are_forked_changed_shown_and_committed(tmp_path: Path) -> None:
    workspace = tmp_path / "files"
    workspace.mkdir()
    for number in range(FILES):
        (workspace / str(number)).touch()
    environment = DirectoryEnvironment(workspace)
    fork, loser = environment.fork(), environment.fork()
    fork.resolve("7").write_text("x")
    shutil.rmtree(loser.path)
    loser.path.mkdir()
    for number in range(FILES):
        (loser.path / f"new{number}").touch()
    assert len(fork.diff()) == 1
    assert len(loser.diff()) == 2 * FILES
    commit([fork])
    loser.discard()
    assert (workspace / "7").read_text() == "x"
    assert len(list(workspace.iterdir())) == FILES
    assert not leftovers(workspace)
