"""The step loop of a model that writes text.

    drain inbox → begin → plan → llama_decode → sample where due → tell the front, one doorbell

A step is the latency of everything: a cancel frees its slot before the next one begins.
"""

from collections.abc import Callable
from collections.abc import Sequence as List

from rayhost import clock
from rayhost.engine.base import Codec, Engine, LoadError, Logits
from rayhost.engine.grammar import GrammarError, Matcher
from rayhost.engine.logprobs import logprob_of
from rayhost.engine.sampling import Sampler
from rayhost.ipc.messages import (
    Cancel,
    Load,
    LoadFailed,
    Rejected,
    Resize,
    Start,
    Stop,
    Tokens,
    unpack_tokens,
)
from rayhost.ipc.status import StatusPage, Word
from rayhost.worker import runs, warm
from rayhost.worker.cells import Cells
from rayhost.worker.constraints import Compiled, Constraints, Outcome, rejected
from rayhost.worker.disk import Disk, Fetched
from rayhost.worker.endings import Endings
from rayhost.worker.guided import follow, restrict
from rayhost.worker.outbox import Out
from rayhost.worker.output import TextStream
from rayhost.worker.prefixes import MIN_SHARED
from rayhost.worker.preloads import Preloads
from rayhost.worker.refusals import refusal, too_long
from rayhost.worker.scheduler import Chunk, Scheduler
from rayhost.worker.sequence import Sequence
from rayhost.worker.snapshots import Snapshots
from rayhost.worker.turns import BEAT_S, Inbox, News, Turns


class StepLoop(Turns):
    """Owns the engine and every sequence. `run` returns after a Stop message.

    `preload` are the beginnings that the snapshot store is to hold whatever else comes and goes.
    `save` is called with every beat, between steps; `resized` once the engine has another context,
    with what was asked for and the milliseconds that took.
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
        disk: Disk,
        constraints: Constraints,
        preload: List[list[int]] = (),
        save: Callable[[], None] = lambda: None,
        resized: Callable[[Load, float], None] = lambda _load, _ms: None,
        now: Callable[[], int] = clock.now_ns,
    ) -> None:
        super().__init__(inbox=inbox, out=out, status=status, now=now)
        self._engine = engine
        self._codec = codec
        self._save = save
        self._resized = resized
        self._target_ns = target_ns
        self._snapshots = snapshots
        self._disk = disk
        self._preloads = Preloads(preload, snapshots)
        self._constraints = constraints
        self._endings = Endings(out, status, now)
        self._uncompiled: set[int] = set()  # runs whose constraint is being compiled
        self._sampler = Sampler(engine.facts.vocabulary, codec)
        self._cells = Cells(engine, snapshots, status, now, target_ns)
        self.scheduler = self._new_scheduler()

    def _new_scheduler(self) -> Scheduler:
        facts = self._engine.facts
        return Scheduler(
            facts.concurrency,
            facts.batch,
            self._target_ns,
            self._snapshots,
            trims=facts.trims,
            streams=facts.streams,
        )

    def preload(self) -> None:
        """Compute what the store is to hold before anything else, as far as it has room."""
        while self._preloads.missing and not self._stopped:
            self.step()

    def keep_all(self) -> None:
        """Offer the cells of every slot to the snapshot store: the worker is about to end."""
        for slot, tokens in self.scheduler.held():
            if len(tokens) >= MIN_SHARED:
                self._cells.keep(slot, tokens)

    @property
    def _busy(self) -> bool:
        late = self._disk.patience_ns <= 0
        return self.scheduler.busy or self._preloads.missing or late

    @property
    def _nap_s(self) -> float:
        return max(0.0, min(BEAT_S, self._disk.patience_ns / 1e9))

    def _work(self, began: int) -> None:
        for sequence in self._disk.overdue():
            self._readmit(sequence)
        self._preloads.turn(self.scheduler)
        begun, chunks = self.scheduler.plan()
        while not self._cells.apply(begun, self.scheduler.times.prefill_ns):
            begun, chunks = self.scheduler.plan()
        if chunks:
            self._compute(chunks, began)

    def _take(self, request_id: int, message: News) -> None:
        match message:
            case Start():
                self._start(request_id, message)
            case Compiled():
                if request_id in self._uncompiled:
                    self._uncompiled.remove(request_id)
                    self._start_guided(request_id, message.start, message.outcome)
            case Fetched():
                for held in self._disk.take(message):
                    self._readmit(held)
            case Cancel():
                self._uncompiled.discard(request_id)
                self._disk.drop(request_id)
                sequence = self.scheduler.find(request_id)
                if sequence is not None:
                    self.scheduler.remove(sequence)
            case Resize():
                self._resize(message.load)
            case Stop():
                self._stopped = True
            case _:
                raise TypeError(f"the step loop does not take {type(message).__name__}")

    def _start(self, request_id: int, start: Start) -> None:
        constraint = start.constraint
        if constraint is None:
            self._begin(request_id, start, None)
        elif outcome := self._constraints.get(constraint):
            self._start_guided(request_id, start, outcome)
        else:  # what it was compiled to when its prompt was read is gone, or in another worker
            self._uncompiled.add(request_id)
            self._constraints.compile(
                request_id,
                constraint,
                lambda outcome: self._inbox.put((request_id, Compiled(start, outcome))),
            )

    def _start_guided(self, request_id: int, start: Start, outcome: Outcome) -> None:
        if isinstance(outcome, GrammarError):
            self._out.send(request_id, rejected(outcome))
        else:
            self._begin(request_id, start, outcome.matcher())

    def _begin(self, request_id: int, start: Start, matcher: Matcher | None) -> None:
        facts = self._engine.facts
        tokens = unpack_tokens(start.tokens)
        refused = refusal(tokens, start, facts)
        if refused is not None:
            self._out.send(request_id, refused)
            return
        sequence = Sequence(
            request_id=request_id,
            tokens=tokens,
            n_prompt=start.n_prompt,
            max_tokens=start.max_tokens,
            sampling=start.sampling,
            text=TextStream(start.stop),
            priority=start.priority,
            mu=start.mu,
            begun=start.begun,
            logprobs=start.logprobs,
            matcher=matcher,
        )
        try:
            stopped = runs.replay(self._codec, sequence)
        except GrammarError as error:
            self._out.send(request_id, rejected(error))
            return
        if not stopped and runs.outgrown(start, len(tokens), facts.context):
            self._endings.cut(sequence, "length")
        elif stopped or sequence.n_generated >= sequence.max_tokens:
            # The worker before this one died between the last token and the word that it was it.
            self._endings.finished(sequence, "stop" if stopped else "length")
        elif not self._disk.hold(sequence, self.scheduler.here(tokens)):
            self.scheduler.add(sequence)

    def _resize(self, load: Load) -> None:
        """Go on with other sizes: in the same context where they need no other.

        Of another one, what fits the snapshot store is restored and the rest computed. Measured
        with 8 sequences of 330 tokens: 60 ms, of which 45 create the context.
        """
        began = self._now()
        try:
            warm.check(self._preloads.beginnings, load.context)
        except LoadError as error:
            self._out.send(0, LoadFailed(str(error)))
            return
        if self._engine.retune(load):
            self._preloads.fit(load.snapshot_bytes, self._engine.facts.context)
            self._resized(load, (self._now() - began) / 1e6)
            return
        self.keep_all()
        sequences = [sequence for sequence in self.scheduler if not sequence.preload]
        self._preloads.interrupted()
        try:
            restorable = self._engine.resize(load)
        except LoadError as error:
            self._out.send(0, LoadFailed(str(error)))
        else:
            facts = self._engine.facts
            self._preloads.fit(load.snapshot_bytes, facts.context if restorable else 0)
            self._resized(load, (self._now() - began) / 1e6)
        times, self.scheduler = self.scheduler.times, self._new_scheduler()
        self.scheduler.times = times
        for sequence in sequences:
            self._readmit(sequence)

    def _readmit(self, sequence: Sequence) -> None:
        """Queue a sequence without cells, if the context, maybe a new one, can hold it."""
        sequence.evicted()
        context = self._engine.facts.context
        if len(sequence.tokens) < context:
            self.scheduler.add(sequence)
        elif sequence.n_generated:
            self._endings.cut(sequence, "length")
        else:
            self._out.send(sequence.request_id, too_long(sequence.n_prompt, context))

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
        forced = sum(chunk.size for chunk in chunks if chunk.sequence.forced)
        for sequence, size, _ in chunks:
            sequence.computed += size
            if sequence.computed == sequence.checkpoint:
                self._cells.keep(sequence.slot, sequence.tokens[: sequence.computed])
            self._tell_begun(sequence)
        self._preloads.computed(self.scheduler, self._cells)
        due_now = [chunk.sequence for chunk in chunks if chunk.due]
        generated = self._extend(due_now) if due_now else 0
        ended = self._now()
        prefilled = batch.size - decoding - forced
        if prefilled or not forced:  # a few tokens more than one each tell little of either time
            self.scheduler.times.learn(prefilled + forced, decoding, ended - began)
        self._count_step(batch.size, began, decode_ended - decode_began)
        self._status[Word.PREFILL_TOKENS] += prefilled
        self._status[Word.DECODE_TOKENS] += generated

    def _tell_begun(self, sequence: Sequence) -> None:
        """Tell of a run's first step, in any worker, what it did not have to compute."""
        if not (sequence.begun or sequence.preload):
            sequence.begun = True
            self._out.send(sequence.request_id, Tokens((), "", n_reused=sequence.reused))

    def _extend(self, due: list[Sequence]) -> int:
        """Sample a token for each due sequence, and tell it or end the run. Return how many."""
        logits = self._engine.logits()
        raw = {  # sampling changes rows in place
            sequence.request_id: row.copy()
            for sequence, row in zip(due, logits, strict=True)
            if sequence.logprobs >= 0
        }
        if over := restrict(logits, due):
            going = [i for i, sequence in enumerate(due) if sequence not in over]
            logits, due = logits[going], [due[i] for i in going]
            for sequence, outcome in over.items():
                self._endings.guided(sequence, outcome)
                self.scheduler.remove(sequence)
        chosen = self._sampler.sample(logits, due)
        context = self._engine.facts.context
        generated = 0
        now = self._now()
        for sequence, token in zip(due, chosen, strict=True):
            sequence.first_token_ns = sequence.first_token_ns or now
            tokens = follow(sequence, token, self._codec.ends(token))
            if isinstance(tokens, Rejected):
                self._endings.guided(sequence, tokens)
                self.scheduler.remove(sequence)
                continue
            ids, text, reason = runs.append(self._codec, sequence, tokens, context)
            generated += len(ids)
            news = Tokens(ids, text, mu=sequence.mu)
            if sequence.logprobs >= 0:
                news = self._told(sequence, news, raw[sequence.request_id])
            self._out.send(sequence.request_id, news)
            if reason is not None:
                self._endings.finished(sequence, reason)
                self.scheduler.remove(sequence)
        return generated

    def _told(self, sequence: Sequence, news: Tokens, row: Logits) -> Tokens:
        """Return the news with the log-probabilities that were asked for."""
        (token,) = news.ids
        codec = self._codec
        logprob = logprob_of(row, token, sequence.logprobs, codec.piece, codec.name)
        return Tokens(news.ids, news.text, (logprob,), sequence.settled, news.mu)

    def _show(self) -> None:
        status = self._status
        status[Word.ACTIVE] = len(self.scheduler.running)
        status[Word.WAITING] = len(self.scheduler.waiting) + self._disk.waiting
        status[Word.KV_TOKENS] = sum(s.computed for s in self.scheduler.running)
        self._cells.account()
        self._save()
