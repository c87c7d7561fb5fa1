"""What it costs to read log-probabilities: our decoder next to the SDK's typed response, in one run.

    python -m benchmarks.capture_cost

Prints ratios: absolute times say more of the machine than of the code.
"""

from __future__ import annotations

import json
import sys
import time
import tracemalloc
from collections.abc import Callable

import msgspec
import numpy as np
from openai.types.chat import ChatCompletion
from rich.console import Console
from rich.table import Table

from entcent_agents.capture.openai import ChoiceLogprobs, token_logprobs

TOKENS, K, REPEATS = 1024, 20, 3


class _Choice(msgspec.Struct):
    logprobs: ChoiceLogprobs


class _Body(msgspec.Struct):
    choices: list[_Choice]


def body() -> bytes:
    """A chat completion of 1,024 tokens with 20 alternatives each."""
    rows = np.sort(np.random.default_rng(0).uniform(-20.0, -0.01, (TOKENS, K)))[:, ::-1]
    content = [
        {
            "token": f"tok{i}",
            "bytes": list(f"tok{i}".encode()),
            "logprob": row[0],
            "top_logprobs": [{"token": f"t{j}", "bytes": [116, 48], "logprob": value} for j, value in enumerate(row)],
        }
        for i, row in enumerate(rows.tolist())
    ]
    message = {"role": "assistant", "content": "text", "refusal": None}
    choice = {
        "index": 0,
        "finish_reason": "stop",
        "message": message,
        "logprobs": {"content": content, "refusal": None},
    }
    return json.dumps(
        {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
    ).encode()


def ours(data: bytes) -> object:
    """Bytes to arrays."""
    decoded = msgspec.json.decode(data, type=_Body)
    return token_logprobs(decoded.choices[0].logprobs.content or [])


def typed(data: bytes) -> object:
    """Bytes to the SDK's objects."""
    return ChatCompletion.model_validate_json(data)


def as_json(data: bytes) -> object:
    """Bytes to plain dictionaries, which is what a message's metadata would hold."""
    return json.loads(data)


def measured(read: Callable[[bytes], object], data: bytes) -> tuple[float, int]:
    """Least CPU seconds of a few reads, and bytes that the result keeps."""
    seconds = []
    for _ in range(REPEATS):
        started = time.process_time()
        read(data)
        seconds.append(time.process_time() - started)
    tracemalloc.start()
    kept = read(data)
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    del kept
    return min(seconds), size


def main() -> None:
    """Measure and print."""
    data = body()
    cpu, memory = measured(ours, data)
    table = Table("reading", "CPU, times ours", "memory kept, times ours", title=f"{len(data) / 1e6:.1f} MB of JSON")
    for name, read in {"arrays (ours)": ours, "typed objects (SDK)": typed, "dictionaries": as_json}.items():
        seconds, size = measured(read, data)
        table.add_row(name, f"{seconds / cpu:.1f}", f"{size / memory:.1f}")
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
