"""The turns of a worker's main thread, whatever its model is for: take what came, step, show life.

The only thread that touches the engine. It sleeps on the inbox while there is nothing to do. Two
loops are made of it: `worker.loop` for text, `worker.embed_loop` for vectors.
"""

import queue
from abc import ABC, abstractmethod
from collections.abc import Callable

from rayhost import clock
from rayhost.ipc.messages import Message
from rayhost.ipc.status import STEP_SIZES, STEP_TIMES, StatusPage, Word
from rayhost.worker.constraints import Compiled
from rayhost.worker.disk import Fetched
from rayhost.worker.outbox import Out

News = Message | Compiled | Fetched
Inbox = queue.SimpleQueue[tuple[int, News]]
BEAT_S = 0.5  # an idle loop shows life this often
RETRY_S = 0.005  # and with a full ring looks for room this often


class Turns(ABC):
    """`run` returns after a Stop message, which sets `_stopped`."""

    def __init__(
        self,
        *,
        inbox: Inbox,
        out: Out,
        status: StatusPage,
        now: Callable[[], int] = clock.now_ns,
    ) -> None:
        self._inbox = inbox
        self._out = out
        self._status = status
        self._now = now
        self._stopped = False

    def run(self) -> None:
        """Step while there is work, sleep on the inbox while there is none."""
        while not self._stopped:
            if not self._busy:
                self._beat()
                told = self._out.flush()
                try:
                    self._take(*self._inbox.get(timeout=self._nap_s if told else RETRY_S))
                except queue.Empty:
                    continue
            self.step()

    def step(self) -> None:
        """One turn: whatever it has to tell goes out together, with one doorbell."""
        began = self._now()
        self._drain()
        self._work(began)
        self._out.flush()
        self._beat()

    @property
    @abstractmethod
    def _busy(self) -> bool:
        """Whether there is something to compute."""

    @property
    def _nap_s(self) -> float:
        """How long it may sleep while nothing comes."""
        return BEAT_S

    @abstractmethod
    def _take(self, request_id: int, message: News) -> None:
        """Take in a message."""

    @abstractmethod
    def _work(self, began: int) -> None:
        """Compute what is due, in a turn that began at `began`."""

    @abstractmethod
    def _show(self) -> None:
        """Show on the status page what there is to do."""

    def _drain(self) -> None:
        while True:
            try:
                item = self._inbox.get_nowait()
            except queue.Empty:
                return
            self._take(*item)

    def _beat(self) -> None:
        self._status[Word.BEAT_NS] = self._now()
        self._show()

    def _count_step(self, tokens: int, began: int, decode_ns: int) -> None:
        """Count a step of so many tokens that ends now; `decode_ns` of it were in llama.cpp."""
        took_ns = self._now() - began
        status = self._status
        status[Word.STEP] += 1
        status[Word.STEP_NS] += took_ns
        status[Word.DECODE_NS] += decode_ns
        status[Word.BATCH_TOKENS] += tokens
        status.observe(STEP_TIMES, took_ns)
        status.observe(STEP_SIZES, tokens)
