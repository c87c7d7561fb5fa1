"""The process that holds the llama.cpp server; run by `embedded.py` as a script, importing nothing of this library.

It reads one JSON line of settings from standard input, loads the model, and writes one JSON line with its address to
standard output once it answers. Standard input stays open as long as the parent lives: its end is this process's end.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import urllib.request
from typing import Any, cast

_ORPHAN_POLL_SECONDS = 1.0
_HEALTH_POLL_SECONDS = 0.05
_PROMPT_CACHE_MIB = 2048  # prompts of conversations whose slot went to another one
_WARNINGS = 2  # llama.cpp's verbosity that logs warnings and errors


def _die_with_parent(parent: int) -> None:
    """End this process when the parent ends, however it ends.

    The parent's end of the pipe closes with it. Should a fork of the parent still hold that end, a change of
    this process's parent gives it away. (PR_SET_PDEATHSIG will not do: it fires when the parent's *thread* ends.)
    """

    def watch_pipe() -> None:
        while os.read(0, 4096):
            pass
        os._exit(0)

    def watch_parent() -> None:
        while os.getppid() == parent:
            time.sleep(_ORPHAN_POLL_SECONDS)
        os._exit(0)

    for watch in (watch_pipe, watch_parent):
        threading.Thread(target=watch, daemon=True).start()


def _parameters(native: Any, settings: dict[str, Any]) -> Any:
    """llama.cpp's parameters; each slot has its own context, and prompts outlive the reuse of their slot."""
    parameters = native.CommonParams()
    parameters.model.path = settings["path"]
    parameters.model_alias = {settings["alias"]}
    parameters.n_parallel = settings["slots"]
    parameters.n_ctx = settings["slots"] * settings["context_tokens"]
    parameters.kv_unified = False
    parameters.fit_params = False  # never shrinks the context behind our back
    parameters.cache_prompt = True
    parameters.cache_ram_mib = _PROMPT_CACHE_MIB
    parameters.cpuparams.n_threads = settings["threads"]
    parameters.cpuparams_batch.n_threads = settings["threads"]
    parameters.use_jinja = True
    parameters.chat_template = settings["chat_template"] or ""
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = 0
    parameters.cors_origins = ""  # no web page may talk to it
    parameters.cors_origins_explicit = True
    parameters.ui = False
    parameters.verbosity = _WARNINGS
    return parameters


def _wait_until_healthy(address: str) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while True:
        try:
            with opener.open(f"{address}/health", timeout=5.0) as answer:
                if answer.status == 200:
                    return
        except OSError:
            pass
        time.sleep(_HEALTH_POLL_SECONDS)


def main() -> None:
    """Serve until the parent is gone."""
    line = b""
    while not line.endswith(b"\n"):  # unbuffered: the rest of standard input belongs to the watcher
        byte = os.read(0, 1)
        if not byte:
            return
        line += byte
    settings = json.loads(line)
    report = os.dup(1)
    os.dup2(2, 1)  # what llama.cpp prints goes to the log
    _die_with_parent(settings["parent"])

    import xllamacpp  # pyright: ignore[reportMissingTypeStubs]  # only now: the watchers are up

    native = cast("Any", xllamacpp)
    server = native.Server(_parameters(native, settings))
    address = str(server.listening_address)
    _wait_until_healthy(address)
    os.write(report, json.dumps({"address": address}).encode() + b"\n")
    os.close(report)
    while True:
        time.sleep(3600.0)


def _end_with_the_reason() -> None:
    try:
        main()
    except Exception as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        sys.stderr.flush()
        os._exit(1)


if __name__ == "__main__":
    _end_with_the_reason()
