"""The loop of a model that makes vectors: what `worker.loop` is for one that writes text.

    drain inbox → take whole prompts while they fit → encode → tell the front, one doorbell

Invariant: a prompt is computed in one step, beside those of other requests, and leaves nothing
behind. A step is the latency of a cancel.
"""

from collections.abc import Callable, Mapping
from itertools import islice

import numpy as np

from rayhost import clock
from rayhost.engine.base import Embedder, Facts, LoadError
from rayhost.ipc.messages import (
    Cancel,
    Embedded,
    Load,
    LoadFailed,
    Message,
    Rejected,
    Resize,
    Start,
    Stop,
    unpack_tokens,
)
from rayhost.ipc.status import StatusPage, Word
from rayhost.worker.outbox import Out
from rayhost.worker.turns import Inbox, News, Turns


class EmbedLoop(Turns):
    """Owns the engine and every prompt. `run` returns after a Stop message.

    `resized` is called after a Resize that worked, with what was asked for and the milliseconds.
    """

    def __init__(
        self,
        *,
        embedder: Embedder,
        inbox: Inbox,
        out: Out,
        status: StatusPage,
        resized: Callable[[Load, float], None],
        now: Callable[[], int] = clock.now_ns,
    ) -> None:
        super().__init__(inbox=inbox, out=out, status=status, now=now)
        self._embedder = embedder
        self._resized = resized
        self._waiting: dict[int, list[int]] = {}  # prompts by request, in the order they came

    @property
    def _busy(self) -> bool:
        return bool(self._waiting)

    def _work(self, began: int) -> None:
        facts = self._embedder.facts
        chosen = together(self._waiting, facts.concurrency, facts.batch)
        if chosen and not self._stopped:
            self._compute(chosen, began)

    def _take(self, request_id: int, message: News) -> None:
        match message:
            case Start():
                tokens = unpack_tokens(message.tokens)
                if refused := refusal(tokens, message, self._embedder.facts):
                    self._out.send(request_id, refused)
                else:
                    self._waiting[request_id] = tokens
            case Cancel():
                self._waiting.pop(request_id, None)
            case Resize():
                self._resize(message.load)
            case Stop():
                self._stopped = True
            case _:
                raise TypeError(f"the loop for vectors does not take {type(message).__name__}")

    def _resize(self, load: Load) -> None:
        began = self._now()
        try:
            self._embedder.resize(load)
        except LoadError as error:
            self._out.send(0, LoadFailed(str(error)))
            return
        self._resized(load, (self._now() - began) / 1e6)
        context = self._embedder.facts.context
        for request_id in [one for one, tokens in self._waiting.items() if len(tokens) > context]:
            self._out.send(request_id, _too_long(len(self._waiting.pop(request_id)), context))

    def _compute(self, chosen: list[int], began: int) -> None:
        batch, status = self._embedder.batch, self._status
        batch.clear()
        for slot, request_id in enumerate(chosen):
            batch.put(slot, self._waiting.pop(request_id))
        status[Word.ACTIVE] = len(chosen)
        encode_began = self._now()
        self._embedder.encode()
        encode_ended = self._now()
        for slot, request_id in enumerate(chosen):
            self._out.send(request_id, self._told(slot, began, encode_ended))
        self._count_step(batch.size, began, encode_ended - encode_began)
        status[Word.PREFILL_TOKENS] += batch.size
        status[Word.FINISHED] += len(chosen)

    def _told(self, slot: int, began: int, ended: int) -> Message:
        vector = self._embedder.vector(slot)
        if not np.isfinite(vector).all():
            return Rejected("the model computes no numbers for this input", "invalid_value")
        return Embedded(vector.astype("<f4", copy=False).tobytes(), began, ended)

    def _show(self) -> None:
        self._status[Word.ACTIVE] = 0
        self._status[Word.WAITING] = len(self._waiting)


def together(waiting: Mapping[int, list[int]], prompts: int, tokens: int) -> list[int]:
    """Return the requests of the next step: the first ones, while there is room for another."""
    chosen: list[int] = []
    for request_id, prompt in islice(waiting.items(), prompts):
        tokens -= len(prompt)
        if tokens < 0:
            break
        chosen.append(request_id)
    return chosen


def refusal(tokens: list[int], start: Start, facts: Facts) -> Rejected | None:
    """Return what a run is answered that cannot start, None for one that can.

    The front has checked all this; a worker trusts nobody.
    """
    if not start.embed:
        return Rejected("this model does not generate text", "model_not_supported", "model")
    if not tokens:
        return Rejected("the input is empty", "invalid_value", "input")
    if len(tokens) > facts.context:
        return _too_long(len(tokens), facts.context)
    if min(tokens) < 0 or max(tokens) >= facts.vocabulary:
        return Rejected(
            f"token ids must be from 0 to {facts.vocabulary - 1}", "invalid_value", "input"
        )
    return None


def _too_long(tokens: int, context: int) -> Rejected:
    return Rejected(
        f"{tokens} tokens do not fit a context of {context}", "context_length_exceeded", "input"
    )
