"""Signs of life on a stream that says nothing, so that no proxy or client takes it for dead.

They are comments of the event stream, which clients skip: that the model loads or reads the prompt,
the place in the queue, that the prompt is being computed, or only that the answer goes on (text is
held back, its worker is replaced). Used by `generate` alone.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, Protocol

from starlette.types import Message, Send

from rayhost.front.request import Standing

EVERY_S = 5.0  # proxies give up after 30 to 60 s without a byte, some clients after 10


class Waiting(Protocol):
    """A run, or several."""

    def standing(self) -> Standing | None:
        """Return where it waits; None once it is being answered."""
        ...


async def admitted(
    submitting: Coroutine[Any, Any, None],
    begin: Callable[[], Awaitable[None]],
    told: Callable[[], str],
    send: Send,
    every_s: float | None = None,
) -> bool:
    """Wait for `submitting`, and raise what it does; return whether the stream was begun for it.

    Within `every_s` a refusal can still be the status. After that the stream is begun, and gets
    what is `told` as a comment.
    """
    every_s = EVERY_S if every_s is None else every_s
    working = asyncio.create_task(submitting)
    begun = False
    try:
        while not (await asyncio.wait((working,), timeout=every_s))[0]:
            if not begun:
                begun = True
                await begin()
            body = f": {told()}\n\n".encode("ascii")
            await send({"type": "http.response.body", "body": body, "more_body": True})
        working.result()
        return begun
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)


@contextlib.asynccontextmanager
async def commented(
    run: Waiting,
    send: Send,
    every_s: float = EVERY_S,
    alive: Callable[[bytes], bytes] = bytes,
) -> AsyncIterator[Send]:
    """Yield the `send` to use, beside which a comment is sent when nothing was for `every_s`.

    `alive` may add to a comment what clients of some API expect.
    """
    quiet = _Quiet(send)
    talking = asyncio.create_task(_comment(run, quiet, every_s, alive))
    try:
        yield quiet.send
    finally:
        talking.cancel()
        # A `send` that failed there fails here too, at the next text.
        await asyncio.gather(talking, return_exceptions=True)


class _Quiet:
    """A `send` that knows for how long it was not used."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._under_way = 0
        self._last_s = self._loop.time()

    @property
    def for_s(self) -> float:
        """Seconds since something was sent; 0 while the reader is too slow for what is there."""
        return 0.0 if self._under_way else self._loop.time() - self._last_s

    async def send(self, message: Message) -> None:
        self._under_way += 1
        try:
            await self._send(message)
        finally:
            self._under_way -= 1
            self._last_s = self._loop.time()


async def _comment(
    run: Waiting, quiet: _Quiet, every_s: float, alive: Callable[[bytes], bytes]
) -> None:
    while True:
        await asyncio.sleep(every_s - quiet.for_s)
        if quiet.for_s >= every_s:
            body = alive(f": {_told(run.standing())}\n\n".encode("ascii"))
            await quiet.send({"type": "http.response.body", "body": body, "more_body": True})


def _told(standing: Standing | None) -> str:
    if standing is None:
        return "keep-alive"
    if standing.position == 0:
        return "prefilling"
    if standing.estimate_s is None:
        return f"queued position={standing.position}"
    return f"queued position={standing.position} estimate_s={standing.estimate_s:.1f}"
