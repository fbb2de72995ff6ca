"""The step loop: the worker's only thread that touches the engine.

    drain inbox → begin → plan → llama_decode → sample where due → tell the front, one doorbell

A step is the latency of everything: a cancel frees its slot before the next one begins.
"""

import queue
from collections.abc import Callable
from typing import Literal, Protocol

from rayhost import clock
from rayhost.engine.base import Codec, Engine
from rayhost.engine.sampling import Sampler
from rayhost.ipc.messages import (
    Cancel,
    Finished,
    Message,
    Rejected,
    Start,
    Stop,
    Tokens,
    unpack_tokens,
)
from rayhost.ipc.status import StatusPage, Word
from rayhost.worker.cells import Cells
from rayhost.worker.output import TextStream
from rayhost.worker.prefixes import MIN_SHARED
from rayhost.worker.scheduler import Chunk, Scheduler
from rayhost.worker.sequence import Sequence
from rayhost.worker.snapshots import Snapshots

Inbox = queue.SimpleQueue[tuple[int, Message]]
Reason = Literal["stop", "length"]
BEAT_S = 0.5  # an idle loop shows life this often
RETRY_S = 0.005  # and with a full ring looks for room this often


class Out(Protocol):
    """Where the loop tells its news (`worker.outbox.Outbox`)."""

    def send(self, request_id: int, message: Message) -> None:
        """Queue a message."""
        ...

    def flush(self) -> bool:
        """Publish what fits; return True when nothing waits."""
        ...


class StepLoop:
    """Owns the engine and every sequence. `run` returns after a Stop message.

    `save` is called with every beat, between steps.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        codec: Codec,
        inbox: Inbox,
        out: Out,
        status: StatusPage,
        target_ns: int,
        snapshots: Snapshots,
        save: Callable[[], None] = lambda: None,
        now: Callable[[], int] = clock.now_ns,
    ) -> None:
        self._engine = engine
        self._codec = codec
        self._inbox = inbox
        self._out = out
        self._status = status
        self._save = save
        self._now = now
        self._sampler = Sampler(engine.facts.vocabulary)
        self._stopped = False
        facts = engine.facts
        self._cells = Cells(engine, snapshots, status, now)
        self.scheduler = Scheduler(
            facts.concurrency,
            facts.batch,
            target_ns,
            snapshots,
            trims=facts.trims,
            streams=facts.streams,
        )

    def run(self) -> None:
        """Step while there is work, sleep on the inbox while there is none."""
        while not self._stopped:
            if not self.scheduler.busy:
                self._beat()
                told = self._out.flush()
                try:
                    self._take(*self._inbox.get(timeout=BEAT_S if told else RETRY_S))
                except queue.Empty:
                    continue
            self.step()

    def keep_all(self) -> None:
        """Offer the cells of every slot to the snapshot store: the worker is about to end."""
        for slot, tokens in self.scheduler.held():
            if len(tokens) >= MIN_SHARED:
                self._cells.keep(slot, tokens)

    def step(self) -> None:
        """One turn of the loop."""
        began = self._now()
        self._drain()
        begun, chunks = self.scheduler.plan()
        while not self._cells.apply(begun, self.scheduler.times.prefill_ns):
            begun, chunks = self.scheduler.plan()
        if chunks:
            self._compute(chunks, began)
        self._out.flush()
        self._beat()

    def _drain(self) -> None:
        while True:
            try:
                item = self._inbox.get_nowait()
            except queue.Empty:
                return
            self._take(*item)

    def _take(self, request_id: int, message: Message) -> None:
        match message:
            case Start():
                self._start(request_id, message)
            case Cancel():
                sequence = self.scheduler.find(request_id)
                if sequence is not None:
                    self.scheduler.remove(sequence)
            case Stop():
                self._stopped = True
            case _:
                raise TypeError(f"the step loop does not take {type(message).__name__}")

    def _start(self, request_id: int, start: Start) -> None:
        facts = self._engine.facts
        tokens = unpack_tokens(start.tokens)
        refusal = _refusal(tokens, start, facts.context, facts.vocabulary)
        if refusal is not None:
            self._out.send(request_id, refusal)
            return
        sequence = Sequence(
            request_id=request_id,
            tokens=tokens,
            n_prompt=start.n_prompt,
            max_tokens=min(start.max_tokens, facts.context - start.n_prompt),
            sampling=start.sampling,
            text=TextStream(start.stop),
        )
        reason = self._replay(sequence)
        if reason is None:
            self.scheduler.add(sequence)
            return
        # The worker before this one died between the last token and the word that it was the last.
        sequence.started_ns = sequence.first_token_ns = self._now()
        self._finish(sequence, reason)

    def _replay(self, sequence: Sequence) -> Reason | None:
        """Rebuild the text of a resumed run, which its client has; return why the run is over."""
        for generated, token in enumerate(sequence.tokens[sequence.n_prompt :], 1):
            _, reason = self._advance(sequence, token, generated)
            if reason is not None:
                return reason
        return None

    def _advance(self, sequence: Sequence, token: int, generated: int) -> tuple[str, Reason | None]:
        """Take the text of a run's `generated`-th token.

        Return what of it became final, and why the run ends here if it does.
        """
        stream = sequence.text
        if self._codec.ends(token):
            return stream.close(), "stop"
        text = stream.push(self._codec.piece(token))
        if stream.stopped:
            return text, "stop"
        if generated >= sequence.max_tokens:
            return text + stream.close(), "length"
        return text, None

    def _compute(self, chunks: list[Chunk], began: int) -> None:
        batch = self._engine.batch
        batch.clear()
        # llama.cpp computes neighbouring slots together; out of order, each by itself (40 against
        # 60 ms for 8).
        chunks.sort(key=lambda chunk: chunk.sequence.slot)
        for sequence, size, due in chunks:
            sequence.started_ns = sequence.started_ns or began
            end = sequence.computed + size
            batch.add(
                sequence.slot, sequence.tokens[sequence.computed : end], sequence.computed, due
            )
        decode_began = self._now()
        self._engine.decode()
        decode_ended = self._now()
        decoding = sum(chunk.sequence.decoding for chunk in chunks)
        for sequence, size, _ in chunks:
            sequence.computed += size
            if sequence.computed == sequence.checkpoint:
                self._cells.keep(sequence.slot, sequence.tokens[: sequence.computed])
        due_now = [chunk.sequence for chunk in chunks if chunk.due]
        if due_now:
            self._extend(due_now)
        ended = self._now()
        prefilled = batch.size - decoding
        self.scheduler.times.learn(prefilled, decoding, ended - began)
        status = self._status
        status[Word.STEP] += 1
        status[Word.STEP_NS] += ended - began
        status[Word.DECODE_NS] += decode_ended - decode_began
        status[Word.PREFILL_TOKENS] += prefilled
        status[Word.DECODE_TOKENS] += len(due_now)

    def _extend(self, due: list[Sequence]) -> None:
        """Sample a token for each due sequence, and tell it or end the run."""
        chosen = self._sampler.sample(self._engine.logits(), due)
        now = self._now()
        for sequence, token in zip(due, chosen, strict=True):
            sequence.first_token_ns = sequence.first_token_ns or now
            sequence.tokens.append(token)
            text, reason = self._advance(sequence, token, sequence.n_generated)
            self._out.send(sequence.request_id, Tokens((token,), text))
            if reason is not None:
                self._finish(sequence, reason)
                self.scheduler.remove(sequence)

    def _finish(self, sequence: Sequence, reason: Reason) -> None:
        self._out.send(
            sequence.request_id,
            Finished(
                reason=reason,
                n_prompt=sequence.n_prompt,
                n_generated=sequence.n_generated,
                started_ns=sequence.started_ns,
                first_token_ns=sequence.first_token_ns,
                finished_ns=self._now(),
                n_reused=sequence.reused,
            ),
        )
        self._status[Word.FINISHED] += 1

    def _beat(self) -> None:
        status = self._status
        status[Word.BEAT_NS] = self._now()
        status[Word.ACTIVE] = len(self.scheduler.running)
        status[Word.WAITING] = len(self.scheduler.waiting)
        status[Word.KV_TOKENS] = sum(s.computed for s in self.scheduler.running)
        self._cells.account()
        self._save()


def _refusal(tokens: list[int], start: Start, context: int, vocabulary: int) -> Rejected | None:
    """Return why a run cannot start. The front has checked all this; a worker trusts nobody."""
    if not tokens or start.n_prompt < 1 or start.n_prompt > len(tokens):
        return Rejected("the prompt is empty", "invalid_value", "prompt")
    if start.max_tokens < 1:
        return Rejected("max_tokens must be at least 1", "invalid_value", "max_tokens")
    if start.n_prompt >= context or len(tokens) > context:  # a full one may be a run that is over
        return Rejected(
            f"{len(tokens)} tokens do not fit a context of {context}", "context_length_exceeded"
        )
    if min(tokens) < 0 or max(tokens) >= vocabulary:
        return Rejected(f"token ids must be from 0 to {vocabulary - 1}", "invalid_value", "prompt")
    return None
