"""The model behind `--model`: one of the store on the embedded server, or one at an address."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import NamedTuple
from urllib.parse import urlsplit

from entcent_agents.errors import ConfigurationError

MAX_SLOTS = 8


class Served(NamedTuple):
    """Where a model answers.

    Attributes:
        base_url: Up to and including `/v1`.
        name: The model's name there.
        api_key: From the environment; None where none is meant for this address.
    """

    base_url: str
    name: str
    api_key: str | None


def address_of(model: str) -> Served | None:
    """What an address names; None where `model` is no address.

    Raises:
        ConfigurationError: On an address without a model's name.
    """
    if "://" not in model:
        return None
    base_url, _, name = model.partition("#")
    if not name or not _is_address(base_url):
        raise ConfigurationError(f"--model {model!r} must be http://HOST:PORT/v1#NAME, with the model's name after #")
    return Served(base_url.rstrip("/"), name, _key_for(base_url))


@asynccontextmanager
async def serve(model: str, n: int, *, context_tokens: int = 4096) -> AsyncGenerator[Served]:
    """Have the model answer while the block runs.

    Args:
        model: As `--model` has it.
        n: Rollouts that will ask at once.
        context_tokens: Of each rollout on the embedded server, prompt and answer together.

    Raises:
        EntcentError: Where there is no such model, its file is not what it should be, or its server does not start.
    """
    if (served := address_of(model)) is not None:
        yield served
        return
    from entcent_agents.chat.embedded import open_embedded

    server = await asyncio.to_thread(open_embedded, model, slots=min(n, MAX_SLOTS), context_tokens=context_tokens)
    async with server:
        yield Served(server.base_url, server.model, None)


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, brackets that do not close
        return False


def _key_for(base_url: str) -> str | None:
    """OpenAI's key goes to OpenAI alone; for any other address there is a variable of ours."""
    official = urlsplit(base_url).hostname == "api.openai.com"
    return os.environ.get("OPENAI_API_KEY" if official else "ENTCENT_API_KEY")
