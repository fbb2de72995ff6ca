"""Messages over a ring: whole, in order, under backpressure; and peers that break the rules."""

import os
import select
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from rayhost.ipc import stream
from rayhost.ipc.doorbell import Doorbell
from rayhost.ipc.ring import (
    ALIGNMENT,
    HEADER_BYTES,
    MORE,
    CorruptFrame,
    RingReader,
    RingWriter,
    ring_key,
)
from rayhost.ipc.stream import Frame, Receiver, Sender

KEY = ring_key(7, "here to there")


@dataclass
class Lane:
    """One direction with everything a test may tamper with."""

    memory: bytearray
    data: Doorbell
    space: Doorbell
    sender: Sender
    receiver: Receiver

    def close(self) -> None:
        self.data.close()
        self.space.close()

    def publish(self, *frames: bytes) -> None:
        """What a peer can do: write any bytes from the start of the ring, announce any count."""
        written = b"".join(frames)
        self.memory[: len(written)] = written
        self.data.ring(len(frames))


def make_lane(size: int = 1024) -> Lane:
    memory = bytearray(size)
    data, space = (Doorbell(os.eventfd(0, os.EFD_NONBLOCK)) for _ in range(2))
    sender = Sender(RingWriter(memoryview(memory), KEY), data, space)
    receiver = Receiver(RingReader(memoryview(memory), KEY), data, space)
    return Lane(memory, data, space, sender, receiver)


@pytest.fixture
def lane() -> Iterator[Lane]:
    lane = make_lane()
    yield lane
    lane.close()


def readable(fd: int) -> bool:
    return bool(select.select([fd], [], [], 0)[0])


def signed(number: int, body: bytes, kind: int = 3, flags: int = 0, request_id: int = 5) -> bytes:
    """The ring's frame `number`, with a right checksum and padding."""
    covered = struct.pack("=IBB2xQ", len(body), kind, flags, request_id) + body
    frame = struct.pack("=Q", xxh3_64_intdigest(covered, KEY + number)) + covered
    return frame + bytes(-len(frame) % ALIGNMENT)


def test_one_doorbell_announces_everything_sent_before_it(lane: Lane) -> None:
    for n in range(5):
        lane.sender.send(3, n, b"x")
    assert not readable(lane.receiver.data_fd), "send alone wakes nobody"
    assert lane.sender.flush()
    assert lane.data.take() == 5
    assert lane.sender.flush()
    assert lane.data.take() == 0, "nothing new, no wakeup"


def test_a_frame_that_was_not_announced_is_not_read(lane: Lane) -> None:
    lane.sender.send(3, 1, b"announced")
    lane.sender.flush()
    lane.sender.send(3, 2, b"not yet")
    assert lane.receiver.receive(10) == [Frame(3, 1, b"announced")]
    assert lane.receiver.receive(10) == []
    lane.sender.flush()
    assert lane.receiver.receive(10) == [Frame(3, 2, b"not yet")]


def test_a_short_announcement_delays_frames_and_loses_none(lane: Lane) -> None:
    for n in range(3):
        lane.sender.send(3, n, b"x")
    lane.sender.flush()
    assert lane.data.take() == 3
    for n in range(3):
        lane.data.ring(1)
        assert lane.receiver.receive(10) == [Frame(3, n, b"x")]


def test_receive_stops_at_its_limit_and_the_fd_stays_readable(lane: Lane) -> None:
    for n in range(5):
        lane.sender.send(3, n, b"x")
    lane.sender.flush()
    for expected in ([0, 1], [2, 3], [4]):
        assert readable(lane.receiver.data_fd)
        assert [f.request_id for f in lane.receiver.receive(2)] == expected
        assert lane.receiver.more == (expected != [4])
    assert not readable(lane.receiver.data_fd)


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_that_reads_nothing_is_refused(lane: Lane, limit: int) -> None:
    lane.sender.send(3, 1, b"x")
    lane.sender.flush()
    with pytest.raises(ValueError, match=f"limit {limit}"):
        lane.receiver.receive(limit)
    assert lane.receiver.receive(1) == [Frame(3, 1, b"x")]


def test_one_space_doorbell_for_each_receive(lane: Lane) -> None:
    for n in range(3):
        lane.sender.send(3, n, bytes(8))
    lane.sender.flush()
    lane.receiver.receive(10)
    assert lane.space.take() == 3 * 32
    lane.receiver.receive(10)
    assert lane.space.take() == 0


def test_what_does_not_fit_waits_and_goes_when_space_is_freed(lane: Lane) -> None:
    for n in range(20):
        lane.sender.send(3, n, bytes(104))  # 128 in the ring of 1024
    assert not lane.sender.flush()
    assert lane.sender.waiting_bytes == 12 * (104 + HEADER_BYTES)
    got = lane.receiver.receive(100)
    assert len(got) == 8
    assert readable(lane.sender.space_fd)
    assert not lane.sender.on_space()
    got += lane.receiver.receive(100)
    assert lane.sender.on_space()
    assert lane.sender.waiting_bytes == 0
    got += lane.receiver.receive(100)
    assert [f.request_id for f in got] == list(range(20))


def test_an_empty_message_that_waits_counts_as_waiting(lane: Lane) -> None:
    for _ in range(8):
        lane.sender.send(3, 0, bytes(104))
    lane.sender.send(3, 1, b"")
    assert lane.sender.waiting_bytes == HEADER_BYTES
    assert not lane.sender.flush()


def test_flush_finds_freed_space_without_being_told(lane: Lane) -> None:
    for _ in range(9):
        lane.sender.send(3, 0, bytes(104))
    assert not lane.sender.flush()
    lane.receiver.receive(100)
    assert lane.sender.flush()


def test_on_space_quiets_the_doorbell_when_nothing_waits(lane: Lane) -> None:
    lane.sender.send(3, 0, b"x")
    lane.sender.flush()
    lane.receiver.receive(1)
    assert readable(lane.sender.space_fd)
    assert lane.sender.on_space()
    assert not readable(lane.sender.space_fd)


@given(
    size=st.integers(8, 64).map(lambda n: n * ALIGNMENT),
    messages=st.lists(
        st.tuples(st.integers(0, 255), st.integers(0, 2**64 - 1), st.binary(max_size=3000)),
        max_size=25,
    ),
    moves=st.lists(st.tuples(st.sampled_from(["send", "flush", "space"]), st.integers(1, 9))),
)
def test_any_interleaving_delivers_every_message_whole_and_in_order(
    size: int, messages: list[tuple[int, int, bytes]], moves: list[tuple[str, int]]
) -> None:
    lane = make_lane(size)
    try:
        todo = [Frame(*message) for message in messages]
        expected, got = list(todo), []
        for move, limit in moves:
            if move == "send" and todo:
                lane.sender.send(*todo.pop(0))
            elif move == "flush":
                lane.sender.flush()
            else:
                lane.sender.on_space()
            got += lane.receiver.receive(limit)
        while todo:
            lane.sender.send(*todo.pop(0))
        # Each pass of a stuck pair would free nothing, so passes are bounded by the frames.
        for _ in range(10 + sum(1 + len(f.payload) for f in expected)):
            if lane.sender.on_space() and len(got) == len(expected):
                break
            got += lane.receiver.receive(3)
        assert got == expected
        assert lane.sender.waiting_bytes == 0
    finally:
        lane.close()


def test_a_message_many_times_the_ring_passes(lane: Lane) -> None:
    big = bytes(range(256)) * 400
    lane.sender.send(3, 1, big)
    lane.sender.send(4, 2, b"after")
    got: list[Frame] = []
    while not lane.sender.on_space():
        got += lane.receiver.receive(100)
    got += lane.receiver.receive(100)
    assert got == [Frame(3, 1, big), Frame(4, 2, b"after")]


@pytest.mark.parametrize(("kind", "request_id"), [(-1, 0), (256, 0), (0, -1), (0, 2**64)])
def test_out_of_range_headers_are_refused_at_send(lane: Lane, kind: int, request_id: int) -> None:
    with pytest.raises(ValueError, match="out of range"):
        lane.sender.send(kind, request_id, b"")
    assert lane.sender.flush()
    assert lane.data.take() == 0


def test_messages_over_the_bound_are_refused_at_send(
    lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "MAX_MESSAGE_BYTES", 1000)
    with pytest.raises(ValueError, match="message of 1001 bytes: the limit is 1000"):
        lane.sender.send(3, 1, bytes(1001))


def test_an_endless_message_is_corrupt(lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "MAX_MESSAGE_BYTES", 300)
    lane.publish(*(signed(n, bytes(104), flags=MORE) for n in range(4)))
    with pytest.raises(CorruptFrame, match="over 300 bytes"):
        lane.receiver.receive(10)


@pytest.mark.parametrize(("kind", "request_id"), [(4, 5), (3, 6)])
def test_a_message_interrupted_by_another_is_corrupt(
    lane: Lane, kind: int, request_id: int
) -> None:
    intruder = signed(1, b"intruder", kind=kind, request_id=request_id)
    lane.publish(signed(0, b"part", flags=MORE), intruder)
    with pytest.raises(CorruptFrame, match="interrupted"):
        lane.receiver.receive(10)


def test_announcing_more_than_was_written_is_corrupt(lane: Lane) -> None:
    lane.sender.send(3, 1, b"x")
    lane.sender.flush()
    lane.data.ring(2**60)
    with pytest.raises(CorruptFrame, match="checksum"):
        lane.receiver.receive(10)


def test_freeing_more_than_was_sent_is_corrupt(lane: Lane) -> None:
    lane.sender.send(3, 1, b"x")
    lane.space.ring(4096)
    with pytest.raises(CorruptFrame, match="freed 4096 bytes"):
        lane.sender.on_space()


def test_a_jammed_doorbell_is_corrupt(lane: Lane) -> None:
    lane.data.ring(2**64 - 2)
    lane.sender.send(3, 1, b"x")
    with pytest.raises(CorruptFrame, match="full"):
        lane.sender.flush()


def drain(lane: Lane) -> list[Frame]:
    """Receive to the end of what was announced, or to the CorruptFrame."""
    got = lane.receiver.receive(7)
    while lane.receiver.more:
        got += lane.receiver.receive(7)
    return got


@given(memory=st.binary(min_size=512, max_size=512), announced=st.integers(1, 2**64 - 2))
def test_random_bytes_are_never_read_as_a_message(memory: bytes, announced: int) -> None:
    lane = make_lane(512)
    try:
        lane.memory[:] = memory
        lane.data.ring(announced)
        with pytest.raises(CorruptFrame):
            drain(lane)
    finally:
        lane.close()


@given(
    frames=st.lists(
        st.tuples(
            st.binary(max_size=104),
            st.integers(0, 255),
            st.integers(0, 255) | st.sampled_from([0, MORE]),
            st.integers(0, 2),
            st.none() | st.integers(0, 2**32 - 1),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_well_signed_nonsense_is_read_or_refused_and_nothing_else(
    frames: list[tuple[bytes, int, int, int, int | None]],
) -> None:
    lane = make_lane(1024)
    try:
        images = []
        for n, (body, kind, flags, request_id, false_length) in enumerate(frames):
            image = signed(n, body, kind, flags, request_id)
            if false_length is not None:
                image = image[:8] + struct.pack("=I", false_length) + image[12:]
            images.append(image)
        lane.publish(*images)
        try:
            got = drain(lane)
        except CorruptFrame:
            return
        expected, parts = [], b""
        for body, kind, flags, request_id, _ in frames:
            parts += body
            if not flags:
                expected.append(Frame(kind, request_id, parts))
                parts = b""
        assert got == expected
    finally:
        lane.close()


@given(
    payloads=st.lists(st.binary(max_size=104), min_size=1, max_size=7),
    at=st.integers(0, 1023),
    flip=st.integers(1, 255),
)
def test_damage_anywhere_never_changes_a_message(payloads: list[bytes], at: int, flip: int) -> None:
    lane = make_lane(1024)
    try:
        for n, payload in enumerate(payloads):
            lane.sender.send(3, n, payload)
        lane.sender.flush()
        lane.memory[at] ^= flip
        got: list[Frame] = []
        try:
            while lane.receiver.more or not got:
                got += lane.receiver.receive(1)
        except CorruptFrame:
            assert len(got) < len(payloads)
        else:
            assert len(got) == len(payloads)
        assert got == [Frame(3, n, payload) for n, payload in enumerate(payloads)][: len(got)]
    finally:
        lane.close()
