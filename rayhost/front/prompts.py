"""Prompts on their way to token ids: asked of the worker, answered or lost with it, then checked.

Invariants: every question ends, by an answer, with the lane, with its asker, or convicted: when the
text thread, which takes them in order, died too often over it. They wait here, by priority and key,
and a worker is given no more at a time than it reads in some 20 ms: one large text, or small ones.
One per lane; `intake` bounds what waits.
"""

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

from rayhost import clock
from rayhost.errors import ApiError, ContextLengthExceeded, InvalidRequest, WorkerLost
from rayhost.front.blame import Death, Record
from rayhost.front.drain_rate import DrainRate
from rayhost.front.fair import Claim, FairQueue
from rayhost.front.request import (
    ChatPrompt,
    PairPrompt,
    Prompt,
    Question,
    Reading,
    TextPrompt,
    TokenPrompt,
    follows_grammar,
)
from rayhost.ipc.messages import Cancel, Constraint, Message, Prepare, Rejected
from rayhost.ipc.sampling import Sampling

AT_ONCE_BYTES = 32 << 10  # some 8,000 tokens, which take 20 ms

numbers = itertools.count(1)  # what frames call a request; unique in this front


class Outlet(Protocol):
    """The way to a worker (`front.link.Link`)."""

    def send(self, request_id: int, message: Message) -> None:
        """Send a message. Never blocks or fails: a worker that is gone hears nothing."""
        ...


Worker = Callable[[], Awaitable[Outlet]]  # waits for one that is ready


class _Lost(Exception):
    """The worker is gone; ask the next one."""


@dataclass(slots=True, eq=False, kw_only=True)
class _Question:
    message: Question
    claim: Claim  # on the text thread: its prompt is the bytes
    record: Record = field(default_factory=Record)
    number: int = 0  # what frames call it, once a worker was given it
    reads: bool = False  # the text thread has it before it
    answer: "asyncio.Future[Reading]"


class Prompts:
    """The questions that are open: they wait, in the order of priorities and keys, or a worker
    was given them. `charge` hears of the bytes that were read for a key.
    """

    def __init__(self, charge: Callable[[str, int], None] = lambda _key, _bytes: None) -> None:
        self._charge = charge
        self._outlet: Outlet | None = None
        self._open: set[_Question] = set()
        self._waiting: FairQueue[_Question] = FairQueue()
        self._given: dict[int, _Question] = {}  # oldest first
        self._rate = DrainRate()

    @property
    def suspect(self) -> bool:
        """True while a prompt is open that a worker may have died of."""
        return any(question.record.suspect for question in self._open)

    @property
    def constrained(self) -> bool:
        """True while one is open whose constraint a worker compiles."""
        asked = (one.message for one in self._open)
        return any(
            follows_grammar(message.constraint, message.tools)
            for message in asked
            if isinstance(message, Prepare)
        )

    @property
    def retry_after(self) -> int:
        """Seconds until what is open now will probably have been read."""
        return self._rate.retry_after(len(self._open))

    async def ask(self, message: Question, size: int, claim: Claim, worker: Worker) -> Reading:
        """Return what a worker's text thread makes of a question of so many bytes.

        Waits for a worker that is starting. Raises InvalidRequest when the worker rejects it,
        WorkerLost when workers die of it, and what `worker` and `fail` raise.
        """
        loop = asyncio.get_running_loop()
        question = _Question(
            message=message,
            claim=replace(claim, prompt=max(1, size), answer=0, charged=0.0),
            answer=loop.create_future(),
        )
        self._open.add(question)
        try:
            while True:
                self._outlet = await worker()
                with contextlib.suppress(_Lost):
                    self._waiting.push(question, clock.now_ns())
                    self._advance()
                    return await question.answer
                question.number, question.answer = 0, loop.create_future()
        except asyncio.CancelledError:  # the client left: others wait behind this prompt
            if self._outlet is not None and question.number in self._given:
                self._outlet.send(question.number, Cancel())
            raise
        finally:
            self._open.remove(question)
            self._forget(question)
            if not self._open:
                self._rate.idle()

    def answer(self, number: int, message: Reading | Rejected) -> bool:
        """Take a worker's answer. Return whether it was to an open question."""
        question = self._given.get(number)
        if question is None or question.answer.done():
            return False
        self._rate.ended(clock.now_ns())
        if isinstance(message, Rejected):
            question.answer.set_exception(refusal(message))
        else:
            question.answer.set_result(message)
        self._forget(question)
        return True

    def compiling(self, number: int) -> None:
        """The text thread is through with a prompt: only its constraint is yet to be compiled."""
        if question := self._given.get(number):
            self._is_read(question)
            self._advance()

    def fail(self, error: ApiError) -> None:
        """End every open question that a worker was to answer."""
        self._end_all(error)

    def lost(self, death: Death) -> bool:
        """The worker died: ask the next one. Return whether a prompt turned out to be the cause.

        Only the oldest can be that the text thread had before it: it had not begun the others.
        """
        oldest = min(self._given.values(), key=lambda one: not one.reads, default=None)
        guilty = False
        if oldest is not None:
            guilty = oldest.record.convicted_by(death)
            oldest.record.lost(death)
            if guilty:
                why = WorkerLost("the worker died again and again on this prompt")
                oldest.answer.set_exception(why)
        self._end_all(_Lost())
        return guilty

    def _end_all(self, how: Exception) -> None:
        # Taken out before anybody has a turn: a next worker is given what is asked anew.
        self._outlet = None
        for question in [*self._given.values(), *self._waiting]:
            if not question.answer.done():
                question.answer.set_exception(how)
            self._forget(question)

    def _advance(self) -> None:
        """Give the worker the next ones; small ones together, a large one alone."""
        while self._outlet is not None and len(self._waiting):
            now_ns = clock.now_ns()
            before = sum(one.claim.prompt for one in self._given.values() if one.reads)
            if before and before + self._waiting.head(now_ns).claim.prompt > AT_ONCE_BYTES:
                return
            question = self._waiting.pop(now_ns)
            question.number, question.reads = next(numbers), True
            self._given[question.number] = question
            self._charge(question.claim.key, question.claim.prompt)
            self._outlet.send(question.number, question.message)

    def _is_read(self, question: _Question) -> None:
        question.reads = False
        self._waiting.settle(question.claim, question.claim.prompt)

    def _forget(self, question: _Question) -> None:
        """Take a question out of wherever it is."""
        if self._given.pop(question.number, None):
            self._is_read(question)
        elif question in self._waiting:
            self._waiting.remove(question)
        self._advance()


def question_of(prompt: Prompt, constraint: Constraint | None = None) -> Prepare | None:
    """Return what a worker is asked about a prompt; None where there is nothing to ask.

    With the tokens comes what the answer is held to: the constraint, or what tools make of it.
    """
    match prompt:
        case TokenPrompt():
            return None if constraint is None else Prepare(None, "", constraint=constraint)
        case ChatPrompt():
            return Prepare(
                prompt.messages,
                None,
                tools=prompt.tools,
                continue_final=prompt.continue_final,
                constraint=constraint,
                options=prompt.options,
            )
        case TextPrompt():
            return Prepare(None, prompt.text, suffix=prompt.suffix, constraint=constraint)
        case PairPrompt():
            return Prepare(None, prompt.query, document=prompt.document)


def check(tokens: list[int], prompt: Prompt, *, model: str, context: int, vocabulary: int) -> None:
    """Raise InvalidRequest or ContextLengthExceeded for tokens that the model cannot run."""
    param = "messages" if isinstance(prompt, ChatPrompt) else "prompt"
    if not tokens:
        raise InvalidRequest("the prompt is empty: it has no token", param=param)
    if len(tokens) >= context:
        raise ContextLengthExceeded(
            f"This model's maximum context length is {context} tokens, of which at least one is "
            f"for the answer. However, your prompt has {len(tokens)} tokens.",
            param=param,
        )
    for bad in (min(tokens), max(tokens)):
        if not 0 <= bad < vocabulary:
            raise InvalidRequest(
                f"{bad} is not a token of {model!r}: ids are from 0 to {vocabulary - 1}",
                param=param,
            )


def check_bias(sampling: Sampling, *, model: str, vocabulary: int) -> None:
    """Raise InvalidRequest for a bias of a token that the model does not have."""
    worst = max((token for token, _ in sampling.logit_bias), default=0)
    if worst >= vocabulary:
        raise InvalidRequest(
            f"logit_bias: {worst} is not a token of {model!r}: ids are from 0 to {vocabulary - 1}",
            param="logit_bias",
        )


def refusal(message: Rejected) -> InvalidRequest:
    """Return what a client is told of a worker's rejection."""
    return InvalidRequest(message.message, code=message.code, param=message.param)
