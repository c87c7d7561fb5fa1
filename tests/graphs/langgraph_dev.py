"""`langgraph dev` in a process of its own, for as long as a test needs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.graphs.listening import free_port, wait_until_it_listens

ROOT = Path(__file__).parents[2]
OFFLINE = {"LANGGRAPH_CLI_NO_ANALYTICS": "1", "LANGGRAPH_NO_VERSION_CHECK": "true", "LANGSMITH_TRACING": "false"}
"""What keeps the server from calling out; without a key it needs no licence, and reports nothing."""
_END_SECONDS = 30.0


@contextmanager
def langgraph_dev(folder: Path, environment: dict[str, str], *, persistent: bool = False) -> Iterator[str]:
    """The address of a server of what langgraph.json names. Its log and files lie in the folder, and what persists."""
    named = json.loads((ROOT / "langgraph.json").read_text())
    graphs = {name: str(ROOT / path) for name, path in named["graphs"].items()}
    config = {"dependencies": [str(ROOT)], "graphs": graphs, "disable_persistence": not persistent}
    (folder / "langgraph.json").write_text(json.dumps(config))
    port = free_port()
    log = folder / "log"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LANGSMITH_", "LANGCHAIN_"))}
    with log.open("wb") as writing:
        process = subprocess.Popen(
            [sys.executable, "-m", "langgraph_cli", "dev", "--no-browser", "--no-reload", "--port", str(port)],
            cwd=folder,
            env={**kept, **OFFLINE, **environment},
            stdin=subprocess.DEVNULL,
            stdout=writing,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_until_it_listens(process, port, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_END_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with whatever it started
        process.wait(_END_SECONDS)
