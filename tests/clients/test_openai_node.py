"""OpenAI's own client for Node.js against a real host."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from rayhost.errors import Overloaded, WorkerLost
from rayhost.http.app import build_app
from tests.clients import node_client
from tests.clients.conftest import (
    ABOUT,
    CHAT_MODEL,
    EMBEDDING_MODEL,
    PERSON,
    QUESTION,
    TEXTS,
    TOOL,
    Keyed,
    check_vectors,
)
from tests.clients.refusals import EACH_REFUSAL, Refusal
from tests.http.fake_front import FakeFront
from tests.support.host import Host
from tests.support.http_server import serving

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(300)]


@pytest.fixture(scope="package")
def installed() -> Path:
    return node_client.installed()


def outcome(installed: Path, scenario: str, **settings: Any) -> Any:
    # Beside its module, as that is where Node.js looks for packages.
    script = shutil.copy(node_client.HERE / "client.mjs", installed)
    run = subprocess.run(
        ["node", script, scenario],
        input=json.dumps(settings),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def ask(installed: Path, host: Host, scenario: str, **settings: Any) -> Any:
    chat = {"model": CHAT_MODEL, "messages": [{"role": "user", "content": QUESTION}]}
    own = {"baseURL": f"{host.url}/v1", "apiKey": "none"}
    return outcome(installed, scenario, **{**chat, **own, **settings})


def test_a_chat_whole_streamed_and_collected_says_the_same(installed: Path, host: Host) -> None:
    whole = ask(installed, host, "chat")
    assert "Paris" in whole["text"]
    assert whole["end"] == "stop"
    assert whole["usage"]["completion_tokens"] > 0
    streamed = ask(installed, host, "stream")
    assert (streamed["text"], streamed["end"]) == (whole["text"], "stop")
    assert streamed["usage"]["total_tokens"] == whole["usage"]["total_tokens"]
    assert ask(installed, host, "collected") == {"text": whole["text"], "end": "stop"}


def test_a_completion_and_the_models(installed: Path, host: Host) -> None:
    assert "Paris" in ask(installed, host, "completion")["text"]
    listed = [CHAT_MODEL, EMBEDDING_MODEL]
    assert ask(installed, host, "models") == {"listed": listed, "one": CHAT_MODEL}


def test_structured_output(installed: Path, host: Host) -> None:
    messages = [{"role": "user", "content": ABOUT}]
    person = ask(installed, host, "structured", messages=messages, schema=PERSON)
    jsonschema.validate(person, PERSON)


def test_tools(installed: Path, host: Host) -> None:
    messages = [{"role": "user", "content": ABOUT}]
    seen = ask(installed, host, "tools", messages=messages, tools=[TOOL])
    assert seen["end"] == "tool_calls"
    assert seen["calls"]
    for call in seen["calls"]:
        assert call["name"] == "remember"
        jsonschema.validate(json.loads(call["arguments"]), PERSON)
    assert seen["streamed"] == seen["calls"]
    assert isinstance(seen["after"], str)


def test_embeddings(installed: Path, host: Host) -> None:
    made = ask(installed, host, "embeddings", model=EMBEDDING_MODEL, input=TEXTS)
    check_vectors(*made)


def test_a_stream_that_is_left_ends_its_run(installed: Path, host: Host) -> None:
    assert ask(installed, host, "aborted") == {}


@pytest.mark.parametrize("refusal", EACH_REFUSAL)
def test_each_refusal_is_an_exception_of_its_own(
    installed: Path, keyed: Keyed, refusal: Refusal
) -> None:
    seen = outcome(
        installed,
        "refused",
        baseURL=f"{keyed.url}/v1",
        apiKey=getattr(keyed, refusal.key, refusal.key),
        path=refusal.path,
        body=refusal.sent,
        headers=refusal.headers,
    )
    wanted = (refusal.error, refusal.status, refusal.code, refusal.param)
    assert (seen["error"], seen["status"], seen["code"], seen["param"]) == wanted
    assert (refusal.status in (429, 504)) == (seen["retryAfter"] is not None)


def test_a_host_that_has_too_much_to_do_is_a_server_error(installed: Path) -> None:
    front = FakeFront()
    front.submit_error = Overloaded("too much", retry_after=7)
    body = {"model": "small", "prompt": "hi"}
    with serving(build_app(front, body_bytes=1000)) as url:
        host = {"baseURL": f"{url}/v1", "apiKey": "none", "headers": {}}
        seen = outcome(installed, "refused", path="completions", body=body, **host)
    assert (seen["error"], seen["status"]) == ("InternalServerError", 503)
    assert (seen["code"], seen["retryAfter"]) == ("overloaded", "7")


def test_a_run_that_fails_under_a_stream_is_an_error_after_what_came(installed: Path) -> None:
    front = FakeFront()
    front.run_error = WorkerLost("the worker died")
    messages = [{"role": "user", "content": "hi"}]
    with serving(build_app(front, body_bytes=1000)) as url:
        host = {"baseURL": f"{url}/v1", "apiKey": "none"}
        seen = outcome(installed, "broken", model="small", messages=messages, **host)
    assert (seen["error"], seen["code"], seen["text"]) == (
        "APIError",
        "worker_lost",
        "Paris is nice",
    )
    assert "the worker died" in seen["message"]
