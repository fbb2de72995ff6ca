"""Whole messages over one ring: queue, cut, announce at one end; reassemble at the other.

Invariant: no call blocks, no message is lost or reordered, and nobody reads shared memory that was
not announced by a doorbell: `data` counts frames published, `space` bytes freed.
`channel` builds these; neither is thread-safe, so a process that sends from several threads puts a
lock around its Sender.
"""

from collections import deque
from typing import NamedTuple

from rayhost.ipc.doorbell import Doorbell
from rayhost.ipc.ring import HEADER_BYTES, MORE, CorruptFrame, RingReader, RingWriter

MAX_MESSAGE_BYTES = 64 * 1024 * 1024  # bounds what a broken peer can make this process hold


class Frame(NamedTuple):
    """A whole message, however many ring frames it took."""

    kind: int
    request_id: int
    payload: bytes


class Sender:
    """The writing half of an End. Not thread-safe.

    Call `flush` after sending; while it returns False, watch `space_fd` and call `on_space`
    when it is readable. There is no need to watch it otherwise.
    """

    def __init__(self, ring: RingWriter, data: Doorbell, space: Doorbell) -> None:
        self._ring = ring
        self._data = data
        self._space = space
        self._unannounced = 0  # frames in the ring that the reader was not told of
        self._queue: deque[Frame] = deque()
        self._sent = 0  # payload bytes of the queue's first message that are in the ring
        self.waiting_bytes = 0  # outside the ring: payload left, and a header for each message

    @property
    def space_fd(self) -> int:
        """Readable when the peer freed space; -1 once closed."""
        return self._space.fd

    def send(self, kind: int, request_id: int, payload: bytes) -> None:
        """Put a message in the ring, or what does not fit in a queue behind it. Never blocks.

        The peer learns of it at the next `flush`. Raises ValueError for a kind beyond 8 bits, a
        request id beyond 64, or a payload over MAX_MESSAGE_BYTES; CorruptFrame as `on_space` does.
        """
        if not (0 <= kind < 2**8 and 0 <= request_id < 2**64):
            raise ValueError(f"kind {kind} or request id {request_id} is out of range")
        size = len(payload)
        if size > MAX_MESSAGE_BYTES:
            raise ValueError(f"message of {size} bytes: the limit is {MAX_MESSAGE_BYTES}")
        self._queue.append(Frame(kind, request_id, payload))
        self.waiting_bytes += size + HEADER_BYTES
        if len(self._queue) == 1:
            self._fill()

    def flush(self) -> bool:
        """Announce everything new with one doorbell. Return True when nothing waits.

        Raises CorruptFrame as `on_space` does, or for a doorbell that the peer jammed.
        """
        self._fill()
        if self._unannounced:
            self._data.ring(self._unannounced)
            self._unannounced = 0
        return not self._queue

    def on_space(self) -> bool:
        """Take what the reader freed, then flush.

        Raises CorruptFrame when the peer frees more than it was sent.
        """
        self._ring.credit(self._space.take())
        return self.flush()

    def _fill(self) -> None:
        queue = self._queue
        while queue:
            kind, request_id, payload = queue[0]
            sent = self._ring.write(kind, request_id, payload, self._sent)
            if sent is None:
                # Credits are only fetched when they are needed: the space doorbell may ring for
                # every step of the peer, and each take is a system call.
                freed = self._space.take()
                if not freed:
                    return
                self._ring.credit(freed)
                continue
            self._unannounced += 1
            self.waiting_bytes -= sent - self._sent
            if sent < len(payload):
                self._sent = sent
            else:
                self._sent = 0
                self.waiting_bytes -= HEADER_BYTES
                queue.popleft()


class Receiver:
    """The reading half of an End. Not thread-safe. After CorruptFrame it is only fit to close."""

    def __init__(self, ring: RingReader, data: Doorbell, space: Doorbell) -> None:
        self._ring = ring
        self._data = data
        self._space = space
        self.more = False  # the last `receive` left announced frames in the ring
        self._open: tuple[int, int] | None = None  # kind and request id of an unfinished message
        self._parts = bytearray()

    @property
    def data_fd(self) -> int:
        """Readable while announced frames are in the ring; -1 once closed."""
        return self._data.fd

    def receive(self, limit: int) -> list[Frame]:
        """Read at most `limit` ring frames and return the messages they complete, in order.

        A message may take several frames, so the list may be empty while there is `more`. What was
        read is freed with one doorbell. Raises ValueError for a limit under 1, and CorruptFrame;
        messages read before the corrupt frame by the same call are lost with the peer.
        """
        if limit < 1:
            raise ValueError(f"limit {limit}: must be at least 1")
        announced = self._data.take()
        reading = min(limit, announced)
        read = self._ring.read
        messages = []
        for _ in range(reading):
            kind, flags, request_id, payload = read()
            if flags or self._open:
                whole = self._join(kind, flags, request_id, payload)
                if whole is not None:
                    messages.append(whole)
            else:
                messages.append(Frame(kind, request_id, payload))
        freed, self._ring.freed = self._ring.freed, 0
        if freed:
            self._space.ring(freed)
        self.more = announced > reading
        if self.more:
            # Back into the counter, so that the fd stays readable: nobody sleeps on a ring with
            # frames in it, whether or not they look at `more`.
            self._data.ring(announced - reading)
        return messages

    def _join(self, kind: int, flags: int, request_id: int, payload: bytes) -> Frame | None:
        head = (kind, request_id)
        if self._open is None:
            self._open = head
        elif self._open != head:
            raise CorruptFrame(f"message {self._open} is interrupted by {head}")
        self._parts += payload
        if len(self._parts) > MAX_MESSAGE_BYTES:
            raise CorruptFrame(f"message {head} is over {MAX_MESSAGE_BYTES} bytes")
        if flags & MORE:
            return None
        whole = Frame(kind, request_id, bytes(self._parts))
        self._open = None
        self._parts = bytearray()
        return whole
