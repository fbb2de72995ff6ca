"""The way into a lane before there is a run: texts that its worker's text thread is to read.

Invariant: what is held here is bounded, in all and for a key, before it is read or a worker is
there; and what was read is charged, whatever becomes of it. One per lane, used by it alone.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from rayhost.errors import DeadlineExceeded
from rayhost.front.berth import Berth
from rayhost.front.fair import Claim
from rayhost.front.prompts import Prompts, question_of
from rayhost.front.request import (
    ChatPrompt,
    GenerateRequest,
    Prompt,
    Question,
    Reading,
    Terms,
    TokenPrompt,
)
from rayhost.front.room import Room
from rayhost.ipc.messages import Prepared, encode, pack_tokens

HELD_BYTES = 8 << 20  # of texts, each a part of a body of at most the profile's size
MAX_ASKING = 64  # questions at a time
# Measured on 2 cores: 2 MB of text a second are read, and 850 tokens of prompts computed.
READ_COST = 2000  # bytes of text that cost as much as a token that is computed
_MESSAGE_BYTES = 400  # that a message takes here beyond its text
_TOKEN_BYTES = 32


@dataclass(frozen=True, slots=True)
class Hooks:
    """What the lane does of it all."""

    late: Callable[[str], DeadlineExceeded]  # what one is told whose time was over
    suits: Callable[[GenerateRequest], None]  # raises where the worker that is here cannot do it
    spent: Callable[[str, int], None]  # tokens, by a key


class Intake:
    """`prompts` hears what the worker says of texts."""

    def __init__(self, berth: Berth, hooks: Hooks) -> None:
        self._berth = berth
        self._hooks = hooks
        self.prompts = Prompts(self._charge)
        self.asking = 0  # questions that are no requests: nothing of them is queued or run
        self._texts = Room(HELD_BYTES, "bytes of text")
        self._questions = Room(MAX_ASKING, "questions")

    async def read(self, request: GenerateRequest, claim: Claim) -> Prepared:
        """Return a prompt's tokens, not yet checked. Raises as `Front.submit` does."""
        question = question_of(request.prompt, request.constraint)
        size = 0 if question is None else size_of(question)
        held = size + held_beside(request.prompt)
        async with self._until(claim, "before the prompt was read"), self._held(claim, held):
            await self._berth.worker()
            self._hooks.suits(request)
            read = Prepared(b"", request.constraint)
            if question is not None:
                told = await self.prompts.ask(question, size, claim, self._berth.worker)
                if not isinstance(told, Prepared):
                    raise TypeError(f"a prompt was answered with {type(told).__name__}")
                read = told
            if isinstance(request.prompt, TokenPrompt):
                tokens = pack_tokens(list(request.prompt.tokens))
                read = Prepared(tokens, request.constraint)
            return read

    async def ask(self, question: Question, terms: Terms) -> Reading:
        """Return what the worker's text thread makes of a question. Raises as `Front.ask` does."""
        claim = Claim.of(terms)
        size = size_of(question)
        held = size + _MESSAGE_BYTES * len(question.messages or ())
        self.asking += 1
        try:
            async with self._until(claim, "before the text was read"):
                self._questions.enter(claim, 1, self.prompts.retry_after)
                try:
                    async with self._held(claim, held):
                        return await self.prompts.ask(question, size, claim, self._berth.worker)
                finally:
                    self._questions.leave(claim, 1)
        finally:
            self.asking -= 1

    @contextlib.asynccontextmanager
    async def _until(self, claim: Claim, what: str) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout_at(by_the_loop(claim.deadline_ns)):
                yield
        except TimeoutError:
            raise self._hooks.late(what) from None

    @contextlib.asynccontextmanager
    async def _held(self, claim: Claim, size: int) -> AsyncIterator[None]:
        self._texts.enter(claim, size, self.prompts.retry_after)
        try:
            yield
        finally:
            self._texts.leave(claim, size)

    def _charge(self, key: str, size: int) -> None:
        if tokens := size // READ_COST:
            self._hooks.spent(key, tokens)


def size_of(question: Question) -> int:
    """Return how many bytes a worker is sent."""
    return len(encode(question)[1])


def held_beside(prompt: Prompt) -> int:
    """Return about how many bytes a prompt takes here beyond its text."""
    match prompt:
        case TokenPrompt():
            return _TOKEN_BYTES * len(prompt.tokens)
        case ChatPrompt():
            return _MESSAGE_BYTES * len(prompt.messages)
        case _:
            return 0


def by_the_loop(deadline_ns: int | None) -> float | None:
    """Return a deadline by the loop's clock, which is `clock.now_ns` in seconds."""
    return None if deadline_ns is None else deadline_ns / 1e9
