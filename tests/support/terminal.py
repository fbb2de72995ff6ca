"""A program in a terminal of its own: what it shows, and what is typed."""

import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from tests.support.waiting import DEADLINE_S


class Terminal:
    """Use it with `with`: the program is gone in the end."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str]) -> None:
        self._screen, inside = pty.openpty()
        self.process = subprocess.Popen(
            argv, stdin=inside, stdout=inside, stderr=inside, env={**env, "TERM": "xterm"}
        )
        os.close(inside)
        self.shown = ""
        self._seen = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._screen)

    def type(self, text: str) -> None:
        os.write(self._screen, text.encode())

    def expect(self, text: str) -> None:
        """Wait until the program shows a text, behind the one expected before."""
        give_up = time.monotonic() + DEADLINE_S
        while (at := self.shown.find(text, self._seen)) < 0:
            left = give_up - time.monotonic()
            assert left > 0, f"no {text!r} in {self.shown[self._seen :]!r}"
            assert self._read(left), f"it ended without {text!r}: {self.shown!r}"
        self._seen = at + len(text)

    def interrupt(self, until: str) -> None:
        """Send SIGINT, as Ctrl-C does, until the program shows a text.

        Again after a while, because Python loses one that comes just as `input` begins to wait; not
        sooner, because a second one would take away the line that is typed next.
        """
        give_up, again = time.monotonic() + DEADLINE_S, 0.0
        while until not in self.shown[self._seen :]:
            now = time.monotonic()
            assert now < give_up, f"no {until!r} in {self.shown[self._seen :]!r}"
            if now >= again:
                self.process.send_signal(signal.SIGINT)
                again = now + 5
            assert self._read(again - now), f"it ended without {until!r}: {self.shown!r}"
        self.expect(until)

    def exit_status(self) -> int:
        """Wait for the program's end, reading what it still shows."""
        give_up = time.monotonic() + DEADLINE_S
        while self._read(1):
            assert time.monotonic() < give_up, f"it goes on: {self.shown[self._seen :]!r}"
        return self.process.wait(DEADLINE_S)

    def _read(self, timeout_s: float) -> bool:
        """Read what there is within a time; return False at the end."""
        if not select.select([self._screen], [], [], timeout_s)[0]:
            return True
        try:
            data = os.read(self._screen, 65536)
        except OSError:  # nobody has the other side any more
            return False
        self.shown += data.decode(errors="replace")
        return bool(data)
