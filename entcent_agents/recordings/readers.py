"""From one JSON object of a known shape to its candidates."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from entcent_agents.errors import RecordingError
from entcent_agents.recordings.batch import batch_body
from entcent_agents.recordings.entropy_results import read_entropy_results
from entcent_agents.recordings.llama import read_llama
from entcent_agents.recordings.records import Reader
from entcent_agents.recordings.responses import read_response
from entcent_agents.recordings.rollouts import read_rollout
from entcent_agents.recordings.shapes import Shape, head_of, shape_of
from entcent_agents.trajectory import Rollout

_READERS: Final[Mapping[Shape, Reader]] = {
    "rollout": read_rollout,
    "entropy_results": read_entropy_results,
    "response": read_response,
    "llama": read_llama,
}


def read_candidates(data: bytes, shape: Shape, where: str, answer: re.Pattern[str] | None) -> list[Rollout]:
    """The candidates in one JSON object.

    Args:
        data: The object.
        shape: Its shape.
        where: An identifier for them.
        answer: Where in a text its answer is.

    Raises:
        EntcentError: Where it is not what its shape says.
        ValueError: As msgspec says it of fields with other types.
    """
    if shape == "batch":
        data = batch_body(data)
        shape = shape_of(head_of(data))
        if shape == "batch":
            raise RecordingError("batch output within batch output; expected a response as its body")
    return _READERS[shape](data, where, answer)
