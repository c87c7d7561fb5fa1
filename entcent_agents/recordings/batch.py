"""Lines of batch output: `{"custom_id", "response": {"status_code", "body"}, "error"}`."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from entcent_agents.errors import RecordingError
from entcent_agents.recordings.shapes import said


class _Response(msgspec.Struct):
    body: msgspec.Raw
    status_code: int = 200


class _Line(msgspec.Struct):
    response: _Response | None = None
    error: Any = None


_LINE: Final = msgspec.json.Decoder(_Line)


def batch_body(data: bytes) -> bytes:
    """The response inside.

    Raises:
        RecordingError: Where the request failed.
    """
    line = _LINE.decode(data)
    if line.error:
        raise RecordingError(f"the request failed: {said(line.error)}")
    if line.response is None:
        raise RecordingError("neither a response nor an error; expected one of them")
    if not 200 <= line.response.status_code < 300:
        body = said(msgspec.json.decode(line.response.body))
        raise RecordingError(f"the request failed with status {line.response.status_code}: {body}")
    return bytes(line.response.body)
