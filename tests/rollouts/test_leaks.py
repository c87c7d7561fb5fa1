"""What is left behind is found, by its kind."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

from entcent_agents.chat.sampling import SamplingPool
from tests.rollouts.leaks import Holdings, Memory


def kinds_since(before: Holdings) -> set[str]:
    return {line.partition(":")[0] for line in Holdings.now().left_since(before)}


def test_nothing_is_left_where_nothing_happened():
    assert Holdings.now().left_since(Holdings.now()) == []


def test_a_thread_is_found_and_one_that_may_stay_is_not():
    before, over = Holdings.now(), threading.Event()
    stays, leaks = (threading.Thread(target=over.wait, name=name) for name in ("entcent-forks_0", "a-tool"))
    stays.start()
    assert kinds_since(before) == set()
    leaks.start()
    assert kinds_since(before) == {"leftover thread"}
    over.set()
    for thread in (stays, leaks):
        thread.join()
    assert kinds_since(before) == set()


def test_an_open_file_is_found(tmp_path: Path):
    before = Holdings.now()
    with (tmp_path / "file").open("w"):
        assert kinds_since(before) == {"leftover open file"}
    assert kinds_since(before) == set()


def test_a_process_is_found():
    before = Holdings.now()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert "leftover process" in kinds_since(before)
    child.communicate(b"\n")
    assert kinds_since(before) == set()


def test_objects_of_this_library_are_counted_and_no_others():
    before = Memory.now(1)
    others = [Holdings.now() for _ in range(3)]
    assert Memory.now(2).objects == before.objects
    ours = [SamplingPool() for _ in range(100)]
    assert Memory.now(3).objects >= before.objects + len(ours)
    assert others
