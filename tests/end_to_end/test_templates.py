"""Chat templates of a whole host: one named in the profile, and one that is hostile."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.host import Host, started, tiny, write_profile
from tests.support.tiny_gguf import write_tiny_llama

pytestmark = pytest.mark.heavy

TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}{{ mood }}"
)
BOMBS = {
    "time": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "memory": "{% set all = namespace(s='aaaaaaaa') %}{% for n in range(60) %}"
    "{% set all.s = all.s ~ all.s %}{% endfor %}",
}
HOSTILE = "{{ messages[-1].content }}" + "".join(
    f"{{% if messages[-1].content == '{name}' %}}{bomb}{{% endif %}}"
    for name, bomb in BOMBS.items()
)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Iterator[Host]:
    folder = tmp_path_factory.mktemp("templates")
    write_tiny_llama(folder / "base.gguf", chat=False, printable=True)
    write_tiny_llama(folder / "hostile.gguf", chat=HOSTILE, printable=True)
    (folder / "chat.jinja").write_text(TEMPLATE)
    profile = write_profile(
        folder / "profile.json",
        [
            tiny("base", "base.gguf"),
            tiny("named", "base.gguf", chat_template="file:chat.jinja"),
            tiny("hostile", "hostile.gguf"),
        ],
    )
    with started(profile, store) as running:
        yield running


def ask(host: Host, model: str, *contents: str, **fields: Any) -> httpx.Response:
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": one} for i, one in enumerate(contents)]
    body = {"model": model, "messages": messages, "max_tokens": 4, "temperature": 0, **fields}
    return httpx.post(f"{host.url}/v1/chat/completions", json=body, timeout=60)


def prompt(host: Host, *contents: str, **fields: Any) -> str:
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": one} for i, one in enumerate(contents)]
    body = {"model": "named", "messages": messages, **fields}
    text: str = httpx.post(f"{host.url}/apply-template", json=body).json()["prompt"]
    return text


def test_a_model_without_a_template_says_what_to_do(host: Host) -> None:
    answer = ask(host, "base", "hi")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "chat_template_missing")
    assert "chat_template" in answer.json()["error"]["message"]


def test_a_template_of_the_profile_makes_a_model_chat(host: Host) -> None:
    answer = ask(host, "named", "hi").json()
    assert answer["usage"]["completion_tokens"] == 4
    assert prompt(host, "hi") == "[user]hi[assistant]"


def test_an_answer_goes_on_with_the_last_message(host: Host) -> None:
    going_on = {"continue_final_message": True}
    assert prompt(host, "hi", "The sea", **going_on) == "[user]hi[assistant]The sea"
    answer = ask(host, "named", "hi", "The sea", **going_on)
    assert answer.status_code == 200


def test_options_reach_the_template(host: Host) -> None:
    options = {"chat_template_kwargs": {"mood": "calm"}}
    assert prompt(host, "hi", **options) == "[user]hi[assistant]calm"
    assert ask(host, "named", "hi", **options).status_code == 200


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_hostile_template_ends_itself_and_nothing_else(host: Host, bomb: str) -> None:
    worker = host.worker("hostile")
    answers: list[httpx.Response] = []
    victim = threading.Thread(target=lambda: answers.append(ask(host, "hostile", bomb)))
    victim.start()
    try:
        assert ask(host, "named", "hi").status_code == 200, "another model answers meanwhile"
    finally:
        victim.join()
    (answer,) = answers
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "chat_template_limit")
    assert ask(host, "hostile", "hello").status_code == 200
    assert host.worker("hostile") == worker, "the worker is the same"
