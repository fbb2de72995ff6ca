"""The official clients read past the comments of a stream that says nothing for a while."""

from collections.abc import Iterator
from functools import partial

import anthropic
import httpx
import openai
import pytest
from starlette.types import ASGIApp

from rayhost.front.request import Standing
from rayhost.http.patience import commented
from tests.http.asgi import chat_body
from tests.http.fake_front import PAUSE, FakeFront
from tests.support.http_server import serving


@pytest.fixture
def url(app: ASGIApp, front: FakeFront, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr("rayhost.http.generate.commented", partial(commented, every_s=0))
    front.places = (Standing(2, 1.5), Standing(0, None))
    front.pieces = (PAUSE, PAUSE, PAUSE, "Paris", PAUSE, PAUSE, " is nice", PAUSE)
    with serving(app) as base:
        yield base


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as made:
        yield made


def test_the_stream_has_comments_before_between_and_after_the_texts(url: str) -> None:
    body = httpx.post(f"{url}/v1/chat/completions", json=chat_body(stream=True)).text
    said = [part for part in body.split("\n\n") if part]
    assert said[1:3] == [": queued position=2 estimate_s=1.5", ": prefilling"]
    paris = next(n for n, part in enumerate(said) if "Paris" in part)
    nice = next(n for n, part in enumerate(said) if "is nice" in part)
    for part in (said[2:paris], said[paris:nice], said[nice:]):
        assert ": keep-alive" in part
    assert said[-1] == "data: [DONE]"


def test_openais_chat_stream(client: openai.OpenAI) -> None:
    with client.chat.completions.create(
        model="small", messages=[{"role": "user", "content": "hi"}], stream=True
    ) as stream:
        texts = [one.choices[0].delta.content for one in stream]
    assert "".join(text or "" for text in texts) == "Paris is nice"


def test_openais_completion_stream(client: openai.OpenAI) -> None:
    with client.completions.create(model="small", prompt="hi", stream=True) as stream:
        assert "".join(one.choices[0].text for one in stream) == "Paris is nice"


def test_openais_response_stream(client: openai.OpenAI) -> None:
    with client.responses.stream(model="small", input="hi") as stream:
        assert stream.get_final_response().output_text == "Paris is nice"


def test_anthropics_message_stream(url: str) -> None:
    with (
        anthropic.Anthropic(base_url=url, api_key="none", max_retries=0) as made,
        made.messages.stream(
            model="small", max_tokens=20, messages=[{"role": "user", "content": "hi"}]
        ) as stream,
    ):
        assert stream.get_final_text() == "Paris is nice"
