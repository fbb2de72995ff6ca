"""A step loop over the fake engine, driven one step at a time, and what it told the front."""

import queue
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

from rayhost.ipc.messages import (
    Cancel,
    Constraint,
    Finished,
    LoadFailed,
    Message,
    Rejected,
    Start,
    Stop,
    Tokens,
    pack_tokens,
)
from rayhost.ipc.sampling import Sampling
from rayhost.ipc.status import StatusPage
from rayhost.worker.constraints import Constraints
from rayhost.worker.disk import Disk, Fetched
from rayhost.worker.loop import StepLoop
from rayhost.worker.snapshot_files import SnapshotFiles
from rayhost.worker.snapshots import Snapshots
from rayhost.worker.turns import Inbox
from tests.worker import fake_grammar
from tests.worker.fake_engine import FakeCodec, FakeEngine

GREEDY = Sampling(temperature=0.0)


@dataclass
class Told:
    """Everything a request's client would know."""

    ids: list[int] = field(default_factory=list)
    text: str = ""
    finished: Finished | None = None
    rejected: Rejected | None = None
    reused: int | None = None  # as told of its first step

    def add(self, message: Message) -> None:
        """Take a message; nothing may come after the last."""
        assert self.finished is None
        assert self.rejected is None
        match message:
            case Tokens() if message.n_reused is not None:
                assert self.reused is None, "a run has one first step"
                self.reused = message.n_reused
            case Tokens():
                self.ids += message.ids
                self.text += message.text
            case Finished():
                self.finished = message
            case Rejected():
                self.rejected = message
            case _:
                raise TypeError(message)

    @property
    def result(self) -> tuple[list[int], str, str]:
        """In the shape of `fake_engine.reference`."""
        assert self.finished is not None
        return self.ids, self.text, self.finished.reason


class Record:
    """An Out that remembers: `log` holds (request id, message), and "flush" for each flush.

    `finished` is for a test that waits while the loop runs in another thread.
    """

    def __init__(self) -> None:
        self.log: list[tuple[int, Message] | str] = []
        self.told: dict[int, Told] = {}
        self.finished: queue.SimpleQueue[int] = queue.SimpleQueue()

    def send(self, request_id: int, message: Message) -> None:
        """Remember a message."""
        self.log.append((request_id, message))
        if not isinstance(message, LoadFailed):  # of a resize, and for nobody's run
            self.told.setdefault(request_id, Told()).add(message)
        if isinstance(message, Finished):
            self.finished.put(request_id)

    def flush(self) -> bool:
        """Remember that there was one."""
        self.log.append("flush")
        return True


class Rig:
    """`loop` and everything around it. Its clock goes on by 1 ms each time it is read."""

    def __init__(
        self,
        engine: FakeEngine | None = None,
        snapshots: Snapshots | None = None,
        constraints: Constraints | None = None,
        preload: Sequence[list[int]] = (),
        files: SnapshotFiles | None = None,
    ) -> None:
        self.engine = engine or FakeEngine()
        # An empty one is false.
        self.snapshots = Snapshots(0) if snapshots is None else snapshots
        self.inbox: Inbox = queue.SimpleQueue()
        self.out = Record()
        self.status = StatusPage(memoryview(bytearray(4032)))
        self.clock = count(1_000_000, 1_000_000)
        self.constraints = constraints or fake_grammar.SHARED
        self.disk = Disk(
            files,
            self.snapshots,
            self.fetched,
            trims=self.engine.facts.trims,
            longest=self.engine.facts.context,
            now=lambda: next(self.clock),
        )
        self.loop = StepLoop(
            engine=self.engine,
            codec=FakeCodec(),
            inbox=self.inbox,
            out=self.out,
            status=self.status,
            target_ns=5_000_000,
            snapshots=self.snapshots,
            disk=self.disk,
            constraints=self.constraints,
            preload=preload,
            now=lambda: next(self.clock),
        )

    def fetched(self, what: Fetched) -> None:
        """Take what the disk had to the loop."""
        self.inbox.put((0, what))

    def start(
        self,
        request_id: int,
        prompt: list[int],
        max_tokens: int = 8,
        *,
        produced: list[int] | None = None,
        sampling: Sampling = GREEDY,
        stop: tuple[str, ...] = (),
        priority: int = 0,
        constraint: Constraint | None = None,
        logprobs: int = -1,
        mu: float | None = None,
        begun: bool = False,
    ) -> None:
        """Send a Start; with `produced` or `begun`, that of a run to carry on."""
        tokens = pack_tokens([*prompt, *(produced or [])])
        start = Start(
            tokens,
            len(prompt),
            max_tokens,
            sampling,
            stop,
            priority=priority,
            constraint=constraint,
            logprobs=logprobs,
            mu=mu,
            begun=begun or bool(produced),
        )
        self.inbox.put((request_id, start))

    def cancel(self, request_id: int) -> None:
        """Send a Cancel."""
        self.inbox.put((request_id, Cancel()))

    def stop(self) -> None:
        """Send a Stop."""
        self.inbox.put((0, Stop()))

    def finish(self, most: int = 2000) -> None:
        """Step until nothing is left to do."""
        for _ in range(most):
            self.loop.step()
            if not (self.loop.scheduler.busy or self.disk.waiting):
                return
        raise AssertionError(f"still busy after {most} steps")

    def news(self, request_id: int) -> list[Tokens]:
        """Return the frames with what a request generated."""
        sent = (entry for entry in self.out.log if not isinstance(entry, str))
        news = (one for number, one in sent if number == request_id and isinstance(one, Tokens))
        return [one for one in news if one.n_reused is None]

    def told(self, request_id: int) -> Told:
        """Return what was told of a request so far."""
        return self.out.told.get(request_id, Told())
