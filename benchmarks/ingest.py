"""What it costs to take in a response with log-probabilities: `ChatLogprobs` next to `ChatOpenAI`, in one run.

    python -m benchmarks.ingest

Both are given the same bytes, by way of the SDK: out of memory (the conversion alone, which the floor is for), and
over HTTP from a server in a process of its own. Ours ends with the turn scored (`TokenLogprobs` with entropies);
`ChatOpenAI` with the message alone, its log-probabilities raw and unscored. Prints CPU time of this process, and how
long the event loop was held up. Ends with exit code 1 where a limit is missed.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from typing import Annotated, Any, Final

import httpx2
import numpy as np
import typer
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI
from openai import AsyncOpenAI
from rich.console import Console
from rich.table import Table

from benchmarks.serving import in_a_process
from entcent_agents.chat.completion import CompletionRequest
from entcent_agents.chat.model import ChatLogprobs, aclose_clients
from entcent_agents.logprobs import TokenLogprobs

CPU_FLOOR: Final = 40.0
GROWTH_LIMIT: Final = 1.5
STALL_LIMIT_SECONDS: Final = 0.05
TICK_SECONDS: Final = 0.001
ROUNDS: Final = (8, 3)
"""Of short and long answers: enough for either side to see the machine when it is quick."""
READ_BYTES: Final = 1 << 16
WARM_UP: Final = 16
NOWHERE: Final = "http://memory/v1"

Call = Callable[[int], Awaitable[object]]


def entries(tokens: int, k: int) -> list[dict[str, Any]]:
    """Log-probabilities as OpenAI and vLLM write them."""
    rows = np.sort(np.random.default_rng(0).uniform(-20.0, -3.1, (tokens, k)))[:, ::-1]
    return [
        {
            "token": f" tok{i}",
            "logprob": row[0],
            "bytes": list(f" tok{i}".encode()),
            "top_logprobs": [{"token": f" t{j}", "logprob": value, "bytes": [32, 116]} for j, value in enumerate(row)],
        }
        for i, row in enumerate(rows.tolist())
    ]


def response(tokens: int, k: int, *, streamed: bool) -> bytes:
    """A whole chat completion, or its events."""
    content = entries(tokens, k)
    head = {"id": "x", "created": 0, "model": "m"}
    usage = {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": tokens + 1}
    if not streamed:
        message = {"role": "assistant", "content": "".join(entry["token"] for entry in content), "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": {"content": content, "refusal": None}}
        choices = [{**choice, "finish_reason": "stop"}]
        return json.dumps({**head, "object": "chat.completion", "choices": choices, "usage": usage}).encode()
    head["object"] = "chat.completion.chunk"
    deltas = [
        {"index": 0, "delta": {"content": entry["token"]}, "logprobs": {"content": [entry]}, "finish_reason": None}
        for entry in content
    ]
    deltas.append({"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"})
    events = [json.dumps({**head, "choices": [delta]}) for delta in deltas]
    events += [json.dumps({**head, "choices": [], "usage": usage}), "[DONE]"]
    return "".join(f"data: {event}\n\n" for event in events).encode()


def serve(k: int, port: Connection) -> None:
    """Answer every request with as many tokens as its `max_tokens` says."""
    ready: dict[tuple[int, bool], bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            streamed = bool(body.get("stream"))
            asked = (body.get("max_tokens") or body["max_completion_tokens"], streamed)
            if asked not in ready:
                ready[asked] = response(asked[0], k, streamed=streamed)
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream" if streamed else "application/json")
            self.send_header("Content-Length", str(len(ready[asked])))
            self.end_headers()
            self.wfile.write(ready[asked])

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    port.send(server.server_port)
    server.serve_forever()


@contextmanager
def serving(k: int) -> Iterator[str]:
    """The server in a process of its own; gives its address."""
    with in_a_process(serve, k) as base_url:
        yield base_url


class Memory(httpx2.AsyncBaseTransport):
    """Answers with bytes at hand, in the pieces in which a socket gives them."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """The same for every request."""
        return httpx2.Response(200, headers={"Content-Type": "application/json"}, content=self._pieces())

    async def _pieces(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self._body), READ_BYTES):
            yield self._body[start : start + READ_BYTES]


def our_body(base_url: str, k: int, client: httpx2.AsyncClient | None = None) -> Call:
    """Ours, unstreamed."""
    asked = AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0, http_client=client)

    async def call(tokens: int) -> None:
        payload = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": tokens}
        (completion,) = await CompletionRequest(asked, payload).completions()
        assert completion.logprobs and completion.logprobs.scored_tokens == tokens
        assert completion.logprobs.top_k == k

    return call


def our_stream(base_url: str, k: int) -> Call:
    """Ours, streamed."""
    model = ChatLogprobs(model="m", base_url=base_url, top_logprobs=k, max_retries=0)

    async def call(tokens: int) -> None:
        result = await model.agenerate([[HumanMessage("Hi")]], max_tokens=tokens)
        logprobs: TokenLogprobs = result.generations[0][0].token_logprobs  # type: ignore[attr-defined]
        assert logprobs.scored_tokens == tokens

    return call


def their_body(base_url: str, k: int, client: httpx2.AsyncClient | None = None) -> Call:
    """`ChatOpenAI`, unstreamed."""
    settings: dict[str, Any] = {"logprobs": True, "top_logprobs": k, "use_responses_api": False, "max_retries": 0}
    model = ChatOpenAI(model="m", base_url=base_url, api_key="none", http_async_client=client, **settings)  # type: ignore[arg-type]

    async def call(tokens: int) -> None:
        message = await model.ainvoke("Hi", max_tokens=tokens)
        assert len(message.response_metadata["logprobs"]["content"]) == tokens

    return call


async def cpu_seconds(call: Call, tokens: int, repeats: int) -> float:
    """Least CPU time of a few calls."""
    taken: list[float] = []
    for _ in range(repeats):
        started = time.process_time()
        await call(tokens)
        taken.append(time.process_time() - started)
    return min(taken)


async def longest_stalls(call: Call, tokens: int, concurrent: int) -> tuple[float, float]:
    """How long a task that only sleeps was held up at most while so many calls ran, in seconds beyond its sleep.

    By the clock, and by the CPU time this process took meanwhile: the latter leaves out what other processes took.
    """
    gaps: list[tuple[float, float]] = []

    async def tick() -> None:
        while True:
            clock, cpu = time.perf_counter(), time.process_time()
            await asyncio.sleep(TICK_SECONDS)
            gaps.append((time.perf_counter() - clock - TICK_SECONDS, time.process_time() - cpu))

    ticker = asyncio.create_task(tick())
    await asyncio.gather(*(call(tokens) for _ in range(concurrent)))
    ticker.cancel()
    return max(clock for clock, _ in gaps), max(cpu for _, cpu in gaps)


async def conversions(lengths: tuple[int, int], k: int, table: Table) -> bool:
    """CPU time out of memory; whether the floor is missed."""
    ours, theirs, kept = [], [], []
    for tokens, rounds in zip(lengths, ROUNDS, strict=True):
        async with httpx2.AsyncClient(transport=Memory(response(tokens, k, streamed=False))) as client:
            calls = our_body(NOWHERE, k, client), their_body(NOWHERE, k, client)
            # In turns, so that a busy machine is busy for both.
            taken = [[await cpu_seconds(call, tokens, 1) for call in (*calls, calls[0])] for _ in range(rounds)]
            ours.append(min(min(first, last) for first, _, last in taken) / tokens)
            theirs.append(min(their for _, their, _ in taken) / tokens)
            gc.disable()
            kept.append(await cpu_seconds(calls[1], tokens, 1) / tokens)
            gc.enable()
    ratios = [their / our for their, our in zip(theirs, ours, strict=True)]
    add_row(table, "conversion: ours, µs", ours)
    add_row(table, "conversion: ChatOpenAI, µs", theirs)
    add_row(table, "conversion: ChatOpenAI, times ours", ratios, f">= {CPU_FLOOR:g}")
    add_row(table, "the same without garbage collection", [a / b for a, b in zip(kept, ours, strict=True)])
    return min(ratios) < CPU_FLOOR


async def over_http(base_url: str, lengths: tuple[int, int], k: int, table: Table) -> bool:
    """CPU time over HTTP; whether tokens cost more the later they come."""
    taken: list[list[float]] = []
    for make in (our_body, their_body, our_stream):
        call = make(base_url, k)
        for tokens in (WARM_UP, *lengths) if make is not their_body else (WARM_UP,):
            await call(tokens)  # the server makes its answers, and caches are filled
        repeats = 1 if make is their_body else 2
        taken.append([await cpu_seconds(call, tokens, repeats) / tokens for tokens in lengths])
    ours, theirs, streamed = taken
    add_row(table, "over HTTP: ours, µs", ours)
    add_row(table, "over HTTP: ChatOpenAI, µs", theirs)
    add_row(table, "over HTTP: ChatOpenAI, times ours", [a / b for a, b in zip(theirs, ours, strict=True)])
    add_row(table, "over HTTP: ours streamed, µs", streamed, f"grows <= {GROWTH_LIMIT:g} times")
    return streamed[1] / streamed[0] > GROWTH_LIMIT


def add_row(table: Table, name: str, values: list[float], limit: str = "") -> None:
    """One row, values per token in microseconds where they are seconds."""
    scale = 1e6 if name.endswith("µs") else 1.0
    table.add_row(name, *(f"{scale * value:.1f}" for value in values), limit)


async def measured(base_url: str, short: int, long: int, k: int, concurrent: int) -> bool:
    """Measure and print; whether a limit is missed."""
    table = Table("", f"{short:,} tokens", f"{long:,} tokens", "limit", title=f"CPU time a token, top {k}")
    missed = await conversions((short, long), k, table)
    missed |= await over_http(base_url, (short, long), k, table)
    console = Console()
    console.print(table)
    gc.collect()
    for name, call in {"bodies": our_body(base_url, k), "streams": our_stream(base_url, k)}.items():
        clock, cpu = await longest_stalls(call, long, concurrent)
        missed |= cpu > STALL_LIMIT_SECONDS
        console.print(
            f"{concurrent} {name} of {long:,} tokens at once: the event loop was held up {1e3 * cpu:.0f} ms of our CPU "
            f"time at most, {1e3 * clock:.0f} ms by the clock; limit {1e3 * STALL_LIMIT_SECONDS:g} ms of CPU time"
        )
    await aclose_clients()
    return missed


def main(
    short: Annotated[int, typer.Option(min=1)] = 4096,
    long: Annotated[int, typer.Option(min=1)] = 32_768,
    top_k: Annotated[int, typer.Option(min=1)] = 20,
    concurrent: Annotated[int, typer.Option(min=1)] = 8,
) -> None:
    """Measure, print, and end with exit code 1 where a limit is missed."""
    with serving(top_k) as base_url:
        missed = asyncio.run(measured(base_url, short, long, top_k, concurrent))
    if missed:
        sys.exit("A limit was missed.")


if __name__ == "__main__":
    typer.run(main)
