"""A model server in a process of its own, so that its work is not counted with its client's."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def in_a_process(serve: Callable[..., None], *arguments: object) -> Iterator[str]:
    """Run a server until the block ends; gives its address.

    Args:
        serve: Called in the process with the arguments, and a connection that it sends its port to.
        *arguments: Of it.
    """
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    server = context.Process(target=serve, args=(*arguments, sending), daemon=True)
    server.start()
    try:
        yield f"http://127.0.0.1:{receiving.recv()}/v1"
    finally:
        server.terminate()
        server.join()
