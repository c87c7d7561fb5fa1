"""A scripted OpenAI-compatible server on 127.0.0.1: a real socket and real HTTP, and answers written by the test."""

from __future__ import annotations

import json
import math
import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import zip_longest
from typing import Any, Self


@dataclass(frozen=True, kw_only=True)
class Token:
    """One token on the wire: what it says, and the probabilities of the k alternatives, the sampled one's first.

    `logprobs` goes over the wire in place of the probabilities' logarithms, NaN and infinities as Python writes them;
    `names` is what the alternatives say.
    """

    says: str | bytes
    probabilities: Sequence[float] = (1.0,)
    logprobs: Sequence[float | None] | None = None
    names: Sequence[str] | None = None

    def entry(self) -> dict[str, Any]:
        raw = self.says if isinstance(self.says, bytes) else self.says.encode()
        logprobs = [math.log(p) for p in self.probabilities] if self.logprobs is None else self.logprobs
        names = self.names or [f"t{i}" for i in range(len(logprobs))]
        top = [{"token": name, "logprob": value, "bytes": None} for name, value in zip(names, logprobs, strict=True)]
        return {
            "token": raw.decode(errors="replace"),
            "logprob": top[0]["logprob"] if top else -9999.0,
            "bytes": list(raw),
            "top_logprobs": top,
        }


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One choice of an answer, or an error.

    `status` other than 200 answers with `error` instead; `breaks_after` ends the stream after that many tokens, and a
    body in its middle: by closing the connection early ("close"), in the middle of a chunk ("cut"), by resetting it
    ("reset"), or by falling silent ("stall"). `hangs_up` closes the connection before a byte; `trickle_seconds` pass
    after every event of a stream, and twentieth of a body; where `delay_seconds` is infinite no answer ever comes.
    `listed` is how many tokens get log-probabilities: all of them if None. Nothing is answered before `after` is set.
    Ids of tool calls are `call_id` and a number. `prompt_tokens` is what usage says of this prompt.
    """

    tokens: Sequence[Token] = (Token(says="ok"),)
    tool_calls: Sequence[tuple[str, str]] = ()
    call_id: str = "call"
    logprobs: bool = True
    listed: int | None = None
    index: int | None = None
    finish_reason: str = "stop"
    status: int = 200
    error: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    breaks_after: int | None = None
    breaks_how: str = "close"
    raw: bytes | None = None
    model: str = "scripted"
    delay_seconds: float = 0.0
    after: threading.Event | None = None
    hangs_up: bool = False
    trickle_seconds: float = 0.0
    prompt_tokens: int | None = None

    def content(self) -> dict[str, Any] | None:
        return {"content": [token.entry() for token in self.tokens[: self.listed]]} if self.logprobs else None

    @property
    def text(self) -> str:
        return b"".join(t.says if isinstance(t.says, bytes) else t.says.encode() for t in self.tokens).decode()


def says(text: str, **rest: Any) -> Reply:
    """A reply of one token a word, each with two equally likely alternatives."""
    words = [word if i == 0 else f" {word}" for i, word in enumerate(text.split(" "))]
    return Reply(tokens=[Token(says=word, probabilities=(0.5, 0.5)) for word in words], **rest)


@dataclass(frozen=True)
class Request:
    """What the server was asked."""

    path: str
    body: dict[str, Any]
    headers: dict[str, str]

    @property
    def n(self) -> int:
        return self.body.get("n", 1)


Script = Sequence[Reply] | Callable[[Request], Sequence[Reply]]


class ChatServer:
    """Answers each request with the next replies of a list (one a choice, the last repeated), or those of a function.

    Args:
        replies: The script.
        max_n: Refuse more choices, in llama.cpp's words.
        gives: Give at most so many choices, whatever was asked for.
        prompt_tokens: What usage says of every prompt.
        ascii_json: False: characters go over the wire as they are, line separators included.
        counts: False: answers carry no usage; "first": that of the first choice alone, as llama.cpp's do.
        models: What it lists at `/models`; None: nothing is there.
    """

    def __init__(
        self,
        replies: Script = (Reply(),),
        *,
        max_n: int | None = None,
        gives: int | None = None,
        prompt_tokens: int = 10,
        ascii_json: bool = True,
        counts: bool | str = True,
        models: Sequence[dict[str, Any]] | None = None,
    ) -> None:
        self.models = models
        self.closing = threading.Event()
        self._counts = counts
        self.requests: list[Request] = []
        self.asked = threading.Event()
        self.silent = 0
        self.hung_up = threading.Event()
        self.hang_ups = 0
        self._script = replies
        self._max_n, self._gives, self._prompt_tokens, self._ascii = max_n, gives, prompt_tokens, ascii_json
        self._next = 0
        self._lock = threading.Condition()
        self._http = _Http(("127.0.0.1", 0), _Handler)
        self._http.script = self
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}/v1"

    @property
    def answered(self) -> list[Request]:
        """What the model was asked, without what its tokenizer was."""
        return [request for request in self.requests if request.path.endswith("completions")]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    @property
    def open_connections(self) -> int:
        """How many clients are connected."""
        return len(self._http.connected)

    def answer(self, request: Request) -> list[Reply]:
        """The replies to a request, one a choice."""
        with self._lock:
            self.requests.append(request)
            self.asked.set()
            self._lock.notify_all()
            if self._max_n is not None and request.n > self._max_n:
                words = f"Field 'n': Value must be between 1 <= value <= {self._max_n}, but got {request.n}"
                return [Reply(status=400, error=words)]
            if callable(self._script):
                return list(self._script(request))
            replies = []
            for _ in range(min(request.n, self._gives or request.n)):
                replies.append(self._script[min(self._next, len(self._script) - 1)])
                self._next += 1
                if replies[-1].status != 200:
                    break
            return replies

    def leave(self) -> None:
        """A client closed its connection before it had its answer."""
        with self._lock:
            self.hang_ups += 1
            self._lock.notify_all()
        self.hung_up.set()

    @contextmanager
    def falls_silent(self) -> Iterator[None]:
        """What will never be answered is counted, as long as somebody waits for it."""
        with self._lock:
            self.silent += 1
        try:
            yield
        finally:
            with self._lock:
                self.silent -= 1

    def comes_to(self, state: Callable[[], bool], seconds: float = 60.0) -> bool:
        """Whether a state of requests and hang-ups comes within the time; blocks until then."""
        with self._lock:
            return self._lock.wait_for(state, seconds)

    def body(self, replies: Sequence[Reply]) -> bytes:
        """A whole answer."""
        choices = [
            {
                "index": i if reply.index is None else reply.index,
                "message": _message(reply),
                "finish_reason": reply.finish_reason,
                "logprobs": reply.content(),
            }
            for i, reply in enumerate(replies)
        ]
        return self._json({"model": replies[0].model, "choices": choices, "usage": self._usage(replies)})

    def events(self, replies: Sequence[Reply]) -> Iterator[bytes]:
        """A streamed answer: the tokens of the choices take turns."""
        decoders = [_Pieces() for _ in replies]
        for place, column in enumerate(zip_longest(*(reply.tokens for reply in replies))):
            for i, token in enumerate(column):
                if token is not None:
                    listed = replies[i].logprobs and place < (replies[i].listed or place + 1)
                    logprobs = {"content": [token.entry()]} if listed else None
                    yield self._event(i, {"content": decoders[i].add(token.says)}, logprobs, None)
        for i, reply in enumerate(replies):
            calls = [{"index": place, **call} for place, call in enumerate(_calls(reply))]
            yield self._event(i, {"tool_calls": calls} if calls else {}, None, reply.finish_reason)
        end = {"model": replies[0].model, "choices": [], "usage": self._usage(replies)}
        yield b"data: " + self._json(end) + b"\n\n"
        yield b"data: [DONE]\n\n"

    def _event(self, index: int, delta: dict[str, Any], logprobs: Any, finish_reason: str | None) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        return b"data: " + self._json({"choices": [choice]}) + b"\n\n"

    def _usage(self, replies: Sequence[Reply]) -> dict[str, int] | None:
        if not self._counts:
            return None
        counted = replies[:1] if self._counts == "first" else replies
        generated = sum(len(reply.tokens) for reply in counted)
        prompt = self._prompt_tokens if replies[0].prompt_tokens is None else replies[0].prompt_tokens
        return {"prompt_tokens": prompt, "completion_tokens": generated}

    def _json(self, value: Any) -> bytes:
        return json.dumps(value, ensure_ascii=self._ascii).encode()


class _Pieces:
    """Gives text when characters are whole, as servers do."""

    def __init__(self) -> None:
        self._rest = b""

    def add(self, piece: str | bytes) -> str:
        self._rest += piece if isinstance(piece, bytes) else piece.encode()
        try:
            whole = self._rest.decode()
        except UnicodeDecodeError:
            return ""
        self._rest = b""
        return whole


def _calls(reply: Reply) -> list[dict[str, Any]]:
    return [
        {"id": f"{reply.call_id}_{i}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for i, (name, arguments) in enumerate(reply.tool_calls)
    ]


def _message(reply: Reply) -> dict[str, Any]:
    calls = _calls(reply)
    return {"role": "assistant", "content": reply.text, **({"tool_calls": calls} if calls else {})}


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256  # of the five that are usual, many clients at once would wait a second for the next try
    script: ChatServer

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.connected: set[Any] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Somebody connects."""
        self.connected.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Somebody is gone."""
        self.connected.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is no error of the server."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Http

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        models = self.server.script.models
        if models is None:
            self._send(404, b'{"error": {"message": "no such page"}}', {})
        else:
            self._send(200, json.dumps({"object": "list", "data": models}).encode(), {})

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        sent = self.rfile.read(length)
        if len(sent) < length:  # the client was killed while it wrote
            return
        body = json.loads(sent)
        headers = {name.lower(): value for name, value in self.headers.items()}
        replies = self.server.script.answer(Request(self.path, body, headers))
        if replies[0].after:
            replies[0].after.wait()
        if self._hangs_up_within(replies[0].delay_seconds):
            return
        if replies[0].hangs_up:
            self.close_connection = True
            return
        failed = next((reply for reply in replies if reply.status != 200), None)
        try:
            if failed:
                self._send(failed.status, json.dumps({"error": {"message": failed.error}}).encode(), failed.headers)
            elif replies[0].raw is not None:
                self._send(200, replies[0].raw, replies[0].headers)
            elif body.get("stream"):
                self._stream(replies)
            else:
                self._send(200, self.server.script.body(replies), {}, replies[0])
        except (BrokenPipeError, ConnectionResetError):
            self.server.script.leave()

    def _hangs_up_within(self, seconds: float) -> bool:
        """Wait, and see whether the client closes the connection meanwhile."""
        if seconds == math.inf:
            with self.server.script.falls_silent():
                return self._hangs_up(seconds)
        return self._hangs_up(seconds)

    def _hangs_up(self, seconds: float) -> bool:
        until = time.monotonic() + seconds
        while (rest := until - time.monotonic()) > 0 and not self.server.script.closing.is_set():
            if not select.select([self.connection], [], [], min(rest, 0.05))[0]:
                continue
            with suppress(ConnectionResetError):
                if self.connection.recv(1, socket.MSG_PEEK):
                    time.sleep(min(rest, 0.05))  # its next request, which has to wait
                    continue
            self.close_connection = True
            self.server.script.leave()
            return True
        return False

    def _send(self, status: int, content: bytes, headers: dict[str, str], reply: Reply | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": len(content), **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if reply and reply.breaks_after is not None:
            self.wfile.write(content[: len(content) // 2])
            self._break(reply.breaks_how)
        elif reply and reply.trickle_seconds:
            self._trickle(content, reply.trickle_seconds)
        else:
            self.wfile.write(content)

    def _trickle(self, content: bytes, seconds: float) -> None:
        """Write little by little, until all is written or the client is gone."""
        size = len(content) // 20 + 1
        for start in range(0, len(content), size):
            self.wfile.write(content[start : start + size])
            self.wfile.flush()
            if self._hangs_up_within(seconds):
                return

    def _break(self, how: str) -> None:
        self.close_connection = True
        self.wfile.flush()
        if how == "stall":
            self._hangs_up_within(math.inf)
        elif how == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def _stream(self, replies: Sequence[Reply]) -> None:
        breaks = replies[0].breaks_after
        chunked = breaks is None or replies[0].breaks_how != "close"
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header(*(("Transfer-Encoding", "chunked") if chunked else ("Connection", "close")))
        self.end_headers()
        for i, event in enumerate(self.server.script.events(replies)):
            if i == breaks:
                self._break(replies[0].breaks_how)
                return
            self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event) if chunked else event)
            self.wfile.flush()
            if self._hangs_up_within(replies[0].trickle_seconds):
                return
        self.wfile.write(b"0\r\n\r\n")


def numbered(request: Request, text: str = "answer") -> list[Reply]:
    """As many different replies as there are choices."""
    return [replace(says(f"{text} {i}"), finish_reason="stop") for i in range(request.n)]
