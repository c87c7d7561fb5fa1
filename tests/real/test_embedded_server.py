"""The embedded server with the small model: what it answers, and that it never outlives its owner."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from entcent_agents.chat.embedded import EmbeddedServer, open_embedded
from entcent_agents.chat.store import ModelStore
from entcent_agents.errors import ConfigurationError, ModelFileError, ModelServerError

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

SLOTS = 2
CONTEXT_TOKENS = 1024


@pytest.fixture(scope="module")
def small_model() -> Path:
    return ModelStore().pull("smollm2-135m")


@pytest.fixture(scope="module")
def server(small_model: Path) -> Iterator[EmbeddedServer]:
    with open_embedded("smollm2-135m", slots=SLOTS, context_tokens=CONTEXT_TOKENS) as server:
        yield server


@pytest.fixture
def client(server: EmbeddedServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0) as client:
        yield client


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def ends_within(pid: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not is_alive(pid):
            return True
        time.sleep(0.05)
    return False


def open_files() -> set[str]:
    found: set[str] = set()
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.add(f"{entry.name} {entry.readlink()}")
    return {name for name in found if "/proc/" not in name}


def test_several_choices_come_with_their_log_probabilities(client: openai.OpenAI, server: EmbeddedServer) -> None:
    answer = client.chat.completions.create(
        model=server.model,
        messages=[{"role": "user", "content": "Name three colours."}],
        n=SLOTS,
        logprobs=True,
        top_logprobs=5,
        max_tokens=16,
        temperature=0.8,
    )
    assert server.model == answer.model == "smollm2-135m"
    assert len(answer.choices) == SLOTS
    for choice in answer.choices:
        assert choice.logprobs is not None
        assert choice.logprobs.content
        for token in choice.logprobs.content:
            assert token.logprob <= 0
            assert len(token.top_logprobs) == 5


def test_each_slot_has_the_context_that_was_asked_for(client: openai.OpenAI) -> None:
    words = "word " * (CONTEXT_TOKENS - 100)
    answer = client.completions.create(model="smollm2-135m", prompt=words, max_tokens=1)
    assert answer.usage is not None
    assert CONTEXT_TOKENS - 150 < answer.usage.prompt_tokens < CONTEXT_TOKENS
    with pytest.raises(openai.BadRequestError, match=str(CONTEXT_TOKENS)):
        client.completions.create(model="smollm2-135m", prompt="word " * 2 * CONTEXT_TOKENS, max_tokens=1)


def test_a_conversation_is_not_read_twice_though_others_took_its_slots(client: openai.OpenAI) -> None:
    def evaluated(subject: str) -> int:
        answer = client.completions.create(model="smollm2-135m", prompt=f"{subject} " * 200, max_tokens=1)
        return int(answer.model_extra["timings"]["prompt_n"])  # the server's own figures

    subjects = ("apple", "river", "stone")
    assert min(evaluated(subject) for subject in subjects) > 150
    assert max(evaluated(subject) for subject in subjects) < 20


def test_it_listens_on_the_loopback_only(server: EmbeddedServer) -> None:
    assert server.base_url.startswith("http://127.0.0.1:")
    port = int(server.base_url.split(":")[2].split("/")[0])
    listening: list[str] = []
    for table in ("tcp", "tcp6"):
        rows = [line.split() for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]]
        listening += [row[1] for row in rows if row[3] == "0A" and row[1].endswith(f":{port:04X}")]
    assert listening == [f"0100007F:{port:04X}"]


def test_leaving_the_block_ends_the_process_and_leaks_nothing(small_model: Path) -> None:
    before = open_files()
    with EmbeddedServer(small_model, slots=1, context_tokens=256) as server:
        pid = server.pid
        assert pid is not None
        assert is_alive(pid)
        assert server.model == small_model.stem
    assert not Path(f"/proc/{pid}").exists()
    assert open_files() == before
    with pytest.raises(ModelServerError, match="is not running"):
        _ = server.base_url


async def test_it_is_an_async_context_manager_too_and_can_be_entered_again(small_model: Path) -> None:
    server = EmbeddedServer(small_model, slots=1, context_tokens=256)
    for _ in range(2):
        async with server, openai.AsyncOpenAI(base_url=server.base_url, api_key="none") as client:
            assert [model.id async for model in client.models.list()] == [small_model.stem]
        assert server.pid is None


OWNER = """
import sys, time, threading
from entcent_agents.chat.embedded import EmbeddedServer
server = EmbeddedServer(sys.argv[1], slots=1, context_tokens=256)
thread = threading.Thread(target=server.__enter__)  # a thread that ends long before its process
thread.start()
thread.join()
time.sleep(float(sys.argv[2]))
sys.stdout.write(f"{server.pid}\\n")
sys.stdout.flush()
time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_server_ends_with_its_owner_and_not_with_the_thread_that_started_it(
    small_model: Path, number: signal.Signals
) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(small_model), "0.5"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert owner.stdout is not None
    with owner.stdout:
        pid = int(owner.stdout.readline())
        assert is_alive(pid)
        owner.send_signal(number)
        owner.wait()
    assert ends_within(pid, 5.0)


def test_the_server_sits_out_an_interrupt_of_the_terminal(server: EmbeddedServer) -> None:
    assert server.pid is not None
    assert os.getpgid(server.pid) != os.getpgid(0)


def test_a_server_that_is_killed_is_an_error_of_the_request_and_not_of_the_owner(small_model: Path) -> None:
    with EmbeddedServer(small_model, slots=1, context_tokens=256) as server:
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        with openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0) as client:
            with pytest.raises(openai.APIConnectionError):
                client.models.list()


def test_a_file_that_is_no_model_is_told_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "page.gguf"
    path.write_bytes(b"<html>")
    with pytest.raises(ModelFileError, match="not a GGUF model") as caught, open_embedded(path):
        pass
    assert "\n" not in str(caught.value)


def test_a_truncated_model_is_told_in_one_line(small_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    shutil.copy(small_model, path)
    os.truncate(path, 5_000_000)
    before = open_files()
    with pytest.raises(ModelServerError, match="corrupted or incomplete") as caught, EmbeddedServer(path):
        pass
    assert "\n" not in str(caught.value)
    assert open_files() == before


def test_a_server_that_takes_too_long_is_ended(small_model: Path) -> None:
    server = EmbeddedServer(small_model, slots=1, context_tokens=256, start_seconds=0.01)
    with pytest.raises(ModelServerError, match=r"did not answer within 0\.01 s"), server:
        pass
    assert server.pid is None


@pytest.mark.parametrize("wrong", [{"slots": 0}, {"context_tokens": -1}, {"threads": 0}, {"start_seconds": 0.0}])
def test_numbers_that_are_not_positive_are_refused(wrong: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="positive"):
        EmbeddedServer(tmp_path / "x.gguf", **wrong)
