"""What embeddings and rerank share: many small runs for one request, a bounded number at once.

Invariant: every run is closed when the call ends, however it ends. Used by `embeddings` and
`rerank`.
"""

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from starlette.types import Receive, Scope, Send

from rayhost.errors import InvalidRequest, Overloaded, QueueFull
from rayhost.front.request import CacheOutcome, Finish, Front, GenerateRequest, Prompt
from rayhost.http.answer import Caller
from rayhost.http.connection import Bodies, while_connected
from rayhost.http.edge import Headers, exchange_of
from rayhost.http.generate import ignored_header, reuse_of
from rayhost.http.models import find_card
from rayhost.ipc.messages import Task
from rayhost.ipc.sampling import Sampling

MOST = 2048  # OpenAI's limit of inputs
_BATCHES = 2  # of a model's at once: while one is computed the next is to be at hand
# What the whole request is said to be: the one of its runs that was spared least.
_LEAST_SPARED: tuple[CacheOutcome, ...] = ("hit", "joined", "miss", "bypass")

T = TypeVar("T")


GREEDY = Sampling(temperature=0.0)  # a vector is no matter of chance


@dataclass(frozen=True, slots=True)
class Ask:
    """A validated body, as far as both endpoints have it alike."""

    requests: tuple[GenerateRequest, ...]
    ignored: tuple[str, ...]


A = TypeVar("A", bound=Ask)


class Endpoint(ABC, Generic[A]):
    """ASGI endpoint over a front."""

    def __init__(self, front: Front, bodies: Bodies) -> None:
        self._front = front
        self._bodies = bodies

    @abstractmethod
    def parse(self, raw: bytes, caller: Caller) -> A:
        """Return what a body asks for. Raises InvalidRequest."""

    @abstractmethod
    async def answer(self, ask: A, send: Send) -> None:
        """Compute and send the answer."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. Raises ApiError and ClientGone for `Edge` to deal with."""
        exchange = exchange_of(scope)
        raw = await self._bodies.read(scope, receive)
        ask = self.parse(raw, Caller(exchange.request_id, exchange.visit.terms, reuse_of(scope)))
        exchange.submitted = True
        await while_connected(receive, self.answer(ask, send))


def requests_of(
    prompts: Sequence[Prompt], task: Task, model: str, caller: Caller
) -> tuple[GenerateRequest, ...]:
    """Return a request for each prompt; where there are several, each has an id of its own."""
    return tuple(
        GenerateRequest(
            id=caller.request_id if len(prompts) == 1 else f"{caller.request_id}-{index}",
            model=model,
            prompt=prompt,
            sampling=GREEDY,
            max_tokens=0,
            terms=caller.terms,
            reuse=caller.reuse,
            task=task,
        )
        for index, prompt in enumerate(prompts)
    )


class Made(NamedTuple):
    """What a run came to."""

    model: str
    finish: Finish
    cache: CacheOutcome


class Vectors:
    """The runs of one request, in the order of its texts; `path` says where the i-th one is."""

    def __init__(self, front: Front, requests: Sequence[GenerateRequest], path: str) -> None:
        self._front = front
        self._requests = requests
        self._path = path

    async def made(self, check: Callable[[Made], None] = lambda _: None) -> list[Made]:
        """Return what each came to. Raises ApiError: the first failure, or of `check`, ends all."""

        async def work(index: int) -> Made:
            made = await self._one(index)
            check(made)
            return made

        width = _BATCHES * find_card(self._front, self._requests[0].model).concurrency
        return await in_window(work, len(self._requests), width)

    async def _one(self, index: int) -> Made:
        request = self._requests[index]
        recalled = self._front.recall(request)
        if recalled is not None:
            return Made(recalled.model, recalled.finish, "hit")
        try:
            run = await self._front.submit(request)
        except InvalidRequest as error:
            raise self._named(error, index) from None
        try:
            async for _ in run:
                continue
            return Made(run.model, run.finish, run.cache)
        except InvalidRequest as error:
            raise self._named(error, index) from None
        finally:
            run.close()

    def _named(self, error: InvalidRequest, index: int) -> InvalidRequest:
        """Return the refusal with the text that it is about, where it is about one."""
        if error.param == "model":
            return error
        where = self._path.format(index)
        return type(error)(f"{where}: {error.message}", code=error.code, param=where)


def headers_of(ask: Ask, made: Sequence[Made]) -> Headers:
    """Return the headers that tell how the request met the cache, and what of it was ignored."""
    cache = max((one.cache for one in made), key=_LEAST_SPARED.index)
    return [(b"x-rayhost-cache", cache.encode("ascii")), *ignored_header(ask.ignored)]


def usage_of(made: Sequence[Made]) -> dict[str, int]:
    """Return what the answer cost, in tokens."""
    tokens = sum(one.finish.prompt_tokens for one in made)
    return {"prompt_tokens": tokens, "total_tokens": tokens}


async def in_window(work: Callable[[int], Awaitable[T]], count: int, width: int) -> list[T]:
    """Return what `work` makes of each number below `count`, at most `width` of them at once.

    Where there is no room in the queue for one, it is tried again when another of ours has left
    it, and fewer are tried at once; a refusal of the only one is raised.
    """
    todo = deque(range(count))
    results: dict[int, T] = {}
    working = min(count, width)

    async def take() -> None:
        nonlocal working
        while todo:
            index = todo.popleft()
            try:
                results[index] = await work(index)
            except (QueueFull, Overloaded):
                if working == 1:
                    raise
                todo.appendleft(index)
                break
        working -= 1

    try:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(working):
                tasks.create_task(take())
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [results[index] for index in range(count)]
