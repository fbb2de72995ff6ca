"""The asyncio end of a channel, with the worker's end in the same process."""

import asyncio
import os
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from rayhost.front.link import Link
from rayhost.ipc.channel import End, attach, create
from rayhost.ipc.messages import (
    Cancel,
    Kind,
    Message,
    Prepare,
    Prepared,
    Tokens,
    decode,
    encode,
)
from rayhost.ipc.status import Word
from tests.support.waiting import soon

RING_BYTES = 4096


class Pair:
    """A link and the worker's end, and what the link's owner was told."""

    def __init__(self) -> None:
        end, child = create(os.getpid(), RING_BYTES)
        self.end = end
        self.worker: End = attach(child)
        self.heard: list[tuple[int, Message]] = []
        self.broken: list[str] = []
        self.link = Link(end, self._hear, self.broken.append)

    def _hear(self, number: int, message: Message) -> None:
        self.heard.append((number, message))

    def says(self, number: int, message: Message) -> None:
        """Send as the worker, and ring."""
        self.worker.sender.send(encode(message)[0], number, encode(message)[1])
        self.worker.sender.flush()

    def reads(self) -> list[tuple[int, Message]]:
        """Receive as the worker."""
        frames = self.worker.receiver.receive(1_000)
        return [(frame.request_id, decode(frame.kind, frame.payload)) for frame in frames]

    def close(self) -> None:
        self.link.close()
        self.worker.close()


@pytest_asyncio.fixture
async def pair() -> AsyncIterator[Pair]:
    pair = Pair()
    yield pair
    pair.close()


def fds() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


async def test_messages_come_in_the_order_they_were_sent(pair: Pair) -> None:
    sent: list[tuple[int, Message]] = [(n, Tokens((n,), "x" * (n % 90))) for n in range(1_000)]
    for number, message in sent:
        pair.says(number, message)

    def all_there() -> bool:
        pair.worker.sender.on_space()  # what had no room in the ring
        return len(pair.heard) == len(sent)

    await soon(all_there, "every message")
    assert pair.heard == sent


async def test_what_the_ring_has_no_room_for_goes_when_the_worker_made_some(pair: Pair) -> None:
    sent: list[tuple[int, Message]] = [
        (1, Prepare(None, "a" * 3 * RING_BYTES)),
        (2, Cancel()),
        (3, Prepare(None, "b" * 20 * RING_BYTES)),
        (4, Cancel()),
    ]
    for number, message in sent:
        pair.link.send(number, message)
    got: list[tuple[int, Message]] = []

    def all_there() -> bool:
        got.extend(pair.reads())
        return len(got) == len(sent)

    await soon(all_there, "messages larger than the ring")
    assert got == sent
    # And then nobody looks for space any more: a reader left behind would spin.
    pair.link.send(5, Cancel())
    assert not asyncio.get_running_loop().remove_reader(pair.end.sender.space_fd)


async def test_a_large_answer_arrives_whole(pair: Pair) -> None:
    answer = Prepared(bytes(range(256)) * 400)
    pair.says(1, answer)

    def there() -> bool:
        pair.worker.sender.on_space()
        return bool(pair.heard)

    await soon(there, "the answer")
    assert pair.heard == [(1, answer)]


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (99, b""),  # no such kind
        (Kind.TOKENS, b"\x93\x01"),  # not msgpack
        (Kind.TOKENS, b"\xa1x"),  # msgpack of another shape
    ],
)
async def test_a_worker_that_cannot_be_understood_is_condemned_once(
    pair: Pair, kind: int, payload: bytes
) -> None:
    pair.worker.status[Word.STEP] = 7
    for _ in range(3):
        pair.worker.sender.send(kind, 1, payload)
    pair.worker.sender.flush()
    pair.says(2, Tokens((1,), "good, but too late"))
    await soon(lambda: pair.broken, "the verdict")

    pair.link.send(1, Cancel())  # nor is anything said to it
    pair.link.drain()
    assert len(pair.broken) == 1
    assert pair.broken[0].startswith("unreadable message")
    assert pair.heard == []
    assert pair.reads() == []
    assert pair.end.status[Word.STEP] == 7, "health is asked until the process is gone"


async def test_a_worker_that_announces_what_it_did_not_write_is_condemned(pair: Pair) -> None:
    pair.says(1, Tokens((1,), "whole"))
    await soon(lambda: pair.heard, "the whole one")
    os.eventfd_write(pair.end.receiver.data_fd, 1)
    await soon(lambda: pair.broken, "the verdict")
    assert len(pair.heard) == len(pair.broken) == 1


async def test_a_worker_that_frees_more_than_it_was_sent_is_condemned(pair: Pair) -> None:
    os.eventfd_write(pair.end.sender.space_fd, 1 << 40)
    pair.link.send(1, Prepare(None, "a" * 2 * RING_BYTES))
    assert len(pair.broken) == 1


async def test_the_last_words_of_a_worker_that_died_are_heard(pair: Pair) -> None:
    sent: list[tuple[int, Message]] = [(n, Tokens((n,), "")) for n in range(100)]
    for number, message in sent:
        pair.says(number, message)
    pair.worker.close()
    pair.link.drain()
    assert pair.heard == sent


async def test_nothing_is_delivered_after_close(pair: Pair) -> None:
    pair.says(1, Tokens((1,), ""))
    pair.link.close()
    pair.link.close()
    pair.link.drain()
    pair.link.send(1, Cancel())
    for _ in range(3):
        await asyncio.sleep(0)
    assert pair.heard == []


@pytest.mark.parametrize("condemned", [False, True])
async def test_a_closed_link_leaves_no_descriptor_behind(condemned: bool) -> None:
    before = fds()
    pair = Pair()
    pair.link.send(1, Prepare(None, "a" * 3 * RING_BYTES))  # waits for space
    if condemned:
        os.eventfd_write(pair.end.receiver.data_fd, 1)
        await soon(lambda: pair.broken, "the verdict")
    pair.close()
    assert fds() == before
