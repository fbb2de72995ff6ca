"""What a client sees of the result cache: headers, the same answer, and what it may ask for."""

from array import array

import pytest
from starlette.types import ASGIApp
from structlog.testing import capture_logs

from rayhost.front.request import CacheOutcome, Finish, Recalled
from tests.http.asgi import CHAT, COMPLETIONS, Reply, call, chat_body, completion_body
from tests.http.fake_front import FakeFront

PIECES = ("Paris", " is", " nice")
KNOWN = Recalled(
    "smollm2-135m",
    "Paris is nice",
    array("I", [5, 8, 13]),
    Finish("stop", 7, 3, 7),
    42,
    fingerprint="fp_0123456789",
)
BOTH = pytest.mark.parametrize(
    ("path", "body"), [(CHAT, chat_body()), (COMPLETIONS, completion_body())]
)


def told(reply: Reply) -> object:
    """What an answer says, but for what is each answer's own."""
    events = reply.events if reply.headers["content-type"].startswith("text/") else [reply.json]
    for event in events:
        if event != "[DONE]":
            del event["id"], event["created"]
    return events


@BOTH
@pytest.mark.parametrize(
    "form",
    [{}, {"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}],
    ids=["whole", "stream", "stream with usage"],
)
async def test_a_known_answer_is_the_one_that_was_computed(
    app: ASGIApp, front: FakeFront, path: str, body: dict[str, object], form: dict[str, object]
) -> None:
    front.ending = KNOWN.finish
    computed = await call(app, "POST", path, json_body={**body, **form})
    front.recalled = KNOWN
    with capture_logs() as logs:
        known = await call(app, "POST", path, json_body={**body, **form})
    assert told(known) == told(computed)
    assert known.headers["x-rayhost-cache"] == "hit"
    assert known.headers["age"] == "42"
    assert known.headers["content-type"] == computed.headers["content-type"]
    assert len(front.runs) == 1
    assert not logs  # the front's to log


async def test_each_answer_has_an_id_of_its_own(app: ASGIApp, front: FakeFront) -> None:
    front.recalled = KNOWN
    replies = [await call(app, "POST", CHAT, json_body=chat_body()) for _ in range(2)]
    assert len({reply.json["id"] for reply in replies}) == 2


async def test_a_long_answer_is_sent_in_blocks(app: ASGIApp, front: FakeFront) -> None:
    front.recalled = Recalled(
        "smollm2-135m", "x" * 5_000, array("I", range(1, 5_001)), Finish("stop", 7, 5_000), 0
    )
    reply = await call(app, "POST", CHAT, json_body=chat_body(stream=True))
    assert len(reply.events) == 1 + 5_000 + 1 + 1
    blocks = [len(message["body"]) for message in reply.messages[1:]]
    assert len(blocks) > 5
    assert max(blocks) < 70_000


@pytest.mark.parametrize("outcome", ["miss", "joined", "bypass"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_run_says_how_it_met_the_cache(
    app: ASGIApp, front: FakeFront, outcome: CacheOutcome, stream: bool
) -> None:
    front.cache = outcome
    reply = await call(app, "POST", CHAT, json_body=chat_body(stream=stream))
    assert reply.headers["x-rayhost-cache"] == outcome
    assert "age" not in reply.headers


@pytest.mark.parametrize(
    ("values", "reuse"),
    [
        ([], "any"),
        (["max-age=3600"], "any"),
        (["no-cache"], "refresh"),
        (["No-Cache, max-age=0"], "refresh"),
        (["no-store"], "never"),
        (["no-cache,no-store"], "never"),
        (["no-store", "no-cache"], "never"),
        (["x-no-store"], "any"),
    ],
)
async def test_cache_control_says_what_may_be_reused(
    app: ASGIApp, front: FakeFront, values: list[str], reuse: str
) -> None:
    headers = [("cache-control", value) for value in values]
    await call(app, "POST", CHAT, json_body=chat_body(), headers=headers)
    assert front.request.reuse == reuse


@BOTH
@pytest.mark.parametrize(("seed", "seeded"), [(None, False), (0, True), (7, True)])
async def test_the_front_is_told_whose_the_seed_is(
    app: ASGIApp, front: FakeFront, path: str, body: dict[str, object], seed: object, seeded: bool
) -> None:
    await call(app, "POST", path, json_body={**body, "seed": seed})
    assert front.request.seeded is seeded


async def test_ignored_parameters_are_named_in_a_known_answer_too(
    app: ASGIApp, front: FakeFront
) -> None:
    front.recalled = KNOWN
    reply = await call(app, "POST", CHAT, json_body=chat_body(colour="red"))
    assert reply.headers["x-rayhost-ignored"] == "colour"
