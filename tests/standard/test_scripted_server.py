"""LangChain's standard integration tests against a scripted server: real HTTP, tools natively and as text."""

from __future__ import annotations

import io
import struct
import wave
import zlib
from collections.abc import Iterator
from typing import Any, ClassVar

import httpx
import pytest
from langchain_tests.integration_tests import ChatModelIntegrationTests

from entcent_agents.chat.model import ChatLogprobs
from tests.chat_server import ChatServer
from tests.standard.answering import answers

pytestmark = pytest.mark.filterwarnings("ignore:OpenAI may require a filename")  # the suite's document has none


@pytest.fixture(autouse=True)
def samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the suite fetches from the web, made here: the smallest picture, document and sound of their kinds."""
    made = {".png": png(), ".pdf": b"%PDF-1.4\n%%EOF\n", ".wav": wav()}

    def get(url: str, **settings: Any) -> httpx.Response:
        return httpx.Response(200, content=made[url[-4:]])

    monkeypatch.setattr(httpx, "get", get)
    monkeypatch.setenv("LANGCHAIN_TESTS_USER_AGENT", "entcent-agents tests")


def png() -> bytes:
    """One grey pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    pixels = zlib.compress(b"\x00\x80")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def wav() -> bytes:
    """A hundredth of a second of silence."""
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(160))
    return file.getvalue()


class TestNativeTools(ChatModelIntegrationTests):
    server: ClassVar[ChatServer]

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _server(cls) -> Iterator[None]:
        with ChatServer(answers) as cls.server:
            yield

    @property
    def chat_model_class(self) -> type[ChatLogprobs]:
        return ChatLogprobs

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "scripted", "base_url": self.server.base_url, "max_retries": 0}

    @property
    def model_override_value(self) -> str:
        return "another"

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_image_inputs(self) -> bool:
        return True

    @property
    def supports_image_urls(self) -> bool:
        return True

    @property
    def supports_pdf_inputs(self) -> bool:
        return True

    @property
    def supports_audio_inputs(self) -> bool:
        return True

    @property
    def supports_image_tool_message(self) -> bool:
        return True

    @property
    def supports_pdf_tool_message(self) -> bool:
        return True

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True

    @property
    def enable_vcr_tests(self) -> bool:
        """The server is on this machine: nothing needs to be recorded."""
        return True


class TestTextTools(TestNativeTools):
    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {**super().chat_model_params, "tool_calling": "text"}
