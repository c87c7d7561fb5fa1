"""What a rollout leaves for its commit, as one opaque string in its record.

The text of a losing rollout may reach no stream, and state updates are streamed; so only a commit opens it. Only plain
data and LangChain messages are unpacked.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from entcent_agents.errors import RecordingError
from entcent_agents.trajectory import Rollout

_SERIALIZER: Final = JsonPlusSerializer()
_VERSION: Final = 2
"""Of what is packed. The first had no rounds; nobody could go on from it."""


def pack(output: Mapping[str, Any]) -> str:
    """An opaque string of it."""
    kind, data = _SERIALIZER.dumps_typed({"version": _VERSION, **output})
    return f"{kind}:{base64.b64encode(zlib.compress(data)).decode()}"


def unpack(packed: str) -> dict[str, Any]:
    """What was packed.

    Raises:
        RecordingError: By a release that packs another version.
    """
    kind, _, data = packed.partition(":")
    output = _SERIALIZER.loads_typed((kind, zlib.decompress(base64.b64decode(data))))
    if (version := output.pop("version", 1)) != _VERSION:
        raise RecordingError(
            f"a rollout that waits for its commit or for an answer is of version {version!r}; this release reads "
            f"{_VERSION}: let the release that began the request end it"
        )
    return output


def place_of(rollouts: Sequence[Rollout]) -> tuple[str, int] | None:
    """Their request and the number of their round; None where nothing that they left can be opened."""
    for rollout in rollouts:
        with suppress(Exception):  # for logs, which come where opening it has failed before
            output = unpack(rollout.output or "")
            return output["request"], output["round"]
    return None
