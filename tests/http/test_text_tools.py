"""`/tokenize`, `/detokenize`, `/apply-template`: llama-server's shapes, past the queue."""

from typing import Any

import pytest
from starlette.types import ASGIApp

from rayhost.errors import InvalidRequest, QueueFull
from rayhost.front.request import Terms
from rayhost.http.text_tools import MAX_TOKENS, parse_detokenize
from rayhost.ipc.messages import Convert, Converted, pack_tokens
from tests.http.asgi import call
from tests.http.fake_front import FakeFront, card

HELLO: Any = ({"role": "user", "content": "hi"},)


@pytest.mark.parametrize(
    ("path", "body", "asked"),
    [
        ("/tokenize", {"content": "hi"}, Convert("tokens", text="hi")),
        ("/tokenize", {"prompt": "hi"}, Convert("tokens", text="hi")),
        ("/tokenize", {"content": ""}, Convert("tokens")),
        (
            "/tokenize",
            {"content": "a", "add_special": True, "parse_special": False, "with_pieces": True},
            Convert("tokens", text="a", add_special=True, parse_special=False, pieces=True),
        ),
        ("/detokenize", {"tokens": [1, 2]}, Convert("text", tokens=pack_tokens([1, 2]))),
        ("/detokenize", {"tokens": []}, Convert("text")),
        ("/apply-template", {"messages": HELLO}, Convert("prompt", messages=HELLO)),
    ],
)
async def test_a_body_becomes_a_question(
    app: ASGIApp, front: FakeFront, path: str, body: dict[str, Any], asked: Convert
) -> None:
    front.reading = Converted(text="x")
    reply = await call(app, "POST", path, json_body=body)
    assert reply.status == 200
    assert front.questions == [("smollm2-135m", asked, Terms())]
    assert front.requests == []


async def test_the_tokens_of_a_text(app: ASGIApp, front: FakeFront) -> None:
    front.reading = Converted(tokens=pack_tokens([198, 7]))
    reply = await call(app, "POST", "/tokenize", json_body={"content": "hi"})
    assert reply.json == {"tokens": [198, 7]}


async def test_pieces_that_are_no_text_are_bytes(app: ASGIApp, front: FakeFront) -> None:
    front.reading = Converted(tokens=pack_tokens([198, 164, 7]), pieces=(b"\xc3", b"\xa1", b"x"))
    reply = await call(app, "POST", "/tokenize", json_body={"content": "áx", "with_pieces": True})
    assert reply.json == {
        "tokens": [
            {"id": 198, "piece": [195]},
            {"id": 164, "piece": [161]},
            {"id": 7, "piece": "x"},
        ]
    }


async def test_texts(app: ASGIApp, front: FakeFront) -> None:
    front.reading = Converted(text="hi")
    assert (await call(app, "POST", "/detokenize", json_body={"tokens": [1]})).json == {
        "content": "hi"
    }
    reply = await call(app, "POST", "/apply-template", json_body={"messages": HELLO})
    assert reply.json == {"prompt": "hi"}


async def test_a_model_is_named_where_there_are_several(app: ASGIApp, front: FakeFront) -> None:
    front.models.append(card("other"))
    reply = await call(app, "POST", "/tokenize", json_body={"content": "hi"})
    assert (reply.status, reply.error["param"]) == (400, "model")
    assert "other" in reply.error["message"]
    await call(app, "POST", "/tokenize", json_body={"content": "hi", "model": "other"})
    ((model, _, _),) = front.questions
    assert model == "other"


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "content"),
        ("/tokenize", {"content": [1]}, "content"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": ["x"]}, "tokens[0]"),
        ("/detokenize", {"tokens": [1, -1]}, "tokens[1]"),
        ("/detokenize", {"tokens": [2**31]}, "tokens[0]"),
        ("/apply-template", {"messages": []}, "messages"),
        ("/apply-template", {"messages": [{"role": "robot", "content": "a"}]}, "messages[0].role"),
    ],
)
async def test_a_refusal_names_its_cause(
    app: ASGIApp, front: FakeFront, path: str, body: dict[str, Any], param: str
) -> None:
    reply = await call(app, "POST", path, json_body=body)
    assert (reply.status, reply.error["param"]) == (400, param)
    assert front.questions == []


def test_a_list_of_tokens_is_bounded() -> None:
    with pytest.raises(InvalidRequest, match=str(MAX_TOKENS)):
        parse_detokenize(b'{"tokens": [' + b"1," * MAX_TOKENS + b"1]}")


async def test_a_refusal_of_the_front_has_its_status(app: ASGIApp, front: FakeFront) -> None:
    front.submit_error = QueueFull("many", retry_after=1)
    reply = await call(app, "POST", "/tokenize", json_body={"content": "hi"})
    assert (reply.status, reply.headers["retry-after"]) == (429, "1")
