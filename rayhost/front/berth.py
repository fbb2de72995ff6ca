"""Where a lane's worker lies: the link to it, the wait for one, or why there is none to wait for.

Invariant: whoever waits is let go when a worker comes, or an error is set instead of one.
"""

import asyncio
from collections.abc import Callable

from rayhost import clock
from rayhost.errors import ApiError
from rayhost.front.prompts import Outlet
from rayhost.ipc.messages import Message


class Berth:
    """One lane's. `link` is None while there is no worker."""

    def __init__(self, wanted: Callable[[], None]) -> None:
        """`wanted` hears of each one who comes to wait."""
        self.link: Outlet | None = None
        self._wanted = wanted
        self._settled = asyncio.Event()  # a worker is here, or there will never be one
        self._closing: ApiError | None = None
        self._load_ns = 0.0  # that the last worker took to load
        self._began_ns = clock.now_ns()

    def attach(self, link: Outlet, load_ms: float = 0.0) -> None:
        """A worker is here, which loaded its model in `load_ms`."""
        if self.link is None:  # else the same one, with another context
            self._load_ns = load_ms * 1e6
        self.link = link
        self._settled.set()

    def detach(self) -> None:
        """It is gone; another one will come."""
        self.link = None
        self._settled.clear()
        self.load_begins()

    def load_begins(self) -> None:
        """What is to come begins to load only now."""
        self._began_ns = clock.now_ns()

    @property
    def loading_ns(self) -> float | None:
        """How long a worker is still to come for, as long as the last one took to load.

        None where there is one, or an error instead.
        """
        if self.link is not None or self._closing is not None:
            return None
        return max(0.0, self._load_ns - (clock.now_ns() - self._began_ns))

    def turn_away(self, error: ApiError | None) -> None:
        """Answer whoever waits with `error`; None: let them wait again."""
        self._closing = error
        if error is not None:
            self._settled.set()
        elif self.link is None:
            self._settled.clear()

    def check(self) -> None:
        """Raise the error that is set, if one is."""
        if self._closing is not None:
            # The same error each time; its traceback would grow by every request it ends.
            raise self._closing.with_traceback(None)

    async def worker(self) -> Outlet:
        """Return the link to a worker. Raises the error that is set instead of one."""
        while True:
            self._wanted()
            await self._settled.wait()
            self.check()
            if self.link is not None:  # it may have died again before this task had its turn
                return self.link

    def send(self, number: int, message: Message) -> None:
        """Tell the worker, if there is one."""
        if self.link is not None:
            self.link.send(number, message)
