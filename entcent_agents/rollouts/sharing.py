"""Calls that several rollouts make at the same time, and that are made once."""

from __future__ import annotations

import asyncio
from typing import Any

from entcent_agents.rollouts.calls import Key, Run


class SharedCalls:
    """Calls that rollouts of one round make at the same time, and that are made once. For one event loop."""

    def __init__(self) -> None:
        self._running: dict[Key, asyncio.Future[Any]] = {}

    async def once(self, key: Key, run: Run, *, share_errors: bool) -> Any:
        """What `run` gives, to all who ask for it while it runs.

        Where it fails and errors are not shared, or whoever ran it was cancelled, the next one runs it.
        """
        while (running := self._running.get(key)) is not None:
            await asyncio.wait([running])
            if running.cancelled():
                continue
            if (error := running.exception()) is None:
                return running.result()
            if share_errors:
                raise error
        mine = self._running[key] = asyncio.get_running_loop().create_future()
        try:
            result = await run()
        except Exception as error:
            mine.set_exception(error)
            mine.exception()  # asked for once, so that nobody is warned where nobody else waits
            raise
        except BaseException:
            mine.cancel()
            raise
        else:
            mine.set_result(result)
            return result
        finally:
            del self._running[key]
