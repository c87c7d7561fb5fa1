"""As much of HTTP/1.1 as clients of models speak, at little cost to the machine that is measured."""

from __future__ import annotations

import asyncio
from typing import Any


class HttpConnection(asyncio.Protocol):
    """One connection of a scripted server: `asked` is called with each request, and answers with `write`."""

    def __init__(self) -> None:
        self._received = b""

    def asked(self, head: bytes, body: bytes) -> None:
        """A whole request has come."""
        raise NotImplementedError

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Answers are written to the transport."""
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        """A request is asked once all of it has come."""
        self._received += data
        head, end, rest = self._received.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
        if end and len(rest) >= length:
            self._received = rest[length:]
            self.asked(head, rest[:length])

    def write(self, body: bytes, kind: bytes = b"application/json") -> None:
        """Answer the request."""
        head = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n" % (kind, len(body))
        self._transport.write(head + body)
