"""A llama.cpp server of one's own: a child process on 127.0.0.1 that lives as long as its context manager.

    with open_embedded("qwen2.5-coder-1.5b", slots=4) as server:
        client = openai.OpenAI(base_url=server.base_url, api_key="none")

A child process, because the native server cannot be stopped from inside and takes its process along when it aborts.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import anyio

from entcent_agents.chat.store import ModelStore, check_gguf, is_file_path
from entcent_agents.errors import ConfigurationError, MissingExtraError, ModelServerError

__all__ = ["EmbeddedServer", "open_embedded"]

_CHILD = Path(__file__).with_name("embedded_child.py")
_TEMPLATES = Path(__file__).with_name("templates")
_POLL_SECONDS = 0.05
_GRACE_SECONDS = 5.0
_MOST_THREADS = 16  # beyond that, memory bandwidth is the limit
_TAIL_BYTES = 4096

_PATIENT_THREADS = {"GOMP_SPINCOUNT": "1000"}
"""OpenMP threads that spin for long starve each other on a busy machine: three times slower generation, measured."""


class EmbeddedServer:
    """A model behind an OpenAI-compatible address on this computer; a context manager, sync and async.

    The process ends with the block, and with this process, however that ends. `n` of a request may be up to `slots`.

    Args:
        path: The model file (GGUF).
        slots: Requests and choices generated at the same time.
        context_tokens: Context of each slot, prompt and answer together.
        threads: CPU threads; None takes the cores this process may use, at most 16.
        alias: Name of the model in requests; None takes the file's stem.
        chat_template: Jinja template instead of the model's own.
        start_seconds: How long loading the model may take.

    Raises:
        ConfigurationError: When a number is not positive.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        slots: int = 4,
        context_tokens: int = 4096,
        threads: int | None = None,
        alias: str | None = None,
        chat_template: str | None = None,
        start_seconds: float = 120.0,
    ) -> None:
        threads = _usable_cores() if threads is None else threads
        if min(slots, context_tokens, threads) < 1 or start_seconds <= 0:
            raise ConfigurationError(
                "slots, context_tokens, threads and start_seconds of an embedded server are positive"
            )
        self.path: Path = Path(path)
        self.slots = slots
        self.context_tokens = context_tokens
        self.model: str = alias or self.path.stem
        self._threads = threads
        self._chat_template = chat_template
        self._start_seconds = start_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self._said = b""
        self._address: str | None = None

    @property
    def base_url(self) -> str:
        """What an OpenAI client takes as `base_url`.

        Raises:
            ModelServerError: When the server is not running.
        """
        if self._address is None:
            raise ModelServerError(f"the embedded server of {self.model} is not running: enter it with  with  first")
        return f"{self._address}/v1"

    @property
    def pid(self) -> int | None:
        """Process id of the server; None while it is not running."""
        return None if self._process is None else self._process.pid

    def __enter__(self) -> Self:
        """Start the server and wait until it answers.

        Raises:
            MissingExtraError: When xllamacpp is not installed.
            ModelFileError: When the file is absent or no GGUF model.
            ModelServerError: When the server ends or stays silent while it starts.
        """
        deadline = self._spawn()
        try:
            while not self._is_ready(deadline):
                time.sleep(_POLL_SECONDS)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        """As `__enter__`, without blocking the event loop."""
        deadline = self._spawn()
        try:
            while True:
                if self._is_ready(deadline):
                    return self
                await anyio.sleep(_POLL_SECONDS)
        except BaseException:
            self.stop()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self.stop)

    def stop(self) -> None:
        """End the server; does nothing when it is not running."""
        process, log = self._process, self._log
        self._process = self._log = self._address = None
        if process is not None:
            process.terminate()
            try:
                process.wait(_GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
        if log is not None:
            log.close()

    def _spawn(self) -> float:
        """Start the child; returns the moment (monotonic seconds) by which it must answer."""
        if self._process is not None:
            raise ModelServerError(f"the embedded server of {self.model} is already running")
        if importlib.util.find_spec("xllamacpp") is None:
            raise MissingExtraError("xllamacpp", "local")
        check_gguf(self.path)
        settings = {
            "path": str(self.path.resolve()),
            "alias": self.model,
            "slots": self.slots,
            "context_tokens": self.context_tokens,
            "threads": self._threads,
            "chat_template": self._chat_template,
            "parent": os.getpid(),
        }
        self._said = b""
        self._log = tempfile.TemporaryFile()  # closed by `stop`
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(_CHILD)],  # -P: modules beside the script must not shadow installed ones
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            start_new_session=True,  # Ctrl-C is for the parent, which then decides
            env={**_PATIENT_THREADS, **os.environ},
        )
        assert self._process.stdin and self._process.stdout
        os.set_blocking(self._process.stdout.fileno(), False)
        try:
            self._process.stdin.write(json.dumps(settings).encode() + b"\n")
        except BrokenPipeError:
            pass  # it ended already: `_is_ready` says why
        return time.monotonic() + self._start_seconds

    def _is_ready(self, deadline: float) -> bool:
        process = self._process
        assert process is not None and process.stdout is not None
        self._said += process.stdout.read() or b""
        if self._said.endswith(b"\n"):
            self._address = str(json.loads(self._said)["address"])
            return True
        if process.poll() is not None:
            raise ModelServerError(
                f"the server of {self.path} ended while it started: download the model again, or pass another "
                f"(exit {process.returncode}: {self._log_tail()})"
            )
        if time.monotonic() > deadline:
            raise ModelServerError(
                f"the server of {self.path} did not answer within {self._start_seconds:g} s: {self._log_tail()}"
            )
        return False

    def _log_tail(self) -> str:
        """The log's telling lines as one: the first error, for the others follow from it, and the last line."""
        assert self._log is not None
        size = os.fstat(self._log.fileno()).st_size
        log = os.pread(self._log.fileno(), _TAIL_BYTES, max(size - _TAIL_BYTES, 0)).decode(errors="replace")
        lines = [line.strip() for line in log.splitlines() if line.strip()]
        errors = [re.sub(r"^[\d.]+ E ", "", line) for line in lines if re.match(r"[\d.]+ E ", line)]
        telling = dict.fromkeys(errors[:1] + lines[-1:])
        return " | ".join(telling) or "it logged nothing"


def open_embedded(
    name_or_path: str | Path,
    *,
    slots: int = 4,
    context_tokens: int = 4096,
    threads: int | None = None,
    chat_template: str | None = None,
    start_seconds: float = 120.0,
    store: ModelStore | None = None,
) -> EmbeddedServer:
    """The server of a model in the store, not yet started; a known model gets the chat template that suits it.

    Args:
        name_or_path: A known model's name, or the path of a `.gguf` file.
        slots: Requests and choices generated at the same time.
        context_tokens: Context of each slot, prompt and answer together.
        threads: CPU threads; None takes the cores this process may use, at most 16.
        chat_template: Jinja template instead of the one chosen here.
        start_seconds: How long loading the model may take.
        store: Where models are; by default the user's store.

    Raises:
        ModelUnknownError: When the name is not known.
        ModelFileError: When the file is absent, or not the file it should be.
    """
    store = ModelStore() if store is None else store
    name = str(name_or_path)
    path = store.path(name)
    alias = None if is_file_path(name) else name
    if chat_template is None and alias is not None:
        template = store.model(alias).chat_template
        chat_template = (_TEMPLATES / template).read_text(encoding="utf-8") if template else None
    return EmbeddedServer(
        path,
        slots=slots,
        context_tokens=context_tokens,
        threads=threads,
        alias=alias,
        chat_template=chat_template,
        start_seconds=start_seconds,
    )


def _usable_cores() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _MOST_THREADS)
