"""Reading an answer: whatever the pieces it comes in, the same text times, tokens and end."""

import itertools

import httptools
import pytest

from bench.stream import EventReader, Reply

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"

# As both servers write: a role without text, text, an end, usage without a choice.
EVENTS = (
    b'data: {"choices":[{"delta":{"role":"assistant","content":null}}],"usage":null}\n\n',
    b'data: {"choices":[{"delta":{"content":"Once"}}]}\n\n',
    b": a comment, to keep the connection alive\n\n",
    'data: {"choices":[{"delta":{"content":" upön\\n\\n"}}]}\n\n'.encode(),
    b'data: {"choices":[{"delta":{},"finish_reason":"length"}]}\n\n',
    b'data: {"choices":[],"usage":{"prompt_tokens":31,"completion_tokens":2}}\n\n',
)
DONE = b"data: [DONE]\n\n"


def chunked(*bodies: bytes) -> bytes:
    return HEAD + b"".join(b"%x\r\n%b\r\n" % (len(b), b) for b in bodies) + b"0\r\n\r\n"


def read(raw: bytes, size: int) -> Reply:
    reply = Reply()
    for number, start in enumerate(range(0, len(raw), size)):
        reply.feed(raw[start : start + size], float(number))
    return reply


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 10_000])
def test_an_answer_reads_the_same_in_pieces_of_any_size(size: int) -> None:
    reply = read(chunked(*EVENTS, DONE), size)
    assert reply.done
    assert reply.error == ""
    assert (reply.prompt_tokens, reply.generated_tokens) == (31, 2)
    assert len(reply.text_times) == 2


def test_text_is_stamped_with_the_arrival_of_the_byte_that_completes_its_event() -> None:
    raw = chunked(*EVENTS, DONE)
    reply = read(raw, 1)
    ends = [raw.index(event) + len(event) - 2 for event in (EVENTS[1], EVENTS[3])]
    assert reply.text_times == ends  # byte n comes at second n; the line's own newline completes it


def test_events_may_be_split_over_chunks_anywhere() -> None:
    body = b"".join(EVENTS) + DONE
    for cut in range(1, len(body)):
        reply = read(chunked(body[:cut], body[cut:]), 10_000)
        assert (reply.error, len(reply.text_times)) == ("", 2)


@pytest.mark.parametrize(
    ("bodies", "error"),
    [
        (EVENTS, "cut off"),
        ((*EVENTS[:-1], DONE), "no usage"),
        ((b'data: {"error":{"message":"the worker died"}}\n\n', DONE), "error event"),
        ((b"data: {never json\n\n", DONE), "bad event"),
    ],
)
def test_a_stream_that_is_not_whole_is_an_error(bodies: tuple[bytes, ...], error: str) -> None:
    reply = read(chunked(*bodies), 1)
    assert reply.done
    assert reply.error == error


def test_a_refusal_keeps_its_status_and_what_it_says() -> None:
    raw = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 12\r\n\r\nthe queue is"
    reply = read(raw, 1)
    assert (reply.done, reply.error, reply.detail) == (True, "http 429", "the queue is")


def test_an_answer_is_not_done_before_its_last_chunk() -> None:
    reply = Reply()
    reply.feed(chunked(*EVENTS, DONE)[:-5], 0.0)
    assert not reply.done


def test_what_is_not_http_is_an_error() -> None:
    with pytest.raises(httptools.HttpParserError):
        Reply().feed(b"SSH-2.0-OpenSSH\r\n\r\n", 0.0)


def test_lines_may_end_with_a_carriage_return() -> None:
    reader = EventReader()
    found = [reader.feed(bytes([byte])) for byte in b"data: one\r\n\r\nid: 3\r\ndata:two\r\n\r\n"]
    assert list(itertools.chain(*found)) == [b"one", b"two"]
