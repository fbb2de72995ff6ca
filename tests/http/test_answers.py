"""What a served request answers: shapes, usage, headers, and what the front is asked for."""

import pytest
from starlette.types import ASGIApp

from rayhost.front.request import ChatPrompt, Finish, TextPrompt, TokenPrompt
from rayhost.ipc.sampling import Sampling
from tests.http.asgi import CHAT, COMPLETIONS, Reply, call, chat_body, completion_body
from tests.http.fake_front import FakeFront

BOTH = pytest.mark.parametrize(
    ("path", "body"), [(CHAT, chat_body()), (COMPLETIONS, completion_body())]
)
USAGE = {
    "prompt_tokens": 7,
    "completion_tokens": 3,
    "total_tokens": 10,
    "prompt_tokens_details": {"cached_tokens": 5},
}


async def test_chat_answers_a_whole_completion(app: ASGIApp, front: FakeFront) -> None:
    reply = await call(app, "POST", CHAT, json_body=chat_body())
    answer = reply.json
    assert reply.status == 200
    assert reply.headers["content-type"] == "application/json"
    assert int(reply.headers["content-length"]) == len(reply.body)
    assert answer.pop("id").startswith(f"chatcmpl-{front.request.id}-")
    assert isinstance(answer.pop("created"), int)
    message = {"role": "assistant", "content": "Paris is nice", "refusal": None}
    assert answer == {
        "object": "chat.completion",
        "model": "smollm2-135m",
        "system_fingerprint": "fp_0123456789",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": USAGE,
    }


async def test_completions_answers_a_whole_completion(app: ASGIApp, front: FakeFront) -> None:
    front.ending = Finish("length", 7, 3, 5)
    answer = (await call(app, "POST", COMPLETIONS, json_body=completion_body())).json
    assert answer.pop("id").startswith(f"cmpl-{front.request.id}-")
    assert isinstance(answer.pop("created"), int)
    choice = {"index": 0, "text": "Paris is nice", "logprobs": None, "finish_reason": "length"}
    assert answer == {
        "object": "text_completion",
        "model": "smollm2-135m",
        "system_fingerprint": "fp_0123456789",
        "choices": [choice],
        "usage": USAGE,
    }


def check_chunks(reply: Reply, chunk_object: str) -> None:
    assert reply.status == 200
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert reply.headers["cache-control"] == "no-cache"
    assert reply.headers["x-accel-buffering"] == "no"
    assert "content-length" not in reply.headers
    *chunks, done = reply.events
    assert done == "[DONE]"
    assert len({(chunk["id"], chunk["created"]) for chunk in chunks}) == 1
    assert {chunk["object"] for chunk in chunks} == {chunk_object}
    assert {chunk["model"] for chunk in chunks} == {"smollm2-135m"}
    assert {chunk["system_fingerprint"] for chunk in chunks} == {"fp_0123456789"}


async def test_a_chat_stream_opens_with_the_role_and_closes_with_the_reason(
    app: ASGIApp, front: FakeFront
) -> None:
    reply = await call(app, "POST", CHAT, json_body=chat_body(stream=True))
    check_chunks(reply, "chat.completion.chunk")
    *chunks, _ = reply.events
    assert all("usage" not in chunk for chunk in chunks)
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert [choice["delta"] for choice in choices] == [
        {"role": "assistant", "content": "", "refusal": None},
        *({"content": piece} for piece in front.pieces),
        {},
    ]
    assert [choice["finish_reason"] for choice in choices] == [None, None, None, None, "stop"]
    assert all(choice["index"] == 0 and choice["logprobs"] is None for choice in choices)


async def test_a_completion_stream_is_its_text_and_a_reason(app: ASGIApp, front: FakeFront) -> None:
    reply = await call(app, "POST", COMPLETIONS, json_body=completion_body(stream=True))
    check_chunks(reply, "text_completion")
    *chunks, _ = reply.events
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert [(choice["text"], choice["finish_reason"]) for choice in choices] == [
        *((piece, None) for piece in front.pieces),
        ("", "stop"),
    ]


@BOTH
async def test_a_stream_tells_usage_in_a_last_chunk_of_its_own_when_asked(
    app: ASGIApp, path: str, body: dict[str, object]
) -> None:
    body = {**body, "stream": True, "stream_options": {"include_usage": True}}
    *others, last, done = (await call(app, "POST", path, json_body=body)).events
    assert done == "[DONE]"
    assert (last["choices"], last["usage"]) == ([], USAGE)
    assert all(chunk["usage"] is None for chunk in others)


@BOTH
async def test_any_text_comes_through_a_stream_as_it_was(
    app: ASGIApp, front: FakeFront, path: str, body: dict[str, object]
) -> None:
    front.pieces = ("\n\n", '"\\', "\0", "\u2028é", "data: [DONE]", "🦙")
    *chunks, _ = (await call(app, "POST", path, json_body={**body, "stream": True})).events
    texts = [
        choice.get("text") or choice.get("delta", {}).get("content", "")
        for chunk in chunks
        for choice in chunk["choices"]
    ]
    assert [text for text in texts if text] == list(front.pieces)


@BOTH
async def test_an_answer_may_be_empty(
    app: ASGIApp, front: FakeFront, path: str, body: dict[str, object]
) -> None:
    front.pieces = ()
    assert (await call(app, "POST", path, json_body=body)).status == 200
    streamed = await call(app, "POST", path, json_body={**body, "stream": True})
    assert streamed.events[-2]["choices"][0]["finish_reason"] == "stop"


@BOTH
@pytest.mark.parametrize("stream", [False, True])
async def test_every_run_is_closed(
    app: ASGIApp, front: FakeFront, path: str, body: dict[str, object], stream: bool
) -> None:
    await call(app, "POST", path, json_body={**body, "stream": stream})
    assert front.run.closed


async def test_the_front_gets_every_parameter(app: ASGIApp, front: FakeFront) -> None:
    body = chat_body(
        messages=[
            {"role": "developer", "content": "be brief", "name": "ops"},
            {"role": "user", "content": [{"type": "text", "text": t} for t in ("a", "b")]},
            {"role": "assistant", "content": "", "tool_calls": None, "refusal": None},
        ],
        temperature=0,
        top_p=0.5,
        top_k=40,
        min_p=0.1,
        presence_penalty=-2,
        frequency_penalty=2,
        repetition_penalty=1.25,
        seed=-1,
        stop=["\n", "END"],
        max_tokens=5,
        max_completion_tokens=5,
    )
    await call(app, "POST", CHAT, json_body=body, headers=[("x-request-id", "abc")])
    request = front.request
    assert (request.id, request.model) == ("abc", "small")
    assert request.prompt == ChatPrompt(
        (
            {"role": "system", "content": "be brief", "name": "ops"},
            {"role": "user", "content": "a\nb"},
            {"role": "assistant", "content": ""},
        )
    )
    assert request.sampling == Sampling(0.0, 0.5, 40, 0.1, -2.0, 2.0, 1.25, 2**64 - 1)
    assert (request.stop, request.max_tokens) == (("\n", "END"), 5)


async def test_defaults_are_those_openai_documents(app: ASGIApp, front: FakeFront) -> None:
    await call(app, "POST", CHAT, json_body=chat_body())
    await call(app, "POST", COMPLETIONS, json_body=completion_body())
    chat, completion = front.requests
    assert (chat.max_tokens, completion.max_tokens) == (None, 16)
    for request in (chat, completion):
        assert request.sampling == Sampling(seed=request.sampling.seed)
        assert request.stop == ()


async def test_without_a_seed_each_request_gets_another(app: ASGIApp, front: FakeFront) -> None:
    for _ in range(2):
        await call(app, "POST", CHAT, json_body=chat_body())
    first, second = (request.sampling.seed for request in front.requests)
    assert first != second
    assert 0 <= first < 2**63


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
async def test_null_means_absent(app: ASGIApp, front: FakeFront, path: str) -> None:
    names = "temperature top_p top_k min_p presence_penalty frequency_penalty repeat_penalty seed "
    names += "repetition_penalty stop max_tokens max_completion_tokens stream stream_options n user"
    names += " metadata store service_tier tools tool_choice response_format logprobs logit_bias x"
    body = chat_body() if path == CHAT else completion_body()
    reply = await call(app, "POST", path, json_body={**body, **dict.fromkeys(names.split())})
    assert reply.status == 200
    assert "x-rayhost-ignored" not in reply.headers
    assert front.request.sampling == Sampling(seed=front.request.sampling.seed)


@pytest.mark.parametrize(
    ("sent", "prompt"),
    [
        ("hi", TextPrompt("hi")),
        ("", TextPrompt("")),
        (["hi"], TextPrompt("hi")),
        ([1, 2], TokenPrompt((1, 2))),
        ([[1, 2]], TokenPrompt((1, 2))),
    ],
)
async def test_a_prompt_may_have_each_form_openai_documents(
    app: ASGIApp, front: FakeFront, sent: object, prompt: object
) -> None:
    reply = await call(app, "POST", COMPLETIONS, json_body=completion_body(prompt=sent))
    assert reply.status == 200
    assert front.request.prompt == prompt


@pytest.mark.parametrize(
    "harmless",
    [
        {"n": 1, "store": False, "logit_bias": {}, "logprobs": False, "top_logprobs": 0},
        {"tools": [], "tool_choice": "none", "functions": [], "function_call": "none"},
        {"response_format": {"type": "text"}, "modalities": ["text"]},
        {"user": "me", "metadata": {"a": "b"}, "service_tier": "auto", "stop": []},
        {"stream": True, "stream_options": {"include_obfuscation": False}},
        {"safety_identifier": "me", "prompt_cache_key": "x", "logprobs": False},
        {"add_generation_prompt": True, "continue_final_message": False},
        {"temperature": 0, "seed": 7, "top_p": 1, "top_k": 0, "mirostat": 0},
        {"mirostat": 1, "mirostat_tau": 4},
        {"dry_multiplier": 1, "dry_base": 2, "dry_allowed_length": 3},
        {"xtc_probability": 0.5, "xtc_threshold": 0.2, "top_p": 0.5},
        {"repeat_last_n": 64, "presence_penalty": 1},
        {"repeat_last_n": 0, "repeat_penalty": 1},
    ],
)
async def test_a_parameter_that_asks_for_nothing_or_is_honoured_is_not_named(
    app: ASGIApp, harmless: dict[str, object]
) -> None:
    reply = await call(app, "POST", CHAT, json_body=chat_body(**harmless))
    assert reply.status == 200
    assert "x-rayhost-ignored" not in reply.headers


@pytest.mark.parametrize("stream", [False, True])
async def test_unknown_parameters_are_named_in_a_header(app: ASGIApp, stream: bool) -> None:
    body = chat_body(stream=stream, samplers=["top_k"], reasoning_effort="low")
    reply = await call(app, "POST", CHAT, json_body=body)
    assert reply.headers["x-rayhost-ignored"] == "samplers, reasoning_effort"


@pytest.mark.parametrize(
    ("asked", "ignored"),
    [
        ({"prediction": {"type": "content", "content": "x"}}, "prediction"),
        ({"service_tier": "priority"}, "service_tier"),
        (
            {"stream": True, "stream_options": {"include_obfuscation": True}},
            "stream_options.include_obfuscation",
        ),
        ({"mirostat": 2, "top_p": 0.5, "min_p": 0}, "top_p"),
        ({"mirostat": 2, "xtc_probability": 0.1}, "xtc_probability"),
        ({"mirostat_tau": 4, "mirostat_eta": 0.2}, "mirostat_tau, mirostat_eta"),
        (
            {"temperature": 0, "top_k": 3, "top_p": 0.5, "min_p": 0.1, "typical_p": 0.9},
            "top_p, top_k, min_p, typical_p",
        ),
        ({"temperature": 0, "mirostat": 2, "top_p": 0.5}, "top_p, mirostat"),
        (
            {"temperature": 0, "xtc_probability": 0.5, "xtc_threshold": 0.2},
            "xtc_probability, xtc_threshold",
        ),
        ({"xtc_threshold": 0.2}, "xtc_threshold"),
        ({"xtc_threshold": 0.6, "xtc_probability": 0.5}, "xtc_probability"),
        ({"dry_base": 2, "dry_penalty_last_n": 7}, "dry_base, dry_penalty_last_n"),
        ({"dry_sequence_breakers": ["x"]}, "dry_sequence_breakers"),
        ({"dry_multiplier": 1, "dry_penalty_last_n": 0}, "dry_multiplier"),
        ({"repeat_last_n": 64}, "repeat_last_n"),
        ({"repeat_last_n": 64, "repeat_penalty": 1}, "repeat_last_n"),
        ({"repeat_last_n": 0, "repeat_penalty": 1.1}, "repeat_penalty"),
    ],
)
async def test_a_known_parameter_without_an_effect_is_named_too(
    app: ASGIApp, asked: dict[str, object], ignored: str
) -> None:
    reply = await call(app, "POST", CHAT, json_body=chat_body(**asked))
    assert reply.headers["x-rayhost-ignored"] == ignored


async def test_a_parameter_name_cannot_inject_a_header(app: ASGIApp) -> None:
    body = chat_body(**{"a\r\nset-cookie: x": 1, "é,": 2, "n" * 1000: 3})
    reply = await call(app, "POST", CHAT, json_body=body)
    assert reply.headers["x-rayhost-ignored"] == f"a??set-cookie??x, ??, {'n' * 64}"


async def test_the_header_of_ignored_parameters_is_bounded(app: ASGIApp) -> None:
    body = chat_body(**{f"p{i}": i for i in range(300)})
    reply = await call(app, "POST", CHAT, json_body=body)
    names = reply.headers["x-rayhost-ignored"].split(", ")
    assert names == [*(f"p{i}" for i in range(16)), "..."]


async def test_the_content_type_of_a_body_does_not_matter(app: ASGIApp) -> None:
    headers = [("content-type", "application/x-www-form-urlencoded")]
    reply = await call(app, "POST", CHAT, json_body=chat_body(), headers=headers)
    assert reply.status == 200


@BOTH
async def test_an_id_that_looks_like_json_stays_one(
    app: ASGIApp, path: str, body: dict[str, object]
) -> None:
    sent = r'"\u0000"'
    headers = [("x-request-id", sent)]
    reply = await call(app, "POST", path, json_body={**body, "stream": True}, headers=headers)
    *chunks, _ = reply.events
    assert {chunk["id"].partition("-")[2].rpartition("-")[0] for chunk in chunks} == {sent}
