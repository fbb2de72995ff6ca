"""The asyncio end of a channel: messages out, messages in, no thread and no polling.

Invariant: handlers run in the event loop, in the order the worker sent; nothing is delivered after
`close`. A worker that sends what cannot be understood is condemned through `on_broken`, once,
and heard no more; its status page stays readable until `close`.
"""

import asyncio
from collections.abc import Callable, Iterator

import msgspec

from rayhost.ipc.channel import CorruptFrame, End
from rayhost.ipc.messages import Message, Unexpected, decode, encode

_FRAMES_AT_ONCE = 64  # then other clients of the event loop get their turn


class Link:
    """One worker incarnation's channel. Owns `end`."""

    def __init__(
        self,
        end: End,
        on_message: Callable[[int, Message], None],
        on_broken: Callable[[str], None],
    ) -> None:
        self._end = end
        self._on_message = on_message
        self._on_broken = on_broken
        self._loop = asyncio.get_running_loop()
        self._deaf = False
        self._awaiting_space = False
        # The fd stays readable while announced frames are left, so no turn is missed.
        self._loop.add_reader(end.receiver.data_fd, self._receive)

    def send(self, request_id: int, message: Message) -> None:
        """Send a message; what the ring has no room for goes when the worker made some."""
        if self._deaf:
            return
        kind, payload = encode(message)
        try:
            self._end.sender.send(kind, request_id, payload)
            self._watch_space(not self._end.sender.flush())
        except CorruptFrame as error:
            self._break(str(error))

    def drain(self) -> None:
        """Deliver what a worker that died had still announced."""
        while not self._deaf:
            self._receive()
            if not self._end.receiver.more:
                return

    def close(self) -> None:
        """Stop delivering and let go of the channel. Idempotent."""
        self._deafen()
        self._end.close()

    def _deafen(self) -> None:
        if not self._deaf:
            self._deaf = True
            self._loop.remove_reader(self._end.receiver.data_fd)
            self._watch_space(False)

    def _receive(self) -> None:
        for request_id, message in self._messages():
            try:
                if not self._deaf:
                    self._on_message(request_id, message)
            except Unexpected as error:
                self._break(str(error))

    def _messages(self) -> Iterator[tuple[int, Message]]:
        """Yield what came, up to the first that cannot be understood."""
        try:
            for kind, request_id, payload in self._end.receiver.receive(_FRAMES_AT_ONCE):
                yield request_id, decode(kind, payload)
        except (CorruptFrame, msgspec.DecodeError, ValueError) as error:
            self._break(f"unreadable message: {error}")

    def _space(self) -> None:
        try:
            self._watch_space(not self._end.sender.on_space())
        except CorruptFrame as error:
            self._break(str(error))

    def _watch_space(self, wanted: bool) -> None:
        if wanted == self._awaiting_space:
            return
        self._awaiting_space = wanted
        if wanted:
            self._loop.add_reader(self._end.sender.space_fd, self._space)
        else:
            self._loop.remove_reader(self._end.sender.space_fd)

    def _break(self, reason: str) -> None:
        if not self._deaf:
            self._deafen()
            self._on_broken(reason)
