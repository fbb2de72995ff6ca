"""A constraint on its way: compiled with its prompt, given to every worker that runs it."""

import asyncio
from typing import Literal

import pytest
from msgspec.structs import replace

from rayhost.errors import InvalidRequest
from rayhost.front.request import ChatPrompt, GenerateRequest
from rayhost.ipc.messages import Constraint, Prepare, Prepared, Rejected, Tools, pack_tokens
from tests.front.fake_worker import FakeWorker, chat_request, make_lane, request, text_request
from tests.front.test_lane import turn

ASKED = Constraint("json_schema", "{}")
MADE = Constraint("lark", "start: /x/")


@pytest.mark.parametrize("asked", [chat_request(), text_request()])
async def test_it_is_compiled_with_the_prompt_and_starts_in_every_worker(
    asked: GenerateRequest,
) -> None:
    lane = make_lane()
    first = FakeWorker(lane)
    constrained = replace(asked, constraint=ASKED)
    submitting = asyncio.create_task(lane.submit(constrained))
    await turn()
    ((number, prepare),) = first.sent
    assert isinstance(prepare, Prepare)
    assert prepare.constraint == ASKED
    lane.hear(number, Prepared(pack_tokens([4]), MADE, "hermes"))
    run = await submitting
    assert run.tool_syntax == "hermes"
    assert [start.constraint for start in first.starts] == [MADE]
    first.tokens(run.number, 9)
    first.die()
    assert [start.constraint for start in FakeWorker(lane).starts] == [MADE]


async def test_tokens_need_no_reading_but_their_constraint_is_compiled() -> None:
    lane = make_lane()
    worker = FakeWorker(lane)
    constrained = replace(request(tokens=(5, 6)), constraint=ASKED)
    submitting = asyncio.create_task(lane.submit(constrained))
    await turn()
    lane.hear(worker.asked[0], Prepared(pack_tokens([1]), ASKED))
    run = await submitting
    assert run.prompt == [5, 6]
    assert [start.constraint for start in worker.starts] == [ASKED]


async def test_one_that_cannot_be_compiled_is_refused_before_it_queues() -> None:
    lane = make_lane()
    worker = FakeWorker(lane)
    constrained = replace(text_request(), constraint=ASKED)
    submitting = asyncio.create_task(lane.submit(constrained))
    await turn()
    lane.hear(worker.asked[0], Rejected("why", "invalid_json_schema", "response_format"))
    with pytest.raises(InvalidRequest, match="why") as caught:
        await submitting
    assert (caught.value.code, caught.value.param) == ("invalid_json_schema", "response_format")
    assert lane.idle.is_set()
    assert worker.starts == []


async def test_the_worker_is_told_of_tools_and_of_an_answer_that_goes_on() -> None:
    lane = make_lane()
    worker = FakeWorker(lane)
    tools = Tools(({"name": "f"},))
    prompt = ChatPrompt(({"role": "assistant", "content": "a"},), tools, continue_final=True)
    asked = GenerateRequest(id="r", model="tiny", prompt=prompt)
    submitting = asyncio.create_task(lane.submit(asked))
    await turn()
    ((number, prepare),) = worker.sent
    assert isinstance(prepare, Prepare)
    assert (prepare.tools, prepare.continue_final) == (tools, True)
    worker.prepared(number, 4)
    await submitting


async def test_the_first_request_for_structured_output_is_told_once() -> None:
    lane, told = make_lane(), list[bool]()
    lane.on_wanted = lambda: told.append(lane.constrained)
    FakeWorker(lane)
    await lane.submit(request("plain"))
    assert not lane.constrained
    asking = [
        asyncio.create_task(lane.submit(replace(request(name), constraint=ASKED)))
        for name in ("first", "second")
    ]
    await turn()
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)
    assert told == [True]


@pytest.mark.parametrize(("choice", "constrained"), [("auto", True), ("none", False)])
def test_tools_that_may_be_called_are_a_constraint(
    choice: Literal["auto", "none"], constrained: bool
) -> None:
    prompt = ChatPrompt((), tools=Tools(({"name": "f"},), choice))
    assert GenerateRequest("a", "tiny", prompt).constrained is constrained
