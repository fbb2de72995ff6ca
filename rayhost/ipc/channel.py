"""The channel between the front and one worker: a Sender and a Receiver each, and a status page.

Invariant: an End owns its descriptors and its mapping and ChildFds owns its own, so either can be
closed first and each process lets go of everything by closing what it holds.
The supervisor creates, the worker attaches. An End and its parts are not thread-safe.
"""

import os
from contextlib import ExitStack
from typing import NamedTuple

from rayhost.ipc.doorbell import Doorbell
from rayhost.ipc.ring import CorruptFrame, RingReader, RingWriter, ring_key
from rayhost.ipc.segment import Segment, SegmentMismatch, allocate
from rayhost.ipc.status import StatusPage
from rayhost.ipc.stream import MAX_MESSAGE_BYTES, Frame, Receiver, Sender

__all__ = [
    "MAX_MESSAGE_BYTES",
    "ChildFds",
    "CorruptFrame",
    "End",
    "Frame",
    "Receiver",
    "SegmentMismatch",
    "Sender",
    "attach",
    "create",
]

RING_BYTES = 256 * 1024


class ChildFds:
    """What a worker inherits: the segment and four eventfds. Owns `fds`.

    In the front: `Popen(..., pass_fds=child.fds)` with `child.to_arg()` among the arguments, then
    `child.close()`; the front's End has descriptors of its own. In the worker: `attach`.
    """

    def __init__(self, generation: int, fds: tuple[int, ...]) -> None:
        self.generation = generation
        self.fds = fds  # segment, to worker: data, space; to front: data, space

    def to_arg(self) -> str:
        """Return what `from_arg` needs in the worker."""
        return f"{self.generation}:{','.join(map(str, self.fds))}"

    @classmethod
    def from_arg(cls, arg: str) -> "ChildFds":
        """Return the inherited descriptors. Raises ValueError for another text."""
        generation, _, fds = arg.partition(":")
        child = cls(int(generation), tuple(map(int, fds.split(","))))
        if len(child.fds) != 5:
            raise ValueError(f"channel argument {arg!r}: must name 5 descriptors")
        return child

    def close(self) -> None:
        """Close the descriptors. Idempotent."""
        fds, self.fds = self.fds, ()
        for fd in fds:
            os.close(fd)


class End:
    """One process's end of a channel. Owns its descriptors and its mapping."""

    def __init__(
        self,
        sender: Sender,
        receiver: Receiver,
        status: StatusPage,
        generation: int,
        resources: ExitStack,
    ) -> None:
        self.sender = sender
        self.receiver = receiver
        self.status = status
        self.generation = generation
        self._resources = resources

    def close(self) -> None:
        """Release memory and descriptors, after which nothing of this End works. Idempotent."""
        self._resources.close()


class _Lane(NamedTuple):
    direction: str
    ring: memoryview
    data: Doorbell
    space: Doorbell


def _open(child: ChildFds, *, front: bool) -> End:
    """Return an End with descriptors of its own: `child` stays its owner's to close."""
    segment_fd, *doorbell_fds = child.fds
    with ExitStack() as resources:
        doorbells = []
        for fd in doorbell_fds:
            doorbells.append(Doorbell(os.dup(fd)))  # dup sets close-on-exec; inherited ones lack it
            resources.callback(doorbells[-1].close)
        segment = Segment(segment_fd, child.generation)
        resources.callback(segment.close)
        status = StatusPage(segment.status)
        resources.callback(status.release)

        to_worker = _Lane("front to worker", segment.to_worker, *doorbells[:2])
        to_front = _Lane("worker to front", segment.to_front, *doorbells[2:])
        outward, inward = (to_worker, to_front) if front else (to_front, to_worker)
        writer = RingWriter(outward.ring, ring_key(child.generation, outward.direction))
        resources.callback(writer.release)
        reader = RingReader(inward.ring, ring_key(child.generation, inward.direction))
        resources.callback(reader.release)
        sender = Sender(writer, outward.data, outward.space)
        receiver = Receiver(reader, inward.data, inward.space)
        return End(sender, receiver, status, child.generation, resources.pop_all())


def create(generation: int, ring_bytes: int = RING_BYTES) -> tuple[End, ChildFds]:
    """Return the front's end of a new channel, and what its worker inherits.

    A generation is used once: it is what tells this incarnation's frames from another's.
    Raises ValueError for impossible sizes, OSError when memory or descriptors run out.
    """
    with ExitStack() as undo:
        fds = [allocate(generation, ring_bytes)]
        undo.callback(os.close, fds[0])
        for _ in range(4):
            fds.append(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
            undo.callback(os.close, fds[-1])
        child = ChildFds(generation, tuple(fds))
        end = _open(child, front=True)
        undo.pop_all()  # ownership of the descriptors goes with `child`
        return end, child


def attach(child: ChildFds) -> End:
    """Return the worker's end, and close `child`.

    Raises SegmentMismatch when the first descriptor is not this program's segment of the
    generation named in `child`, OSError when a descriptor is not open; `child` is then as it was.
    """
    end = _open(child, front=False)
    child.close()
    return end
