"""Lines of an `entropy_results.jsonl`, as the authors of Entropy Centroids write it: one trajectory each."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from entcent_agents.capture.entropy_results import EntropyRow, recorded_entropies
from entcent_agents.errors import RecordingError
from entcent_agents.recordings.generation import generation
from entcent_agents.trajectory import Rollout


class _Line(msgspec.Struct):
    generated_text: str
    entropy_sequence: list[EntropyRow]
    tokens: list[Any] | None = None
    token_ids: list[int] | None = None


_LINE: Final = msgspec.json.Decoder(_Line)


def read_entropy_results(data: bytes, where: str, answer: re.Pattern[str] | None) -> list[Rollout]:
    """One candidate.

    Raises:
        RecordingError: Where there is not one entropy a token.
    """
    line = _LINE.decode(data)
    rows = len(line.entropy_sequence)
    for name, tokens in (("tokens", line.tokens), ("token_ids", line.token_ids)):
        if tokens is not None and len(tokens) != rows:
            raise RecordingError(f"{len(tokens)} {name} and an entropy_sequence of {rows}; expected as many of each")
    return [generation(where, recorded_entropies(line.entropy_sequence), answer=line.generated_text, pattern=answer)]
