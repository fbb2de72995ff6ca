"""The ring alone: bytes in order, no cursor shared, and nothing damaged ever read as a frame."""

import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from rayhost.ipc.ring import (
    ALIGNMENT,
    HEADER_BYTES,
    MIN_RING_BYTES,
    MORE,
    CorruptFrame,
    RingReader,
    RingWriter,
    check_ring_bytes,
    max_payload,
    ring_key,
)

KEY = ring_key(7, "here to there")
RING_SIZES = st.integers(MIN_RING_BYTES // ALIGNMENT, 64).map(lambda n: n * ALIGNMENT)


def ring(size: int = 1024, key: int = KEY) -> tuple[bytearray, RingWriter, RingReader]:
    memory = bytearray(size)
    return memory, RingWriter(memoryview(memory), key), RingReader(memoryview(memory), key)


def signed_frame(length: int, kind: int, flags: int, body: bytes, key: int = KEY) -> bytes:
    """A frame whose checksum is right for the first place in the ring, whatever it says."""
    covered = struct.pack("=IBB2xQ", length, kind, flags, 5) + body
    return struct.pack("=Q", xxh3_64_intdigest(covered, key)) + covered


@given(size=RING_SIZES, payloads=st.lists(st.binary(max_size=400), max_size=40))
def test_bytes_come_out_as_they_went_in_at_any_size_and_wrap(
    size: int, payloads: list[bytes]
) -> None:
    _, writer, reader = ring(size)
    for request_id, payload in enumerate(payloads):
        start, received = 0, b""
        while True:
            sent = writer.write(1, request_id, payload, start)
            assert sent is not None, "an empty ring takes any frame"
            kind, flags, got_id, part = reader.read()
            writer.credit(reader.freed)
            reader.freed = 0
            assert (kind, got_id, part) == (1, request_id, payload[start:sent])
            assert flags == (MORE if sent < len(payload) else 0)
            assert sent > start or not payload
            start, received = sent, received + part
            if start == len(payload):
                break
        assert received == payload
        assert writer.free == size, "every byte, also those skipped at the end, is credited back"


@given(size=RING_SIZES, data=st.data())
def test_frames_in_the_ring_are_never_overwritten(size: int, data: st.DataObject) -> None:
    _, writer, reader = ring(size)
    unread: list[bytes] = []
    for fill in range(60):
        if data.draw(st.booleans()):
            payload = bytes([fill]) * data.draw(st.integers(0, max_payload(size)))
            sent = writer.write(1, 0, payload, 0)
            if sent is not None:
                unread.append(payload[:sent])
        elif unread:
            assert reader.read()[3] == unread.pop(0)
            if data.draw(st.booleans()):
                writer.credit(reader.freed)
                reader.freed = 0
    for payload in unread:
        assert reader.read()[3] == payload


def test_a_full_ring_takes_nothing_until_credited() -> None:
    memory, writer, reader = ring(256)
    while writer.write(1, 0, bytes(40), 0) is not None:
        pass
    before = bytes(memory)
    assert writer.write(2, 2, bytes(40), 0) is None
    assert bytes(memory) == before
    reader.read()
    assert writer.write(2, 2, bytes(40), 0) is None, "read is not yet credited"
    writer.credit(reader.freed)
    assert writer.write(2, 2, bytes(40), 0) == 40


def test_a_frame_that_meets_the_end_is_cut_there() -> None:
    _, writer, reader = ring(256)
    for _ in range(3):  # 64 bytes each; 64 are left
        writer.write(1, 1, bytes(40), 0)
        reader.read()
    writer.write(1, 1, b"", 0)  # 32 of them
    reader.read()
    writer.credit(reader.freed)
    assert writer.write(1, 9, b"0123456789", 0) == 8
    assert writer.write(1, 9, b"0123456789", 8) == 10
    assert reader.read() == (1, MORE, 9, b"01234567")
    assert reader.read() == (1, 0, 9, b"89")


def test_credit_for_more_than_is_in_use_is_corrupt() -> None:
    _, writer, _ = ring()
    writer.write(1, 1, bytes(8), 0)
    with pytest.raises(CorruptFrame, match="freed 48 bytes of 32 in use"):
        writer.credit(48)


@pytest.mark.parametrize("payload", [b"", b"x", b"some payload that is longer than sixteen bytes"])
def test_flipping_any_bit_of_header_or_payload_is_detected(payload: bytes) -> None:
    memory, writer, _ = ring()
    writer.write(3, 0x1122334455667788, payload, 0)
    for at in range(HEADER_BYTES + len(payload)):
        for bit in range(8):
            memory[at] ^= 1 << bit
            with pytest.raises(CorruptFrame):
                RingReader(memoryview(memory), KEY).read()
            memory[at] ^= 1 << bit
    assert RingReader(memoryview(memory), KEY).read()[3] == payload


@given(payload=st.binary(max_size=200), keep=st.integers(0, 223), noise=st.binary(min_size=224))
def test_a_frame_written_only_in_part_is_detected(payload: bytes, keep: int, noise: bytes) -> None:
    memory, writer, reader = ring()
    writer.write(3, 9, payload, 0)
    end = HEADER_BYTES + len(payload)
    whole = bytes(memory[:end])
    memory[min(keep, end) : end] = noise[min(keep, end) : end]
    if memory[:end] == whole:
        assert reader.read()[3] == payload
    else:
        with pytest.raises(CorruptFrame):
            reader.read()


@pytest.mark.parametrize("key", [ring_key(8, "here to there"), ring_key(7, "there to here")])
def test_a_frame_of_another_generation_or_direction_is_detected(key: int) -> None:
    memory, writer, _ = ring()
    writer.write(3, 9, b"payload", 0)
    with pytest.raises(CorruptFrame, match="checksum"):
        RingReader(memoryview(memory), key).read()


def test_a_frame_left_from_an_earlier_lap_is_detected() -> None:
    _, writer, reader = ring(256)
    for _ in range(4):
        writer.write(3, 9, bytes(40), 0)
        reader.read()
    with pytest.raises(CorruptFrame, match="checksum"):
        reader.read()  # the same bytes that were valid a lap ago


def test_an_announced_frame_that_was_never_written_is_detected() -> None:
    _, _, reader = ring()
    with pytest.raises(CorruptFrame, match="checksum"):
        reader.read()


def test_a_corrupt_frame_is_not_passed_over() -> None:
    memory, writer, reader = ring()
    writer.write(3, 9, b"first", 0)
    writer.write(3, 9, b"second", 0)
    memory[HEADER_BYTES] ^= 1
    for _ in range(3):
        with pytest.raises(CorruptFrame):
            reader.read()
    assert reader.freed == 0


@pytest.mark.parametrize("length", [max_payload(1024) + 1, 1000, 2**31, 2**32 - 1])
def test_an_impossible_length_is_refused_before_the_bytes_are_touched(length: int) -> None:
    memory, _, reader = ring(1024)
    frame = signed_frame(length, 3, 0, bytes(1000))
    memory[:1024] = frame[:1024]
    with pytest.raises(CorruptFrame, match=f"claims {length} bytes"):
        reader.read()


def test_a_length_beyond_the_end_of_the_ring_is_refused() -> None:
    memory, writer, reader = ring(256)
    for _ in range(3):
        writer.write(1, 1, bytes(40), 0)
        reader.read()
    writer.write(1, 1, b"", 0)
    reader.read()  # 32 bytes to the end
    memory[224 + 8 : 224 + 12] = struct.pack("=I", 9)
    with pytest.raises(CorruptFrame, match="claims 9 bytes"):
        reader.read()


def test_unknown_flags_are_refused() -> None:
    memory, _, reader = ring()
    frame = signed_frame(4, 3, 2, b"body")
    memory[: len(frame)] = frame
    with pytest.raises(CorruptFrame, match="flags"):
        reader.read()


@pytest.mark.parametrize("size", [-16, 0, 112, 1000, 2**32])
def test_ring_sizes_the_layout_cannot_use_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"ring of {size} bytes"):
        check_ring_bytes(size)


def test_release_lets_go_of_the_memory() -> None:
    memory, writer, reader = ring()

    @contextmanager
    def exported() -> Iterator[None]:
        with pytest.raises(BufferError):
            memory.extend(b"x")
        yield

    with exported():
        writer.release()
    with exported():
        reader.release()
    memory.extend(b"x")
