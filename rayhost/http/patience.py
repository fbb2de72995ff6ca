"""Signs of life on a stream that has no text yet, so that no proxy takes it for dead.

They are comments of the event stream, which clients skip: the place in the queue, or that the
prompt is being computed. Used by `generate` alone.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from starlette.types import Send

from rayhost.front.request import Standing

EVERY_S = 5.0  # proxies give up after 30 to 60 s without a byte


class Waiting(Protocol):
    """A run, or several."""

    def standing(self) -> Standing | None:
        """Return where it waits; None once it is being answered."""
        ...


@contextlib.asynccontextmanager
async def commented(
    run: Waiting,
    send: Send,
    every_s: float = EVERY_S,
    alive: Callable[[bytes], bytes] = bytes,
) -> AsyncIterator[None]:
    """Send a comment each `every_s` while the run waits, also where it waits anew.

    `alive` may add to it what clients of some API expect.
    """
    talking = asyncio.create_task(_comment(run, send, every_s, alive))
    try:
        yield
    finally:
        talking.cancel()
        # A `send` that failed there fails here too, at the next text.
        await asyncio.gather(talking, return_exceptions=True)


async def _comment(
    run: Waiting, send: Send, every_s: float, alive: Callable[[bytes], bytes]
) -> None:
    while True:
        await asyncio.sleep(every_s)
        standing = run.standing()
        if standing is not None:
            body = alive(f": {_told(standing)}\n\n".encode("ascii"))
            await send({"type": "http.response.body", "body": body, "more_body": True})


def _told(standing: Standing) -> str:
    if standing.position == 0:
        return "prefilling"
    if standing.estimate_s is None:
        return f"queued position={standing.position}"
    return f"queued position={standing.position} estimate_s={standing.estimate_s:.1f}"
