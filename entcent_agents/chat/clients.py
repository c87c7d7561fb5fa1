"""The SDK's clients, one for each event loop and setting: connections belong to the loop they were opened on."""

from __future__ import annotations

import asyncio
from hashlib import blake2b
from typing import Final
from weakref import WeakKeyDictionary

import httpx2
from openai import AsyncOpenAI

from entcent_agents.errors import ConfigurationError

NO_KEY: Final = "none"
"""Sent where no key is given: local servers want none, and the SDK refuses an empty one."""

_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, AsyncOpenAI]] = WeakKeyDictionary()


def client_of_loop(*, base_url: str, api_key: str, timeout_seconds: float, max_retries: int) -> AsyncOpenAI:
    """The running loop's client for these settings."""
    api_key = api_key or NO_KEY
    settings = blake2b(repr((base_url, api_key, timeout_seconds, max_retries)).encode(), digest_size=16).hexdigest()
    clients = _clients.setdefault(asyncio.get_running_loop(), {})
    if settings not in clients:
        clients[settings] = AsyncOpenAI(
            base_url=base_url, api_key=api_key, timeout=timeout_seconds, max_retries=max_retries
        )
    return clients[settings]


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


async def aclose_clients() -> None:
    """Close the connections that chat models opened on the running loop."""
    for client in _clients.pop(asyncio.get_running_loop(), {}).values():
        await client.close()
