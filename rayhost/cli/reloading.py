"""Reloads of a running host, one after another. `service` makes it and says how one is applied.

Invariant: a profile that is not valid is told at once and ends no other reload; a valid one takes
the place of those that still wait, for their turn or for a pull. So an index that never answers
keeps neither a mended profile nor the end of the host waiting.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import structlog

from rayhost.cli.access import Access
from rayhost.cli.changes import Reloaded, Setup
from rayhost.errors import RayhostError
from rayhost.models.fetch import Stopped
from rayhost.profile import Profile
from rayhost.systemd import Notifier, extending, reload_of

Reread = Callable[[], tuple[Profile, Access]]
Plan = Callable[[Profile, Access, Callable[[], None]], Setup]

_GOING_DOWN = "the server is going down"
_log = structlog.get_logger("rayhost.service")


class Reloads:
    """Lives in the event loop's thread."""

    def __init__(
        self,
        *,
        reread: Reread,
        plan: Plan,
        apply: Callable[[Setup], Awaitable[Reloaded]],
        notifier: Notifier,
        status: Callable[[], str],
        going_down: asyncio.Event,
    ) -> None:
        """`reread` returns what the profile says now, `plan` makes a setup of it, and may pull.

        Both are called in threads, and raise RayhostError as `apply` does. `plan` calls its last
        argument while it pulls, and ends with what that raises.
        """
        self._reread = reread
        self._plan = plan
        self._apply = apply
        self._notifier = notifier
        self._status = status
        self._going_down = going_down
        self._reading = asyncio.Lock()
        self._applying = asyncio.Lock()
        self._newest = 0
        self._tasks: set[asyncio.Task[Reloaded]] = set()

    def begin(self) -> asyncio.Task[Reloaded]:
        """Apply the profile as it is now; what went wrong is in the log, too."""
        task = asyncio.get_running_loop().create_task(self._reload())
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def asked(self) -> Reloaded:
        """Apply it and return what that did, or go on with it where nobody waits for the end.

        Raises RayhostError: then nothing has changed.
        """
        task = self.begin()
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise RayhostError(_GOING_DOWN) from None
            raise

    def cancel(self) -> None:
        """End those that are under way."""
        for task in self._tasks:
            task.cancel()

    async def _reload(self) -> Reloaded:
        try:
            async with self._reading:  # so the order of turns is that of what was read
                read = await asyncio.to_thread(self._reread)
                self._newest += 1
                turn = self._newest
            async with self._applying:
                self._check(turn)
                with reload_of(self._notifier, self._status):
                    async with extending(self._notifier):
                        wanted = partial(self._check, turn)
                        return await self._apply(await asyncio.to_thread(self._plan, *read, wanted))
        except RayhostError as error:
            _log.error("reload refused", reason=str(error))
            raise

    def _check(self, turn: int) -> None:
        """Raise Stopped where nobody waits for a reload any more. Also called in its thread."""
        if self._going_down.is_set():
            raise Stopped(_GOING_DOWN)
        if turn != self._newest:
            raise Stopped("a newer reload took its place")

    def _ended(self, task: asyncio.Task[Reloaded]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, RayhostError):
            _log.error("reload failed", exc_info=error)
