"""Prompts on their way to token ids: asked of the worker, answered or lost with it, then checked.

Invariant: every question ends, by an answer, with the lane, with its asker, or convicted: when the
text thread, which takes them in order, died too often over it. One per lane.
"""

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from rayhost.errors import ApiError, ContextLengthExceeded, InvalidRequest, WorkerLost
from rayhost.front.blame import Death, Record
from rayhost.front.request import (
    ChatPrompt,
    PairPrompt,
    Prompt,
    Question,
    Reading,
    TextPrompt,
    TokenPrompt,
)
from rayhost.ipc.messages import (
    Cancel,
    Constraint,
    Message,
    Prepare,
    Prepared,
    Rejected,
    Sampling,
    pack_tokens,
)

numbers = itertools.count(1)  # what frames call a request; unique in this front


class Outlet(Protocol):
    """The way to a worker (`front.link.Link`)."""

    def send(self, request_id: int, message: Message) -> None:
        """Send a message. Never blocks or fails: a worker that is gone hears nothing."""
        ...


Worker = Callable[[], Awaitable[Outlet]]  # waits for one that is ready


class _Lost(Exception):
    """The worker is gone; ask the next one."""


@dataclass(slots=True, eq=False)
class _Question:
    message: Question
    record: Record = field(default_factory=Record)


class Prompts:
    """The questions that are open at a worker."""

    def __init__(self) -> None:
        self._open: set[_Question] = set()
        self._asked: dict[int, tuple[_Question, asyncio.Future[Reading]]] = {}  # oldest first

    @property
    def suspect(self) -> bool:
        """True while a prompt is open that a worker may have died of."""
        return any(question.record.suspect for question in self._open)

    async def read(
        self, prompt: Prompt, worker: Worker, constraint: Constraint | None = None
    ) -> Prepared:
        """Return a prompt's tokens, not yet checked; waits for a worker that is starting.

        With it comes what the answer is held to: the `constraint`, or what tools make of it.
        Raises InvalidRequest when the worker rejects the prompt or the constraint, WorkerLost when
        workers die of it, and what `worker` and `fail` raise.
        """
        match prompt:
            case TokenPrompt():
                tokens = pack_tokens(list(prompt.tokens))
                if constraint is None:
                    await worker()
                else:  # to be compiled
                    await self._prepared(Prepare(None, "", constraint=constraint), worker)
                return Prepared(tokens, constraint)
            case ChatPrompt():
                chat = Prepare(
                    prompt.messages,
                    None,
                    tools=prompt.tools,
                    continue_final=prompt.continue_final,
                    constraint=constraint,
                    options=prompt.options,
                )
                return await self._prepared(chat, worker)
            case TextPrompt():
                text = Prepare(None, prompt.text, suffix=prompt.suffix, constraint=constraint)
                return await self._prepared(text, worker)
            case PairPrompt():
                pair = Prepare(None, prompt.query, document=prompt.document)
                return await self._prepared(pair, worker)

    def answer(self, number: int, message: Reading | Rejected) -> bool:
        """Take a worker's answer. Return whether it was to an open question."""
        _, future = self._asked.get(number, (None, None))
        if future is None or future.done():
            return False
        if isinstance(message, Rejected):
            future.set_exception(refusal(message))
        else:
            future.set_result(message)
        return True

    def fail(self, error: ApiError) -> None:
        """End every open question."""
        for _, future in self._asked.values():
            if not future.done():
                future.set_exception(error)

    def lost(self, death: Death) -> bool:
        """The worker died: ask the next one. Return whether a prompt turned out to be the cause.

        Only the oldest can be: the text thread had not begun the others.
        """
        unread = [(one, future) for one, future in self._asked.values() if not future.done()]
        if not unread:
            return False
        oldest, answer = unread[0]
        guilty = oldest.record.convicted_by(death)
        oldest.record.lost(death)
        if guilty:
            answer.set_exception(WorkerLost("the worker died again and again on this prompt"))
        for _, future in unread[guilty:]:
            future.set_exception(_Lost())
        return guilty

    async def _prepared(self, prepare: Prepare, worker: Worker) -> Prepared:
        reading = await self.ask(prepare, worker)
        if not isinstance(reading, Prepared):
            raise TypeError(f"a prompt was answered with {type(reading).__name__}")
        return reading

    async def ask(self, message: Question, worker: Worker) -> Reading:
        """Return what a worker's text thread makes of a question. Raises as `read` does."""
        question = _Question(message)
        self._open.add(question)
        try:
            while True:
                outlet = await worker()
                with contextlib.suppress(_Lost):
                    return await self._ask(question, outlet)
        finally:
            self._open.remove(question)

    async def _ask(self, question: _Question, outlet: Outlet) -> Reading:
        number = next(numbers)
        future: asyncio.Future[Reading] = asyncio.get_running_loop().create_future()
        self._asked[number] = (question, future)
        try:
            outlet.send(number, question.message)
            return await future
        except asyncio.CancelledError:  # the client left: others wait behind this prompt
            outlet.send(number, Cancel())
            raise
        finally:
            del self._asked[number]


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
