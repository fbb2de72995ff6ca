"""The worker's way to the front, shared by its threads.

The ring allows one producer, so a lock makes the threads one. `send` never blocks and `flush`
rings once: the step thread sends a whole step and rings one doorbell for it.
"""

import select
import threading
from typing import Protocol

from rayhost.ipc.channel import Sender
from rayhost.ipc.messages import Message, encode


class Out(Protocol):
    """Where a loop tells its news: an `Outbox`, but in tests."""

    def send(self, request_id: int, message: Message) -> None:
        """Queue a message."""
        ...

    def flush(self) -> bool:
        """Publish what fits; return True when nothing waits."""
        ...


class Outbox:
    """Thread-safe sender of messages."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._lock = threading.Lock()

    def send(self, request_id: int, message: Message) -> None:
        """Queue a message for the next flush."""
        kind, payload = encode(message)
        with self._lock:
            self._sender.send(kind, request_id, payload)

    def flush(self) -> bool:
        """Publish what fits and ring the doorbell once. Return True when nothing waits."""
        with self._lock:
            return self._sender.flush()

    def flush_all(self) -> None:
        """Publish everything, sleeping while the front makes room. Not for the step thread."""
        poll = select.poll()
        poll.register(self._sender.space_fd, select.POLLIN)
        while not self.flush():
            poll.poll()
