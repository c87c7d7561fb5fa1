"""An HTTP client whose requests wait for their turn at their endpoint and report to it, the SDK's retries too."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, Final, cast

import httpx2
import msgspec
from openai import DefaultAsyncHttpxClient

from entcent_agents.chat.adaptive import Kind
from entcent_agents.chat.concurrency import Endpoint, Permit
from entcent_agents.chat.retry_after import retry_after_seconds

REFUSALS: Final = frozenset((429, 503, 529))
"""Statuses by which servers say that they have too much to do."""
GATEWAY_TIMEOUT: Final = 504


class AdmittedClient(DefaultAsyncHttpxClient):
    """Sends when the endpoint has room; a permit comes back when the answer is closed.

    `send` is overridden, and no transport wrapped: a client with a transport of its own takes no proxy from the
    environment.

    Args:
        endpoint: Whose limit counts.
        ceiling: Most requests at once, whatever the limit.
        **settings: As httpx2 has them.
    """

    def __init__(self, endpoint: Endpoint, ceiling: int, **settings: Any) -> None:
        super().__init__(**settings)
        self._endpoint, self._ceiling = endpoint, ceiling
        self._under_way = 0
        self._used_at = time.monotonic()

    @property
    def idle_seconds(self) -> float:
        """Since the end of its last request; 0 while one waits or is under way."""
        return 0.0 if self._under_way else time.monotonic() - self._used_at

    async def send(self, request: httpx2.Request, *, stream: bool = False, **rest: Any) -> httpx2.Response:
        """Send a request in its turn."""
        self._under_way += 1
        try:
            response = await self._admitted(request, **rest)
        except BaseException:
            self._ended()
            raise
        if not stream:
            try:
                await response.aread()
            except BaseException:
                await response.aclose()
                raise
        return response

    async def _admitted(self, request: httpx2.Request, **rest: Any) -> httpx2.Response:
        permit = await self._endpoint.permit(self._ceiling)
        began = time.monotonic()
        try:
            response = await super().send(request, stream=True, **rest)
        except httpx2.TimeoutException:
            permit.silent()
            raise
        except BaseException:
            permit.close()
            raise
        response.stream = _Body(response, request, permit, began, self._ended)
        return response

    def _ended(self) -> None:
        self._under_way -= 1
        self._used_at = time.monotonic()


class _Body(httpx2.AsyncByteStream):
    """A response's body, watched until it is closed."""

    def __init__(
        self,
        response: httpx2.Response,
        request: httpx2.Request,
        permit: Permit,
        began: float,
        closed: Callable[[], None],
    ) -> None:
        self._closed: Callable[[], None] | None = closed
        self._inner = cast(httpx2.AsyncByteStream, response.stream)
        self._status, self._headers = response.status_code, response.headers
        self._request, self._permit, self._began = request, permit, began
        self._seconds: float | None = None
        self._bytes = 0
        self._broke_off: BaseException | None = None

    @property
    def elapsed(self) -> Any:
        """As `Response.elapsed` asks for it."""
        return getattr(self._inner, "elapsed", None)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async with aclosing(cast(Any, aiter(self._inner))) as body:
                async for chunk in body:
                    if self._seconds is None:
                        self._seconds = time.monotonic() - self._began
                    self._bytes += len(chunk)
                    yield chunk
        except BaseException as error:
            self._broke_off = error
            raise

    async def aclose(self) -> None:
        try:
            await self._inner.aclose()
        finally:
            if closed := self._closed:
                self._closed = None
                self._report()
                closed()

    def _report(self) -> None:
        if self._status in REFUSALS:
            self._permit.refused(retry_after_seconds(self._headers))
        elif self._status == GATEWAY_TIMEOUT or isinstance(self._broke_off, httpx2.TimeoutException):
            self._permit.silent()
        elif self._status != 200 or self._broke_off or self._seconds is None:
            self._permit.close()
        else:
            self._permit.answered(_kind(self._request, self._bytes), self._seconds)


class _Asked(msgspec.Struct):
    """What of a request's body decides, beside its length, how long the answer takes."""

    model: Any = None
    n: Any = None
    stream: Any = None


def _kind(request: httpx2.Request, answer_bytes: int) -> Kind:
    content = request.content
    try:
        asked = msgspec.json.decode(content, type=_Asked) if content else _Asked()
    except msgspec.DecodeError:
        asked = _Asked()
    return Kind(
        asked=f"{request.url.path} {asked.model}",
        choices=asked.n if isinstance(asked.n, int) else 1,
        streamed=bool(asked.stream),
        prompt_bits=len(content).bit_length(),
        answer_bits=0 if asked.stream else answer_bytes.bit_length(),
    )
