"""The kernel's own word that memory is short, heard before it kills. A thin shell.

v1: `memory.pressure_level` through an eventfd; v2 and the bare machine: a PSI trigger. Where
neither may be used, nobody is told, and what is left is to look often. The service uses it.
"""

import asyncio
import contextlib
import os
import select
from collections.abc import Callable, Iterator
from pathlib import Path

from rayhost.governor.readings import Kernel

# Some task waited for memory 0.1 s of 2 s. Windows of 2 s need no privilege.
_TRIGGER = b"some 100000 2000000\0"


@contextlib.contextmanager
def raised(kernel: Kernel, hear: Callable[[], None]) -> Iterator[bool]:
    """Call `hear` in the running loop when the kernel says so; yield whether it ever will."""
    with contextlib.ExitStack() as held:
        group = kernel.memory_group
        found = _v1(group.folders[0], held) if group and group.version == 1 else None
        found = found or _psi(kernel.pressure_file, held)
        if found is None:
            yield False
            return
        loop = asyncio.get_running_loop()
        descriptor, clear = found

        def woken() -> None:
            clear()
            hear()

        loop.add_reader(descriptor, woken)
        held.callback(loop.remove_reader, descriptor)
        yield True


_Source = tuple[int, Callable[[], object]]  # a descriptor, and what makes it silent again


def _v1(folder: Path, held: contextlib.ExitStack) -> _Source | None:
    """Listen to the group's reclaim: `medium` is told when the kernel drops what is in use."""
    try:
        level = os.open(folder / "memory.pressure_level", os.O_RDONLY | os.O_CLOEXEC)
        held.callback(os.close, level)
        control = os.open(folder / "cgroup.event_control", os.O_WRONLY | os.O_CLOEXEC)
        held.callback(os.close, control)
        event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        held.callback(os.close, event)
        os.write(control, f"{event} {level} medium".encode())
    except OSError:  # no such file, or not ours to write
        return None
    return event, lambda: os.eventfd_read(event)


def _psi(file: Path, held: contextlib.ExitStack) -> _Source | None:
    try:
        trigger = os.open(file, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        held.callback(os.close, trigger)
        os.write(trigger, _TRIGGER)
    except OSError:
        return None
    # A trigger is an exceptional condition, which event loops do not wait for; an epoll does, and
    # is itself readable then.
    poll = select.epoll()
    held.callback(poll.close)
    poll.register(trigger, select.EPOLLPRI | select.EPOLLET)
    return poll.fileno(), lambda: poll.poll(0)
