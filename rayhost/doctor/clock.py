"""Whether the clock is right. rayhost itself counts on the monotonic one; logs and TLS do not."""

import ctypes
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from rayhost.doctor.finding import Finding

AHEAD_S = 300.0
_UNSYNCHRONIZED = 0x40  # STA_UNSYNC, of `status`, the int at byte 40 of struct timex
_STATUS_AT = 40


class Clock(NamedTuple):
    """Times are seconds since 1970."""

    synchronized: bool | None  # None: the kernel does not tell
    now_s: float
    newest_s: float  # when the newest of our files was changed


def read(paths: Iterable[Path]) -> Clock:
    """Read the kernel's clock, and when these files were changed."""
    changed = [path.stat().st_mtime for path in paths if path.exists()]
    return Clock(_synchronized(), time.time(), max(changed, default=0.0))


def check(clock: Clock) -> Iterator[Finding]:
    """Yield what is wrong with it."""
    enable = "timedatectl set-ntp true"
    if clock.newest_s > clock.now_s + AHEAD_S:
        yield Finding(
            "clock",
            "warning",
            f"a file was changed {clock.newest_s - clock.now_s:.0f} s in the future",
            "the clock was set back: log times repeat, and certificates may not be valid yet",
            enable,
        )
    if clock.synchronized is False:
        yield Finding(
            "clock",
            "warning",
            "the clock is not synchronized",
            "log times are wrong, and certificates may seem to have expired",
            f"apt-get install -y systemd-timesyncd && {enable}",
        )


def _synchronized() -> bool | None:
    timex = ctypes.create_string_buffer(256)  # modes 0: nothing is set
    if ctypes.CDLL(None).adjtimex(timex) < 0:
        return None
    status = int.from_bytes(timex.raw[_STATUS_AT : _STATUS_AT + 4], "little")
    return not status & _UNSYNCHRONIZED
