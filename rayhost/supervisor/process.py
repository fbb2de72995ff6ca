"""One worker process: spawned with its end of a channel, watched through a pidfd.

Invariant: whoever holds a `Process` learns of its death from the event loop within milliseconds,
exactly once, and it is reaped then. A worker dies with this process (PR_SET_PDEATHSIG), and its
channel has no name, so no kind of exit leaves anything behind.
"""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable

from rayhost.ipc.channel import ChildFds


class Process:
    """A running `python -m rayhost.worker`."""

    def __init__(self, model: str, child: ChildFds, on_exit: Callable[[int], None]) -> None:
        """Start it. Raises OSError when the machine has no room for a process.

        `on_exit` gets the exit code, negative for the signal that killed it.
        """
        command = [sys.executable, "-m", "rayhost.worker", model, child.to_arg(), str(os.getpid())]
        try:
            # Spawned, never forked: the front has threads. The child inherits only the channel.
            self._popen = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=sys.stderr, pass_fds=child.fds
            )
        finally:
            child.close()
        self.pid = self._popen.pid
        self.exited = asyncio.Event()
        self._on_exit = on_exit
        try:
            self._pidfd = os.pidfd_open(self.pid)
        except OSError:  # no descriptor left: nobody could watch it
            self._popen.kill()
            self._popen.wait()
            raise
        asyncio.get_running_loop().add_reader(self._pidfd, self._reap)

    def kill(self) -> None:
        """Send SIGKILL; harmless once it is gone."""
        if not self.exited.is_set():
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def _reap(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        code = self._popen.wait()
        self.exited.set()
        os.close(self._pidfd)
        self._on_exit(code)


def describe_exit(code: int) -> str:
    """Return how a process ended, for people."""
    if code >= 0:
        return f"exit status {code}"
    return f"killed by {signal.Signals(-code).name}"
