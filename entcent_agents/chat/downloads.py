"""A model file from its official source: plain HTTP, resumed where it stopped.

Nothing here is trusted: the store hashes whatever arrives.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Literal

import httpx2
from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_exponential

__all__ = ["Progress", "Report", "SourceFailedError", "Stage", "fetch_url", "size_of"]

_CONNECT_SECONDS = 5.0  # an unreachable source must give way to the next one quickly
_READ_SECONDS = 30.0
_IDLE_ATTEMPTS = 4  # attempts in a row that bring no new byte

Stage = Literal["waiting", "official", "mirror", "verify"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a model is on its way.

    Attributes:
        model: Its name in the catalogue.
        stage: Waiting for another pull of the same model, downloading from one of the sources, or hashing the result.
        done_bytes: Bytes done in this stage; never falls within a stage.
        total_bytes: Size of the whole file.
    """

    model: str
    stage: Stage
    done_bytes: int
    total_bytes: int


Report = Callable[[int], None]
"""Called with the number of bytes there are so far."""


class SourceFailedError(Exception):
    """A source cannot deliver; the message is the reason. Internal: the store tries the next source."""


class _InterruptedError(Exception):
    """The transfer stopped early and may be resumed."""


def size_of(path: Path) -> int:
    """Size of a file in bytes; 0 where there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def fetch_url(url: str, target: Path, size_bytes: int, report: Report) -> None:
    """Bring the file at an address into `target`, continuing what is already there.

    Args:
        url: Address of the file; redirects are followed.
        target: Where the bytes go; kept when the transfer breaks off, so that the next call resumes.
        size_bytes: Size the file must have.
        report: Told the size of `target` as it grows.

    Raises:
        SourceFailedError: When the address cannot be reached, refuses, or offers a file of another size.
    """
    retrying = Retrying(
        retry=retry_if_exception_type((_InterruptedError, httpx2.ReadError, httpx2.ReadTimeout, httpx2.ProtocolError)),
        stop=_Idle(target, _IDLE_ATTEMPTS),
        wait=wait_exponential(multiplier=0.1, max=5),
        reraise=True,
    )
    timeout = httpx2.Timeout(_READ_SECONDS, connect=_CONNECT_SECONDS)
    try:
        with httpx2.Client(follow_redirects=True, timeout=timeout) as client:
            retrying(_continue, client, url, target, size_bytes, report)
    except (httpx2.HTTPError, httpx2.InvalidURL, _InterruptedError) as error:
        raise SourceFailedError(str(error) or type(error).__name__) from error


class _Idle:
    """Stop condition: so many attempts in a row without a new byte."""

    def __init__(self, target: Path, attempts: int) -> None:
        self._target = target
        self._attempts = attempts
        self._most = size_of(target)
        self._idle = 0

    def __call__(self, retry_state: RetryCallState) -> bool:
        size = size_of(self._target)
        self._idle = 0 if size > self._most else self._idle + 1
        self._most = max(self._most, size)
        return self._idle >= self._attempts


def _continue(client: httpx2.Client, url: str, target: Path, size_bytes: int, report: Report) -> None:
    have = size_of(target)
    if have == size_bytes:
        return
    if have > size_bytes:
        target.unlink()
        have = 0
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    with client.stream("GET", url, headers=headers) as response:
        if response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            target.unlink(missing_ok=True)
            raise _InterruptedError("the source refuses to resume the file")
        have = _receive(response, target, _first_byte(response, have, size_bytes), size_bytes, report)
    if have < size_bytes:
        raise _InterruptedError(f"the transfer broke off after {have} of {size_bytes} bytes")


def _first_byte(response: httpx2.Response, have: int, size_bytes: int) -> int:
    """Position in the file at which the body of this response starts."""
    status = response.status_code
    if status == HTTPStatus.PARTIAL_CONTENT:
        match = re.match(r"bytes (\d+)-\d+/(\d+|\*)$", response.headers.get("Content-Range", ""))
        if match and int(match[1]) <= have and match[2] in ("*", str(size_bytes)):
            return int(match[1])
        raise SourceFailedError(f"offers another range than asked for: {response.headers.get('Content-Range')!r}")
    if status == HTTPStatus.OK:
        length = response.headers.get("Content-Length", str(size_bytes))
        if length != str(size_bytes):
            raise SourceFailedError(f"offers {length} bytes, but the file has {size_bytes}")
        return 0
    if status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise _InterruptedError(f"the source answers {status} {response.reason_phrase}")
    raise SourceFailedError(f"the source answers {status} {response.reason_phrase}")


def _receive(response: httpx2.Response, target: Path, position: int, size_bytes: int, report: Report) -> int:
    # Unbuffered and as it comes off the wire: a cut connection then loses nothing that was received.
    with target.open("ab", buffering=0) as file:
        os.ftruncate(file.fileno(), position)
        for chunk in response.iter_raw():
            position += len(chunk)
            if position > size_bytes:
                raise SourceFailedError(f"sends more than the {size_bytes} bytes of the file")
            file.write(chunk)
            report(position)
    return position
