"""Log-probabilities in answers, in the form of each endpoint."""

import math
from typing import Any

import pytest
from starlette.types import ASGIApp

from rayhost.front.request import Piece
from rayhost.ipc.messages import Likely, TokenLogprob
from tests.http.asgi import CHAT, COMPLETIONS, call, chat_body, completion_body
from tests.http.fake_front import FakeFront

SMILE = "🙂".encode()
A = TokenLogprob(1, b"a", -0.5, (Likely(1, b"a", -0.5), Likely(2, b"b", -1.5)))
HALF = TokenLogprob(3, SMILE[:2], -1.0, (Likely(4, b"<end>", -0.25),))
REST = TokenLogprob(5, SMILE[2:], -0.125, ())
PIECES = (Piece("a", (A,)), Piece("🙂", (HALF, REST)), Piece("tail"))


@pytest.fixture(autouse=True)
def told(front: FakeFront) -> None:
    front.pieces = PIECES


def chat_form(token: str, logprob: float, raw: bytes, *top: dict[str, Any]) -> dict[str, Any]:
    return {"token": token, "logprob": logprob, "bytes": list(raw), "top_logprobs": list(top)}


CHAT_A = chat_form(
    "a",
    -0.5,
    b"a",
    {"token": "a", "logprob": -0.5, "bytes": [97]},
    {"token": "b", "logprob": -1.5, "bytes": [98]},
)
CHAT_HALF = chat_form(
    "\ufffd", -1.0, SMILE[:2], {"token": "<end>", "logprob": -0.25, "bytes": list(b"<end>")}
)
CHAT_REST = chat_form("\ufffd\ufffd", -0.125, SMILE[2:])


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        ({"logprobs": True}, 0),
        ({"logprobs": True, "top_logprobs": 20}, 20),
        ({"logprobs": False}, None),
        ({"logprobs": False, "top_logprobs": 0}, None),
        ({}, None),
    ],
)
async def test_a_chat_asks_for_as_many(
    app: ASGIApp, front: FakeFront, asked: dict[str, Any], wanted: int | None
) -> None:
    await call(app, "POST", CHAT, json_body=chat_body(**asked))
    assert front.request.logprobs == wanted


async def test_a_whole_chat_has_those_of_every_token(app: ASGIApp) -> None:
    body = chat_body(logprobs=True, top_logprobs=2)
    (choice,) = (await call(app, "POST", CHAT, json_body=body)).json["choices"]
    assert choice["message"]["content"] == "a🙂tail"
    assert choice["logprobs"] == {"content": [CHAT_A, CHAT_HALF, CHAT_REST], "refusal": None}
    raw = [byte for one in choice["logprobs"]["content"] for byte in one["bytes"]]
    assert bytes(raw) == b"a" + SMILE


async def test_a_chat_stream_has_them_beside_their_text(app: ASGIApp) -> None:
    body = chat_body(logprobs=True, top_logprobs=2, stream=True)
    events = (await call(app, "POST", CHAT, json_body=body)).events
    told = [choice for event in events[1:-2] for choice in event["choices"]]
    assert [(one["delta"]["content"], one["logprobs"]) for one in told] == [
        ("a", {"content": [CHAT_A], "refusal": None}),
        ("🙂", {"content": [CHAT_HALF, CHAT_REST], "refusal": None}),
        ("tail", None),
    ]


async def test_an_answer_without_a_token_has_an_empty_list(app: ASGIApp, front: FakeFront) -> None:
    front.pieces = ()
    (choice,) = (await call(app, "POST", CHAT, json_body=chat_body(logprobs=True))).json["choices"]
    assert choice["logprobs"] == {"content": [], "refusal": None}


async def test_a_completion_has_them_in_columns(app: ASGIApp, front: FakeFront) -> None:
    body = completion_body(logprobs=2)
    (choice,) = (await call(app, "POST", COMPLETIONS, json_body=body)).json["choices"]
    assert front.request.logprobs == 2
    assert choice["logprobs"] == {
        "tokens": ["a", "bytes:\\xf0\\x9f", "bytes:\\x99\\x82"],
        "token_logprobs": [-0.5, -1.0, -0.125],
        "top_logprobs": [
            {"a": -0.5, "b": -1.5},
            {"<end>": -0.25, "bytes:\\xf0\\x9f": -1.0},
            {"bytes:\\x99\\x82": -0.125},
        ],
        "text_offset": [0, 1, 1],
    }


async def test_the_offsets_of_a_stream_go_on(app: ASGIApp, front: FakeFront) -> None:
    front.pieces = (*PIECES[:2], Piece("a", (A,)))
    body = completion_body(logprobs=0, stream=True)
    events = (await call(app, "POST", COMPLETIONS, json_body=body)).events
    told = [choice["logprobs"] for event in events[:-1] for choice in event["choices"]]
    assert [one and one["text_offset"] for one in told] == [[0], [1, 1], [2], None]
    assert all(math.isfinite(one) for part in told if part for one in part["token_logprobs"])


async def test_none_that_were_not_asked_for_are_told(app: ASGIApp, front: FakeFront) -> None:
    front.pieces = ("a",)
    for path, body in ((CHAT, chat_body()), (COMPLETIONS, completion_body())):
        (choice,) = (await call(app, "POST", path, json_body=body)).json["choices"]
        assert choice["logprobs"] is None
