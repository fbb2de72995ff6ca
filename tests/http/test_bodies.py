"""Bodies on their way in: bounded each and together, and short ones always get through."""

import asyncio

import pytest
from starlette.types import Message

from rayhost.errors import BodyTooLarge, Unavailable
from rayhost.http.connection import FREE, Bodies, ClientGone
from tests.http.asgi import body_messages, http_scope, scripted

LARGE = FREE + 1000
SCOPE = http_scope("POST", "/")


def unfinished(size: int) -> Message:
    return {"type": "http.request", "body": b"x" * size, "more_body": True}


async def hold(bodies: Bodies, size: int) -> asyncio.Task[bytes]:
    """Begin a body that does not end; return once it is counted."""
    waiting = asyncio.Event()
    asked: list[bool] = []
    rest = scripted(unfinished(size))

    async def receive() -> Message:
        if asked:
            waiting.set()
        asked.append(True)
        return await rest()

    task = asyncio.create_task(bodies.read(SCOPE, receive))
    await waiting.wait()
    return task


async def test_a_body_comes_back_whole_and_leaves_nothing_held() -> None:
    bodies = Bodies(each=4 * LARGE)
    chunks = [b"a" * LARGE, b"b" * LARGE, b""]
    assert await bodies.read(SCOPE, scripted(*body_messages(*chunks))) == b"".join(chunks)
    assert bodies.held == 0


@pytest.mark.parametrize(("size", "turns"), [(LARGE, 5), (FREE, 1)])
async def test_large_bodies_have_a_turn_of_the_loop_each(size: int, turns: int) -> None:
    bodies = Bodies(each=LARGE)
    loop = asyncio.get_running_loop()
    turn = 0

    def tick() -> None:
        nonlocal turn
        turn += 1
        ticking.append(loop.call_soon(tick))

    async def done_in() -> int:
        await bodies.read(SCOPE, scripted(*body_messages(b"x" * size)))
        return turn

    ticking = [loop.call_soon(tick)]
    done = await asyncio.gather(*(done_in() for _ in range(5)))
    ticking[-1].cancel()
    assert len(set(done)) == turns
    assert bodies.held == 0


async def test_slow_large_bodies_together_are_bounded_and_a_short_one_still_passes() -> None:
    bodies = Bodies(each=LARGE, total=LARGE)
    slow = [await hold(bodies, FREE + 900) for _ in range(LARGE // 900)]
    assert bodies.held == LARGE // 900 * 900
    with pytest.raises(Unavailable) as caught:
        await bodies.read(SCOPE, scripted(unfinished(FREE + 900)))
    assert (caught.value.code, caught.value.retry_after) == ("too_many_bodies", 5)
    assert await bodies.read(SCOPE, scripted(*body_messages(b"short", b""))) == b"short"
    for task in slow:
        task.cancel()
    await asyncio.wait(slow)
    assert bodies.held == 0


@pytest.mark.parametrize("end", ["gone", "too large"])
async def test_a_body_that_ends_badly_is_held_no_longer(end: str) -> None:
    bodies = Bodies(each=LARGE)
    last: Message = {"type": "http.disconnect"} if end == "gone" else unfinished(LARGE)
    with pytest.raises(ClientGone if end == "gone" else BodyTooLarge):
        await bodies.read(SCOPE, scripted(unfinished(LARGE), last))
    assert bodies.held == 0


async def test_the_total_is_never_smaller_than_what_one_may_have() -> None:
    bodies = Bodies(each=2 * LARGE, total=1)
    chunks = [b"a" * LARGE, b"b" * LARGE, b""]
    assert len(await bodies.read(SCOPE, scripted(*body_messages(*chunks)))) == 2 * LARGE
