"""Waiting for what another process or the event loop does, with a deadline and never a bare sleep.

A condition that nothing announces (a status page, a process list) is polled; the deadline is far
beyond what any machine needs, so that it only decides when something is broken.
"""

import asyncio
import time
from collections.abc import Callable

DEADLINE_S = 30.0
_POLL_S = 0.005


def eventually(condition: Callable[[], object], what: str) -> None:
    """Return once the condition holds; fail, naming `what`, when it does not in time."""
    give_up = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > give_up:
            raise AssertionError(f"waited {DEADLINE_S:.0f} s in vain: {what}")
        time.sleep(_POLL_S)


async def soon(condition: Callable[[], object], what: str) -> None:
    """The same inside the event loop, which goes on meanwhile."""
    give_up = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > give_up:
            raise AssertionError(f"waited {DEADLINE_S:.0f} s in vain: {what}")
        await asyncio.sleep(_POLL_S)
