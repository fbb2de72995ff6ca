"""A server process for floods: real connections, and a front whose answers are there at once.

An answer to `max_tokens` 1 is short, any other is of `LONG` bytes: far more than any buffer.
"""

import sys

from rayhost.front.request import GenerateRequest, Run
from rayhost.http.app import build_app
from rayhost.http.protocol import Bounds
from rayhost.http.server import Server, listen, room_for, url
from tests.http.fake_front import FakeFront, FakeRun

BODY_BYTES = 1 << 20
CONNECTIONS = 1500
PIECE = "x" * 16_000
LONG = 400 * len(PIECE)


class Flooded(FakeFront):
    async def submit(self, request: GenerateRequest) -> Run:
        pieces = ("short",) if request.max_tokens == 1 else (PIECE,) * 400
        return FakeRun(pieces, self.ending, None, hold=False)


if __name__ == "__main__":
    with listen("127.0.0.1", 0) as listener:
        sys.stdout.write(f"{url(listener)}\n")
        sys.stdout.flush()
        bounds = Bounds(connections=room_for(CONNECTIONS), head_s=3600, body_s=3600, reader_s=3600)
        Server(build_app(Flooded(), body_bytes=BODY_BYTES), bounds).run(sockets=[listener])
