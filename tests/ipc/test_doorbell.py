"""Doorbells: counts add up, taking never blocks, and a jammed counter is the peer's fault."""

import os
import select
from collections.abc import Iterator

import pytest

from rayhost.ipc.doorbell import Doorbell
from rayhost.ipc.ring import CorruptFrame


@pytest.fixture
def bell() -> Iterator[Doorbell]:
    bell = Doorbell(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
    yield bell
    bell.close()


def test_rings_add_up_until_they_are_taken(bell: Doorbell) -> None:
    bell.ring(2)
    bell.ring(3)
    assert bell.take() == 5
    assert bell.take() == 0


def test_the_fd_is_readable_exactly_while_something_is_to_take(bell: Doorbell) -> None:
    assert select.select([bell.fd], [], [], 0)[0] == []
    bell.ring(1)
    assert select.select([bell.fd], [], [], 0)[0] == [bell.fd]
    bell.take()
    assert select.select([bell.fd], [], [], 0)[0] == []


def test_a_full_counter_is_corrupt_and_does_not_block(bell: Doorbell) -> None:
    bell.ring(2**64 - 2)
    with pytest.raises(CorruptFrame, match="full"):
        bell.ring(1)


def test_closing_twice_closes_once(bell: Doorbell) -> None:
    fd = bell.fd
    bell.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    reused = os.open("/dev/null", os.O_RDONLY)
    bell.close()
    os.fstat(reused)
    os.close(reused)
