"""Texts on their way to a worker: bounded, in the order of priorities and keys, and charged."""

import asyncio

import pytest

from rayhost.errors import ApiError, Overloaded, QueueFull, WorkerLost
from rayhost.front.intake import HELD_BYTES, READ_COST, held_beside, size_of
from rayhost.front.prompts import AT_ONCE_BYTES
from rayhost.front.request import (
    ChatPrompt,
    GenerateRequest,
    Priority,
    Prompt,
    Terms,
    TextPrompt,
    TokenPrompt,
)
from rayhost.ipc.messages import Compiling, Constraint, Convert, Converted, Prepare, Rejected
from tests.front.fake_worker import FakeWorker, make_lane
from tests.front.test_lane import turn

HIGH, NORMAL, LOW, BATCH = Priority
LARGE = "x" * AT_ONCE_BYTES
REGEX = Constraint("regex", "a+")


class Rig:
    """A lane whose worker answers when the test says so; each text is told by its first letter."""

    def __init__(self, *, worker: bool = True) -> None:
        self.spent: list[tuple[str, int]] = []
        self.lane = make_lane(spent=lambda key, tokens: self.spent.append((key, tokens)))
        self.worker = FakeWorker(self.lane) if worker else None
        self.tasks: list[asyncio.Task[object]] = []

    async def ask(self, text: str, key: str = "", priority: Priority = NORMAL) -> None:
        asked = self.lane.ask(Convert("tokens", text=text), Terms(key=key, priority=priority))
        self.tasks.append(asyncio.create_task(asked))
        await turn()

    @property
    def given(self) -> list[tuple[int, str]]:
        assert self.worker is not None
        return [
            (number, (message.text or "")[:1])
            for number, message in self.worker.sent
            if isinstance(message, Convert | Prepare)
        ]

    async def order(self) -> str:
        """Answer all of it; return in which order it was read."""
        read = 0
        while read < len(self.given):
            self.lane.hear(self.given[read][0], Converted())
            read += 1
            await turn()
        return "".join(letter for _, letter in self.given)


async def test_texts_are_read_by_priority_whenever_they_came() -> None:
    rig = Rig()
    for letter, priority in (("b", BATCH), ("c", BATCH), ("l", LOW), ("n", NORMAL), ("h", HIGH)):
        await rig.ask(letter + LARGE, priority=priority)
    assert await rig.order() == "bhnlc"


async def test_a_key_with_much_to_read_lets_others_in_between() -> None:
    rig = Rig()
    for letter in "abcd":
        await rig.ask(letter + LARGE, "greedy")
    await rig.ask("z" + LARGE, "modest")
    assert await rig.order() == "azbcd"


async def test_small_texts_are_given_together_and_a_large_one_alone() -> None:
    rig = Rig()
    for letter in "abc":
        await rig.ask(letter)
    assert len(rig.given) == 3
    await rig.ask("L" + LARGE)
    assert len(rig.given) == 3
    assert await rig.order() == "abcL"


async def test_a_prompt_whose_constraint_is_compiled_keeps_no_other_waiting() -> None:
    rig = Rig()
    request = GenerateRequest("r", "tiny", TextPrompt("c" + LARGE), constraint=REGEX)
    submitting = asyncio.create_task(rig.lane.submit(request))
    await turn()
    await rig.ask("d" + LARGE)
    assert [letter for _, letter in rig.given] == ["c"]
    rig.lane.hear(rig.given[0][0], Compiling())
    assert [letter for _, letter in rig.given] == ["c", "d"]
    rig.lane.hear(rig.given[0][0], Rejected("no", "invalid_regex"))
    with pytest.raises(ApiError, match="no"):
        await submitting


async def test_one_that_left_before_its_turn_is_never_read() -> None:
    rig = Rig()
    for letter in "abc":
        await rig.ask(letter + LARGE)
    rig.tasks[1].cancel()
    await turn()
    assert await rig.order() == "ac"


async def test_the_next_worker_is_given_what_waits_by_priority_too() -> None:
    rig = Rig()
    for letter, priority in (("l", LOW), ("m", LOW), ("h", HIGH)):
        await rig.ask(letter + LARGE, priority=priority)
    assert rig.worker is not None
    rig.worker.die()
    await turn()
    rig.worker = FakeWorker(rig.lane)
    await turn()
    assert await rig.order() == "lhm"  # it reads the first one that comes, as the last one did
    await asyncio.gather(*rig.tasks)


@pytest.mark.parametrize("worker", [True, False])
async def test_what_waits_is_bounded_for_a_key_and_in_all_and_leaves_room_to_higher_ones(
    worker: bool,
) -> None:
    rig = Rig(worker=worker)
    part = "x" * (HELD_BYTES // 2 - 1000)
    await rig.ask(part, "a", BATCH)
    with pytest.raises(QueueFull, match="of this key") as own:
        await rig.lane.ask(Convert("tokens", text=part), Terms(key="a", priority=BATCH))
    await rig.ask(part, "b", BATCH)
    prompt = TextPrompt(part)
    request = GenerateRequest("r", "tiny", prompt, terms=Terms(key="c", priority=BATCH))
    with pytest.raises(Overloaded) as all_of_it:
        await rig.lane.submit(request)
    assert own.value.retry_after == all_of_it.value.retry_after == 1
    await rig.ask(part, "d", HIGH)
    assert not rig.tasks[-1].done()
    for task in rig.tasks:
        task.cancel()
    await asyncio.gather(*rig.tasks, return_exceptions=True)
    await rig.ask(part, "a", BATCH)
    assert not rig.tasks[-1].done()
    rig.tasks[-1].cancel()


async def test_what_was_read_is_charged_though_nothing_is_run() -> None:
    rig = Rig()
    asked = Convert("tokens", text="x" * 10 * READ_COST)
    await rig.ask(asked.text, "a")
    await rig.ask("small", "b")
    assert rig.spent == [("a", size_of(asked) // READ_COST)]


@pytest.mark.parametrize(
    ("prompt", "least"),
    [
        (ChatPrompt(({"role": "user", "content": "a"},) * 1000), 400_000),
        (TokenPrompt((1,) * 1000), 32_000),
        (TextPrompt("a" * 1000), 0),  # its text is counted anyway
    ],
)
def test_what_is_many_small_things_takes_more_room_than_its_text(
    prompt: Prompt, least: int
) -> None:
    assert held_beside(prompt) == least


async def test_who_waits_for_a_constraint_is_not_blamed_for_a_text_that_workers_die_of() -> None:
    rig = Rig(worker=False)
    request = GenerateRequest("r", "tiny", TextPrompt("c"), constraint=REGEX)
    submitting = asyncio.create_task(rig.lane.submit(request))
    await turn()
    await rig.ask("d")
    for _ in range(2):
        rig.worker = FakeWorker(rig.lane)
        await turn()
        numbers = {letter: number for number, letter in rig.given}
        assert set(numbers) == {"c", "d"}
        rig.lane.hear(numbers["c"], Compiling())
        rig.worker.die()
        await turn()
    with pytest.raises(WorkerLost):
        await rig.tasks[0]
    assert not submitting.done()
    submitting.cancel()
