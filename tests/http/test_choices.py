"""Several choices in one answer: of one prompt, of several, streamed, known, failing, left."""

import asyncio
from typing import Any

import pytest
from starlette.types import ASGIApp

from rayhost.errors import QueueFull, WorkerLost
from rayhost.front.request import (
    Finish,
    GenerateRequest,
    Recalled,
    Standing,
    TextPrompt,
    TokenPrompt,
)
from rayhost.http.sources import AT_ONCE, Sources
from tests.http.asgi import (
    CHAT,
    COMPLETIONS,
    Reply,
    body_messages,
    call,
    chat_body,
    completion_body,
    http_scope,
    scripted,
)
from tests.http.fake_front import FakeFront

pytestmark = pytest.mark.usefixtures("no_task_leaks")


def by_index(reply: Reply) -> dict[int, list[dict[str, Any]]]:
    """The choices of a stream's chunks, by index."""
    found: dict[int, list[dict[str, Any]]] = {}
    for chunk in reply.events[:-1]:
        for choice in chunk["choices"]:
            found.setdefault(choice["index"], []).append(choice)
    return found


def text_of(choices: list[dict[str, Any]]) -> str:
    return "".join(
        choice["text"] if "text" in choice else choice["delta"].get("content", "")
        for choice in choices
    )


async def test_each_choice_has_a_seed_and_an_id_of_its_own(app: ASGIApp, front: FakeFront) -> None:
    headers = [("x-request-id", "r")]
    reply = await call(app, "POST", CHAT, json_body=chat_body(n=3, seed=-2), headers=headers)
    assert reply.json["id"].startswith("chatcmpl-r-")
    assert [one.id for one in front.requests] == ["r", "r.1", "r.2"]
    assert [one.sampling.seed for one in front.requests] == [2**64 - 2, 2**64 - 1, 0]
    assert len({str(one.prompt) for one in front.requests}) == 1


async def test_choices_come_whole_and_in_order(app: ASGIApp, front: FakeFront) -> None:
    front.scripts = [("a", "b"), ("c",), ()]
    answer = (await call(app, "POST", CHAT, json_body=chat_body(n=3))).json
    texts = [(choice["index"], choice["message"]["content"]) for choice in answer["choices"]]
    assert texts == [(0, "ab"), (1, "c"), (2, "")]
    assert all(choice["finish_reason"] == "stop" for choice in answer["choices"])


async def test_a_prompt_counts_once_and_every_answer(app: ASGIApp, front: FakeFront) -> None:
    front.ending = Finish("stop", 7, 3, reused_tokens=5)
    for body, prompts in ((completion_body(n=2), 1), (completion_body(n=2, prompt=["a", "b"]), 2)):
        usage = (await call(app, "POST", COMPLETIONS, json_body=body)).json["usage"]
        assert usage == {
            "prompt_tokens": 7 * prompts,
            "completion_tokens": 6 * prompts,
            "total_tokens": 13 * prompts,
            "prompt_tokens_details": {"cached_tokens": 5 * prompts},
        }


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
async def test_a_stream_tells_of_each_chunk_which_choice_it_is(
    app: ASGIApp, front: FakeFront, path: str
) -> None:
    front.scripts = [("a", "b"), ("c", "d", "e"), ()]
    body = chat_body if path == CHAT else completion_body
    asked = body(n=3, stream=True, stream_options={"include_usage": True})
    reply = await call(app, "POST", path, json_body=asked)
    choices = by_index(reply)
    assert {index: text_of(parts) for index, parts in choices.items()} == {0: "ab", 1: "cde", 2: ""}
    for parts in choices.values():
        assert [one["finish_reason"] for one in parts] == [None] * (len(parts) - 1) + ["stop"]
    if path == CHAT:
        assert all(parts[0]["delta"]["role"] == "assistant" for parts in choices.values())
    assert reply.events[-1] == "[DONE]"
    assert reply.events[-2]["usage"]["completion_tokens"] == 9


async def test_choices_are_streamed_as_they_come(app: ASGIApp, front: FakeFront) -> None:
    front.scripts = [("a",) * 5, ("b",) * 5]
    reply = await call(app, "POST", COMPLETIONS, json_body=completion_body(n=2, stream=True))
    first = [choice["index"] for chunk in reply.events[:4] for choice in chunk["choices"]]
    assert sorted(first) == [0, 0, 1, 1]


async def test_several_prompts_are_choices_in_their_order(app: ASGIApp, front: FakeFront) -> None:
    front.scripts = [(one,) for one in "abcd"]
    body = completion_body(prompt=["x", [1, 2]], n=2, seed=5)
    answer = (await call(app, "POST", COMPLETIONS, json_body=body)).json
    assert [(one["index"], one["text"]) for one in answer["choices"]] == list(enumerate("abcd"))
    prompts = [TextPrompt("x"), TextPrompt("x"), TokenPrompt((1, 2)), TokenPrompt((1, 2))]
    assert [one.prompt for one in front.requests] == prompts
    assert [one.sampling.seed for one in front.requests] == [5, 6, 5, 6]
    assert len({one.id for one in front.requests}) == 4


@pytest.mark.parametrize("stream", [False, True])
async def test_a_long_list_of_prompts_is_submitted_a_few_at_a_time(
    app: ASGIApp, front: FakeFront, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 0
    submit = front.submit

    async def counted(request: Any) -> Any:
        nonlocal most
        run = await submit(request)
        most = max(most, sum(not one._ended for one in front.runs))
        return run

    monkeypatch.setattr(front, "submit", counted)
    prompts = [f"p{i}" for i in range(50)]
    front.scripts = [(one, "!") for one in prompts]
    body = completion_body(prompt=prompts, stream=stream)
    headers = [("x-rayhost-timeout-ms", "60000")]
    reply = await call(app, "POST", COMPLETIONS, json_body=body, headers=headers)
    if stream:
        texts = {index: text_of(parts) for index, parts in by_index(reply).items()}
    else:
        texts = {one["index"]: one["text"] for one in reply.json["choices"]}
    assert texts == {i: f"p{i}!" for i in range(50)}
    assert most == AT_ONCE
    (deadline_ns,) = {one.terms.deadline_ns for one in front.requests}
    assert deadline_ns is not None  # the last ones have no more time than the first
    assert all(run.closed for run in front.runs)


async def test_a_refused_choice_refuses_the_request_and_closes_the_others(
    app: ASGIApp, front: FakeFront, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit = front.submit

    async def second_is_refused(request: Any) -> Any:
        if front.runs:
            raise QueueFull("full", retry_after=1)
        return await submit(request)

    monkeypatch.setattr(front, "submit", second_is_refused)
    reply = await call(app, "POST", CHAT, json_body=chat_body(n=2, stream=True))
    assert (reply.status, reply.error["code"]) == (429, "queue_full")
    assert front.run.closed


@pytest.mark.parametrize("stream", [False, True])
async def test_a_failed_choice_fails_the_request(
    app: ASGIApp, front: FakeFront, stream: bool
) -> None:
    front.run_error = WorkerLost("gone")
    reply = await call(app, "POST", CHAT, json_body=chat_body(n=3, stream=stream))
    error = reply.events[-1]["error"] if stream else reply.error
    assert error["code"] == "worker_lost"
    assert all(run.closed for run in front.runs)


async def test_who_leaves_closes_every_run(app: ASGIApp, front: FakeFront) -> None:
    front.pieces, front.hold_run = ("a",), True
    gone = asyncio.Event()
    start = scripted(*body_messages(b'{"model":"small","prompt":"x","n":3,"stream":true}'))
    sent = False

    async def receive() -> Any:
        nonlocal sent
        if not sent:
            sent = True
            return await start()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def ask() -> None:
        await app(http_scope("POST", COMPLETIONS), receive, Reply().send)

    asking = asyncio.create_task(ask())
    await front.started.seen()
    for index in range(3):
        await front.runs[index].held.seen()
    gone.set()
    await asking
    assert all(run.closed for run in front.runs)


def known(text: str) -> Recalled:
    return Recalled("smollm2-135m", text, [1, len(text)], Finish("stop", 7, 3, 7), age_s=4)


@pytest.mark.parametrize("stream", [False, True])
async def test_choices_that_are_all_known_are_not_computed(
    app: ASGIApp, front: FakeFront, stream: bool
) -> None:
    front.recalled = known("abc")
    reply = await call(app, "POST", COMPLETIONS, json_body=completion_body(n=2, stream=stream))
    assert (reply.headers["x-rayhost-cache"], reply.headers["age"]) == ("hit", "4")
    if stream:
        texts = {index: text_of(parts) for index, parts in by_index(reply).items()}
    else:
        texts = {one["index"]: one["text"] for one in reply.json["choices"]}
    assert texts == {0: "abc", 1: "abc"}
    assert not front.runs


@pytest.mark.parametrize("stream", [False, True])
async def test_choices_of_which_some_are_known_are_one_answer(
    app: ASGIApp, front: FakeFront, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def first_only(request: Any) -> Recalled | None:
        return known("abc") if "." not in request.id else None

    monkeypatch.setattr(front, "recall", first_only)
    front.scripts = [("x", "y"), ("z",)]
    reply = await call(app, "POST", COMPLETIONS, json_body=completion_body(n=3, stream=stream))
    assert reply.headers["x-rayhost-cache"] == "miss"
    if stream:
        texts = {index: text_of(parts) for index, parts in by_index(reply).items()}
    else:
        texts = {one["index"]: one["text"] for one in reply.json["choices"]}
    assert texts == {0: "abc", 1: "xy", 2: "z"}
    assert len(front.runs) == 2


async def test_a_text_that_is_asked_back_comes_first(app: ASGIApp, front: FakeFront) -> None:
    front.pieces = ("!",)
    body = completion_body(prompt=["a", "b"], n=2, echo=True)
    answer = (await call(app, "POST", COMPLETIONS, json_body=body)).json
    assert [one["text"] for one in answer["choices"]] == ["a!", "a!", "b!", "b!"]
    reply = await call(app, "POST", COMPLETIONS, json_body={**body, "stream": True})
    texts = {index: text_of(parts) for index, parts in by_index(reply).items()}
    assert texts == {0: "a!", 1: "a!", 2: "b!", 3: "b!"}


async def test_a_stream_is_waiting_only_while_every_choice_waits(front: FakeFront) -> None:
    request = GenerateRequest(id="r", model="small", prompt=TextPrompt("x"))
    sources = Sources(front, [request] * 2, [None] * 2)
    await sources.submit()
    first, second = front.runs
    first.places, second.places = [Standing(1, None)], [Standing(2, None)]
    assert sources.standing() == Standing(1, None)
    first.places, second.places = [Standing(1, None)], []
    assert sources.standing() is None
    sources.close()
    assert first.closed
    assert second.closed
