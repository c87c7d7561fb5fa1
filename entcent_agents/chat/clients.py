"""The SDK's clients, one for each event loop and setting: connections belong to the loop they were opened on."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Final

import httpx2
from openai import AsyncOpenAI

from entcent_agents.chat.admission import AdmittedClient
from entcent_agents.chat.concurrency import endpoint
from entcent_agents.chat.digests import digest
from entcent_agents.chat.loops import forget, of_loop
from entcent_agents.errors import ConfigurationError

NO_KEY: Final = "none"
"""Sent where no key is given: local servers want none, and the SDK refuses an empty one."""
MAX_CONNECTIONS: Final = 256
"""At once, unless told otherwise: as many answers as servers commonly generate side by side, and well below the
1,024 files that a process may open on most systems."""
CONNECT_SECONDS: Final = 15.0
"""Longest wait for a connection to be taken; a server that is there takes it at once, however busy it is."""
IDLE_SECONDS: Final = 300.0
"""Clients that nobody used for so long are closed when another is made: keys may come and go. It is longer than the SDK
waits between two attempts (two minutes)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Settings:
    base_url: str
    api_key: str = field(repr=False)
    timeout_seconds: float
    max_retries: int
    max_connections: int


@dataclass(slots=True)
class _Client:
    sdk: AsyncOpenAI
    http: AdmittedClient
    taken_at: float = 0.0


class _Clients:
    """The clients of one loop.

    An asynchronous generator of ours is left suspended on the loop: `asyncio.run` and its kin close those before they
    close the loop, and so our connections without anybody's doing.
    """

    def __init__(self) -> None:
        self._clients: dict[_Settings, _Client] = {}
        self._closing: dict[asyncio.Task[None], _Client] = {}
        self._end = self._ending()
        with suppress(StopIteration):
            self._end.__anext__().send(None)  # up to its yield

    def get(self, settings: _Settings) -> AsyncOpenAI:
        """The client for these settings."""
        now = time.monotonic()
        if settings not in self._clients:
            self._close_idle(now)
            self._clients[settings] = _client(settings)
        client = self._clients[settings]
        client.taken_at = now
        return client.sdk

    def _close_idle(self, now: float) -> None:
        for settings, client in list(self._clients.items()):
            if min(now - client.taken_at, client.http.idle_seconds) > IDLE_SECONDS:
                closing = asyncio.get_running_loop().create_task(client.sdk.close())
                self._closing[closing] = self._clients.pop(settings)
                closing.add_done_callback(self._closing.pop)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._end.aclose()

    async def _ending(self) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            forget(_Clients)
            for client in [*self._clients.values(), *self._closing.values()]:
                await client.sdk.close()


def client_of_loop(
    *,
    base_url: str,
    api_key: str,
    timeout_seconds: float,
    max_retries: int,
    max_connections: int = MAX_CONNECTIONS,
) -> AsyncOpenAI:
    """The running loop's client for these settings; calls of equal settings share its connections.

    Args:
        base_url: Address of the API.
        api_key: Empty where there is none.
        timeout_seconds: Longest silence of the server.
        max_retries: How often the SDK repeats a request.
        max_connections: Most requests at once, from all loops of the process; further ones wait, however long.
    """
    settings = _Settings(
        base_url=base_url,
        api_key=api_key or NO_KEY,
        timeout_seconds=timeout_seconds,
        max_retries=max_retries,
        max_connections=max_connections,
    )
    return of_loop(_Clients, _Clients).get(settings)


async def aclose_clients() -> None:
    """Close the connections that chat models opened on the running loop; a later call opens new ones."""
    await of_loop(_Clients, _Clients).aclose()


@cache
def _certificates() -> ssl.SSLContext:
    """Read once: it takes a twentieth of a second, which short-lived loops would spend each time."""
    return httpx2.create_ssl_context()


def _client(settings: _Settings) -> _Client:
    """A client that takes nothing from the environment: its keys and headers are for OpenAI, and not for any server."""
    most, silence = settings.max_connections, settings.timeout_seconds
    address = httpx2.URL(settings.base_url)
    http = AdmittedClient(
        endpoint(settings.base_url, digest(settings.api_key), shown(settings.base_url)),
        most,
        # Whoever waits for a connection waits for other answers, not for a silent server: without a limit.
        timeout=httpx2.Timeout(silence, connect=min(silence, CONNECT_SECONDS), pool=None),
        # Idle connections are all kept (for five seconds, the default): agents come back turn after turn.
        limits=httpx2.Limits(max_connections=most, max_keepalive_connections=most),
        verify=_certificates(),
    )
    sdk = AsyncOpenAI(
        base_url=address.copy_with(query=None),
        default_query=dict(address.params),  # the SDK would write its path behind the query
        api_key=settings.api_key,
        max_retries=settings.max_retries,
        http_client=http,
    )
    sdk.organization = sdk.project = sdk.admin_api_key = sdk.webhook_secret = None
    sdk._custom_headers = {}  # pyright: ignore[reportPrivateUsage]: OPENAI_CUSTOM_HEADERS
    return _Client(sdk, http)


def shown(address: str | httpx2.URL) -> str:
    """An address without what may be secret in it: user, password and query."""
    return str(httpx2.URL(address).copy_with(userinfo=b"", query=None))


def check_address(address: str) -> None:
    """Refuse an address that holds a password.

    Raises:
        ConfigurationError: Where it does; the message does not show it.
    """
    if httpx2.URL(address).userinfo:
        raise ConfigurationError(f"the address holds a user or password; give {shown(address)} and a key as api_key=")
