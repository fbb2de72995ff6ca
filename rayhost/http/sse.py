"""Server-sent events as OpenAI clients read them: framing only, no meaning.

An event is one `data:` line and a blank line; JSON holds no raw newline, so no payload can end
its event early.
"""

from rayhost.http.json import encode

HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx would hold events back until its buffer is full
]
DONE = b"data: [DONE]\n\n"


def event(payload: object) -> bytes:
    """Return the bytes of one event."""
    return b"data: " + encode(payload) + b"\n\n"


def named(name: str, payload: object) -> bytes:
    """Return the bytes of one event of a kind that its reader tells by its name."""
    return b"event: " + name.encode("ascii") + b"\n" + event(payload)
