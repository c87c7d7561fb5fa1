"""Files larger than what may be in memory at once, and how fast they are read."""

from __future__ import annotations

import json
import math
import tracemalloc
from pathlib import Path

from entcent_agents.recordings import read_recordings
from tests.recordings.samples import one, written

MIB = 1 << 20
TASKS, CANDIDATES, TOKENS, TOP_K = 60, 8, 80, 20


def response() -> bytes:
    """About 130 kB of chat response; the task is to be filled in."""
    alternatives = [{"token": f" w{i}", "logprob": math.log(0.9**i / 12), "bytes": [32, 119, 48]} for i in range(TOP_K)]
    entry = {"token": " w0", "logprob": math.log(1 / 12), "bytes": [32, 119, 48], "top_logprobs": alternatives}
    line = one("chat", task="*")
    line["choices"][0]["logprobs"]["content"] = [entry] * TOKENS
    return json.dumps(line).encode()


def large_file(path: Path) -> Path:
    """Many tasks, their candidates far apart."""
    before, after = response().split(b'"*"')
    with path.open("wb") as file:
        for _ in range(CANDIDATES):
            file.writelines(b'%b"%d"%b\n' % (before, task, after) for task in range(TASKS))
    return path


def test_memory_stays_bounded_by_one_task(tmp_path):
    path = large_file(tmp_path / "f.jsonl")
    assert path.stat().st_size > 55 * MIB
    tracemalloc.start()
    try:
        seen = [
            (found[0].task, len(found), found[-1].rollout.trajectory.scored_tokens) for found in read_recordings([path])
        ]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert seen == [(str(task), CANDIDATES, TOKENS) for task in range(TASKS)]
    assert peak < 8 * MIB


def test_a_line_that_is_too_long_is_never_in_memory_whole(tmp_path):
    path = written(tmp_path / "f", one("chat"), b'{"x": "' + b"a" * 20 * MIB, one("llama"))
    tracemalloc.start()
    try:
        recordings = read_recordings([path], skip_bad=True, max_line_bytes=MIB)
        assert len(list(recordings)) == 2
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [bad.source for bad in recordings.bad_lines] == [f"{path}:2"]
    assert peak < 6 * MIB
