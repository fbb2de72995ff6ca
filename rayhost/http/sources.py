"""Where the choices of one answer come from: runs and known answers, their pieces as they come.

Invariants: at most `AT_ONCE` are submitted at a time, so that a long list of prompts does not fill
the queue by itself; one that fails is the end of all; after `close` none of them runs. Used by
`generate` alone.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence

from rayhost.front.request import Finish, Front, GenerateRequest, Piece, Recalled, Run, Standing

AT_ONCE = 16

News = tuple[int, Piece | Finish]  # the index of a choice, and a part of it, or its end


class Sources:
    """The runs of several requests. Where an answer is `known` its request is not submitted."""

    def __init__(
        self,
        front: Front,
        requests: Sequence[GenerateRequest],
        known: Sequence[Recalled | None],
    ) -> None:
        self._front = front
        self._requests = requests
        self._sources: list[Run | Recalled | None] = list(known)
        self._running: dict[int, Run] = {}
        self._parts: dict[int, AsyncIterator[Piece]] = {}
        self._left = [index for index, one in enumerate(known) if one is None]  # not yet submitted

    @property
    def first(self) -> Run | Recalled:
        """The source of the first choice; only after `submit`."""
        first = self._sources[0]
        if first is None:
            raise RuntimeError("nothing was submitted")
        return first

    @property
    def first_run(self) -> Run:
        """The run that was submitted first."""
        return next(iter(self._running.values()))

    async def submit(self) -> None:
        """Submit as many as may wait together. Raises as `Front.submit` does."""
        while self._left and len(self._running) < AT_ONCE:
            await self._submit(self._left.pop(0))

    async def _submit(self, index: int) -> None:
        run = await self._front.submit(self._requests[index])
        self._sources[index] = self._running[index] = run

    async def news(self) -> AsyncGenerator[News, None]:
        """Yield what comes, of whichever choice, to the end of all. Raises ApiError."""
        if len(self._sources) == 1 and self._running:
            run = self._running[0]
            async for piece in run:
                yield 0, piece
            yield 0, run.finish
            return
        for index, source in enumerate(self._sources):
            if isinstance(source, Recalled):
                for piece in source.pieces():
                    yield index, piece
                yield index, source.finish
        async for one in self._merged():
            yield one

    async def _merged(self) -> AsyncIterator[News]:
        """Yield what comes of the runs; as one ends, the next request is submitted."""
        waiting = {asyncio.create_task(self._next(index)): index for index in self._running}
        try:
            while waiting:
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in [one for one in waiting if one.done()]:
                    index = waiting.pop(task)
                    piece = task.result()
                    if piece is not None:
                        yield index, piece
                        waiting[asyncio.create_task(self._next(index))] = index
                        continue
                    yield index, self._running[index].finish
                    if self._left:
                        index = self._left.pop(0)
                        waiting[asyncio.create_task(self._next(index))] = index
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def _next(self, index: int) -> Piece | None:
        """Return the next part of a choice, None at its end; the first time submits it."""
        if index not in self._running:
            await self._submit(index)
        if index not in self._parts:
            self._parts[index] = aiter(self._running[index])
        return await anext(self._parts[index], None)

    def standing(self) -> Standing | None:
        """Return where the first run waits, if all do; None once any is being answered."""
        places = [run.standing() for run in self._running.values()]
        return None if None in places else places[0]

    def close(self) -> None:
        """Stop every run."""
        for run in self._running.values():
            run.close()
