"""Which failures of a model call may be over when the server is asked again, whatever client tells of them."""

from __future__ import annotations

import httpx
import httpx2
import openai
import pytest
import requests

from entcent_agents.errors import ModelServerError
from entcent_agents.rollouts.retries import is_passing


class ClientError(Exception):
    """As google-genai's: the status is a `code`, and `status` a word."""

    def __init__(self, code: int) -> None:
        self.code, self.status = code, "RESOURCE_EXHAUSTED"


class AnswerError(Exception):
    """As aiohttp's."""

    def __init__(self, status: int) -> None:
        self.status = status


class RemoteCallError(Exception):
    """As grpc's: the code is a method."""

    def code(self) -> int:
        return 503


def of_openai(status: int) -> openai.APIStatusError:
    request = httpx2.Request("POST", "http://127.0.0.1/v1")
    return openai.APIStatusError("no", response=httpx2.Response(status, request=request), body=None)


def of_httpx(status: int) -> httpx.HTTPStatusError:
    request = httpx.Request("POST", "http://127.0.0.1/v1")
    return httpx.HTTPStatusError("no", request=request, response=httpx.Response(status, request=request))


def of_requests(status: int) -> requests.HTTPError:
    response = requests.Response()
    response.status_code = status
    return requests.HTTPError(response=response)


def of_ours(status: int) -> ModelServerError:
    return ModelServerError("no", status=status)


@pytest.mark.parametrize("of", [of_openai, of_httpx, of_requests, of_ours, ClientError, AnswerError])
@pytest.mark.parametrize(
    ("status", "passes"),
    [(400, False), (401, False), (404, False), (408, True), (409, True), (413, False), (422, False), (425, True),
     (429, True), (500, True), (502, True), (503, True), (504, True), (529, True)],
)  # fmt: skip
def test_a_status_passes_whoever_tells_of_it(of, status, passes):
    assert is_passing(of(status)) is passes


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(),
        ConnectionResetError(),
        TimeoutError(),
        EOFError(),
        openai.APIConnectionError(request=httpx2.Request("POST", "http://127.0.0.1/v1")),
        openai.APITimeoutError(request=httpx2.Request("POST", "http://127.0.0.1/v1")),
        httpx.ConnectError(""),
        httpx.ReadError(""),
        httpx.ReadTimeout(""),
        httpx2.RemoteProtocolError(""),
        requests.ConnectionError(),
        requests.exceptions.ChunkedEncodingError(),
        requests.Timeout(),
        ModelServerError("silence", broke_off=True),
    ],
    ids=lambda error: f"{type(error).__module__}.{type(error).__name__}",
)
def test_a_connection_that_is_refused_or_broken_or_silent_passes(error):
    assert is_passing(error)


@pytest.mark.parametrize(
    "error",
    [ValueError("503"), ModelServerError("no choices"), httpx.UnsupportedProtocol(""), RemoteCallError(), OSError(28)],
    ids=lambda error: type(error).__name__,
)
def test_nothing_else_passes(error):
    assert not is_passing(error)


def test_the_first_cause_that_says_anything_decides():
    refused = of_ours(400)
    refused.__context__ = TimeoutError()  # an earlier attempt's, of a client that tries again by itself
    assert not is_passing(refused)
    wrapped = RuntimeError("the model failed")
    wrapped.__cause__ = of_ours(503)
    assert is_passing(wrapped)
