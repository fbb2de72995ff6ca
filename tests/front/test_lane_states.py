"""A lane under any order of events: counts never drift, no token is lost, nobody is forgotten."""

import asyncio

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from rayhost.errors import QueueFull, Unavailable, WorkerLost
from rayhost.front.blame import Death
from rayhost.front.lane import LOOK_AHEAD
from rayhost.front.run import ActiveRun
from rayhost.ipc.messages import Start, unpack_tokens
from tests.front.fake_worker import FakeWorker, chat_request, make_lane, request

CONCURRENCY = 2
QUEUE_LIMIT = 6
PROMPT = [1, 2, 3]
which = st.integers(0, 1_000)  # modulo the number of candidates

Submission = asyncio.Task[ActiveRun]


class LaneMachine(RuleBasedStateMachine):
    """Clients come and go, workers come, answer and die; the test keeps the books beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.lane = make_lane(concurrency=CONCURRENCY, queue_limit=QUEUE_LIMIT)
        self.worker: FakeWorker | None = None
        self.submitting: list[Submission] = []
        self.open: list[ActiveRun] = []
        self.fed: dict[ActiveRun, list[int]] = {}
        self.run_of: dict[int, ActiveRun] = {}  # by every number it ever had
        self.tokens_given = 0

    def teardown(self) -> None:
        """Whatever happened, closing ends it all."""
        self.lane.close(Unavailable("over"))
        self.settle()
        assert not self.submitting
        assert all(run.outcome for run in self.open)
        assert self.lane.idle.is_set()
        self.loop.close()

    def settle(self) -> None:
        """Let every task run, and take in what came of the submissions."""

        async def turns() -> None:
            for _ in range(5):
                await asyncio.sleep(0)

        self.loop.run_until_complete(turns())
        pending = []
        for task in self.submitting:
            if not task.done():
                pending.append(task)
            elif not task.cancelled() and task.exception() is None:
                run = task.result()
                assert run.prompt == PROMPT
                self.open.append(run)
                self.fed[run] = []
                self.run_of[run.number] = run
            elif not task.cancelled():
                assert isinstance(task.exception(), QueueFull | WorkerLost | Unavailable)
        self.submitting = pending

    def running(self) -> list[ActiveRun]:
        """Runs that the worker has."""
        if self.worker is None:
            return []
        return [run for run in self.open if run.number in self.worker.started and not run.outcome]

    @rule(tokenized=st.booleans())
    def submit(self, tokenized: bool) -> None:
        asked = request(tokens=tuple(PROMPT)) if tokenized else chat_request()
        refused = len(self.submitting) + len(self.open) - len(self.running()) >= QUEUE_LIMIT
        task = self.loop.create_task(self.lane.submit(asked))
        self.submitting.append(task)
        self.settle()
        if task.done() and task.exception() is not None:
            convicted = isinstance(task.exception(), WorkerLost)  # one like it killed two workers
            assert refused or convicted, "refused although the queue had room"

    @rule(n=which)
    def give_up_submitting(self, n: int) -> None:
        if self.submitting:
            self.submitting.pop(n % len(self.submitting)).cancel()
            self.settle()

    @rule(n=which)
    def disconnect(self, n: int) -> None:
        if self.open:
            run = self.open.pop(n % len(self.open))
            run.close()
            assert run.outcome == "cancelled"

    @precondition(lambda self: self.worker is None)
    @rule()
    def attach(self) -> None:
        self.worker = FakeWorker(self.lane)
        self.settle()

    @precondition(lambda self: self.worker is not None)
    @rule(death=st.sampled_from(Death))
    def die(self, death: Death) -> None:
        assert self.worker is not None
        self.worker.die(death)
        self.worker = None
        self.settle()
        lost = [run for run in self.open if run.outcome]
        assert {run.outcome for run in lost} <= {"worker_lost"}
        self.open = [run for run in self.open if not run.outcome]

    @rule(n=which)
    def read_a_prompt(self, n: int) -> None:
        if self.worker and self.worker.asked:  # perhaps one that was answered or given up before
            self.worker.prepared(self.worker.asked[n % len(self.worker.asked)], *PROMPT)
            self.settle()

    @rule(n=which, count=st.integers(1, 3))
    def step(self, n: int, count: int) -> None:
        if running := self.running():
            assert self.worker is not None
            run = running[n % len(running)]
            ids = list(range(self.tokens_given, self.tokens_given + count))
            self.tokens_given += count
            self.fed[run] += ids
            self.worker.tokens(run.number, *ids)

    @rule(n=which)
    def finish(self, n: int) -> None:
        if running := self.running():
            assert self.worker is not None
            run = running[n % len(running)]
            self.worker.finish(run.number)
            assert run.outcome == "stop"
            self.open.remove(run)

    @rule(n=which)
    def preempt(self, n: int) -> None:
        if running := self.running():
            assert self.worker is not None
            run = running[n % len(running)]
            number = run.number
            self.lane._preempt(run)
            self.run_of[run.number] = run
            assert self.worker.cancelled[-1] == number
            self.lane._dispatch()

    @rule(n=which)
    def late_frames(self, n: int) -> None:
        if self.worker and self.worker.started:
            number = self.worker.started[n % len(self.worker.started)]
            if number not in {run.number for run in self.open}:
                self.worker.tokens(number, 1, text="late")
                self.worker.finish(number)

    @invariant()
    def counts_are_right(self) -> None:
        running = len(self.running())
        assert self.lane.queued == len(self.submitting) + len(self.open) - running
        assert self.lane.idle.is_set() == (not self.submitting and not self.open)
        assert running <= CONCURRENCY + LOOK_AHEAD

    @invariant()
    def no_run_waits_while_the_worker_has_room(self) -> None:
        running = self.running()
        waiting = [run for run in self.open if run not in running]
        suspects = sum(run.record.suspect for run in running)
        assert suspects <= 1
        if self.worker and waiting and not suspects and not self.lane._prompts.suspect:
            assert len(running) == CONCURRENCY + LOOK_AHEAD

    @invariant()
    def what_was_produced_is_what_was_fed(self) -> None:
        for run in self.open:
            assert run.produced == self.fed[run]

    @invariant()
    def every_start_carries_all_tokens_of_earlier_workers_and_nobody_starts_twice(self) -> None:
        if self.worker is None:
            return
        assert len(set(self.worker.started)) == len(self.worker.started)
        for number, message in self.worker.sent:
            if isinstance(message, Start):
                tokens = unpack_tokens(message.tokens)
                whole = PROMPT + self.fed[self.run_of[number]]
                assert message.n_prompt == len(PROMPT)
                assert tokens == whole[: len(tokens)]


TestLaneStates = LaneMachine.TestCase
TestLaneStates.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
