"""The client's end of one exchange: its body, and whether it is still there.

The only module that calls `receive`, and so the only one that sees a client go: as `ClientGone`
while the body is read, as a cancellation of the work afterwards.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any

from starlette.types import Receive, Scope

from rayhost.errors import BodyTooLarge, Unavailable

FREE = 32 << 10  # bytes of each body that do not count; one that has more is large
TOTAL = 32 << 20
RETRY_S = 5


class ClientGone(Exception):
    """The client closed the connection: there is nobody left to answer."""


class Bodies:
    """Bodies on their way in: each of at most `each` bytes, all together of about `total`.

    Large ones are handed on one at a time, a turn of the event loop for each: making sense of one
    takes milliseconds, and whoever comes meanwhile (`/health`) has a turn of their own. Only what
    a body has beyond `FREE` counts towards the total, so that slow senders of large bodies never
    keep out the short ones that most requests have.
    """

    def __init__(self, each: int, total: int = TOTAL) -> None:
        self._each = each
        self._total = max(each, total)
        self.held = 0  # bytes that count now
        self._turn = asyncio.Lock()

    async def read(self, scope: Scope, receive: Receive) -> bytes:
        """Return the whole body.

        Raises BodyTooLarge, from the declared length before anything is read where there is one,
        Unavailable while too many large bodies are on their way, and ClientGone.
        """
        if _declared_length(scope) > self._each:
            raise _too_large(self._each)
        body = bytearray()
        counted = 0
        try:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                body += message.get("body", b"")
                if len(body) > self._each:
                    raise _too_large(self._each)
                if not message.get("more_body", False):
                    break
                grown = max(0, len(body) - FREE) - counted
                if self.held + grown > self._total:
                    raise Unavailable(
                        "the server is receiving as many large bodies as it has memory for",
                        code="too_many_bodies",
                        retry_after=RETRY_S,
                    )
                counted += grown
                self.held += grown
            if len(body) > FREE:
                async with self._turn:
                    await asyncio.sleep(0)
            return bytes(body)
        finally:
            self.held -= counted


async def while_connected(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Run `work` to its end, or cancel it as soon as the client goes.

    Call it once the body is read. Returns or raises what `work` does; raises ClientGone when it
    was cancelled for want of a client. Whatever happens, no task outlives the call.
    """
    working = asyncio.create_task(work)
    watching = asyncio.create_task(_disconnected(receive))
    gone = False
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        gone = not working.done()
    finally:
        working.cancel()
        watching.cancel()
        await asyncio.wait((working, watching))
    if not working.cancelled():
        return working.result()
    if gone:
        watching.result()  # a `receive` that failed says so here
        raise ClientGone
    # A future that someone else cancelled came out of the work. As a CancelledError it would pass
    # for the server's own and leave the client without an answer.
    raise RuntimeError("the work was cancelled from within")


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _declared_length(scope: Scope) -> int:
    """Return the Content-Length, 0 when there is none to go by."""
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value[:20])
    return 0


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"the request body is over this server's limit of {limit} bytes")
