"""The hand-made sample files, and how a test writes files of its own."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

from entcent_agents.recordings import Recorded, Recordings, read_recordings

DATA = Path(__file__).parent.parent / "data" / "recordings"


def lines_of(name: str) -> list[dict[str, Any]]:
    """The objects of a sample file."""
    return [json.loads(line) for line in (DATA / name).read_text().splitlines()]


CHAT = lines_of("chat.jsonl")
BATCH = lines_of("batch.jsonl")
COMPLETIONS = lines_of("completions.jsonl")
LLAMA = lines_of("llama.jsonl")
ENTROPY_RESULTS = lines_of("entropy_results.jsonl")
ROLLOUTS = lines_of("rollouts.jsonl")

ONE_OF_EACH = {
    "chat": CHAT[1],
    "choices": CHAT[0],
    "batch": BATCH[1],
    "completion": COMPLETIONS[1],
    "llama": LLAMA[0],
    "llama, probabilities": LLAMA[1],
    "entropy_results": ENTROPY_RESULTS[0],
    "rollout": ROLLOUTS[0],
}


def one(shape: str, **changes: Any) -> dict[str, Any]:
    """A line of a shape, to be changed."""
    return deepcopy(ONE_OF_EACH[shape]) | changes


def encoded(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def written(path: Path, *lines: Any, end: bytes = b"\n") -> Path:
    """A file of these lines; what is no bytes is written as JSON."""
    path.write_bytes(b"".join((line if isinstance(line, bytes) else encoded(line)) + end for line in lines))
    return path


def read(path: Path, **options: Any) -> dict[str, tuple[Recorded, ...]]:
    """Candidates by task."""
    return {found[0].task: found for found in read_recordings([path], **options)}


def read_all(path: Path, **options: Any) -> tuple[Recordings, list[Recorded]]:
    """The reading and every candidate."""
    recordings = read_recordings([path], **options)
    return recordings, [candidate for found in recordings for candidate in found]
