"""Identical requests to a whole host: computed once, until the model changes."""

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.end_to_end.ask import PATH, body, complete, streaming
from tests.end_to_end.conftest import LONG
from tests.support.host import Host, started, tiny, write_profile
from tests.support.tiny_gguf import write_tiny_llama
from tests.support.waiting import eventually

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def sharing(models: Path, store: Path) -> Iterator[Host]:
    """A host that shares what it computes."""
    served = tiny(context=LONG, share="reproducible")
    with started(write_profile(models / "sharing.json", [served]), store) as running:
        yield running


def met(reply: httpx.Response) -> str:
    """How the result cache was met."""
    assert reply.status_code == 200, reply.text
    return str(reply.headers["X-Rayhost-Cache"])


def fingerprint(reply: httpx.Response) -> str:
    """Of the model that computed it."""
    return str(reply.json()["system_fingerprint"])


def loaded(host: Host) -> int:
    """How many workers have loaded the model so far."""
    return len([line for line in host.log() if line["event"] == "model ready"])


def test_an_answer_is_computed_once_in_either_form(sharing: Host) -> None:
    computed = complete(sharing, "computed", prompt="once", max_tokens=50)
    known = complete(sharing, "known", prompt="once", max_tokens=50)
    assert (met(computed), met(known)) == ("miss", "hit")
    assert int(known.headers["Age"]) >= 0
    assert known.json()["choices"] == computed.json()["choices"]
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert known.json()["usage"][name] == computed.json()["usage"][name]
    with streaming(sharing, prompt="once", max_tokens=50) as stream:
        assert stream.response.headers["X-Rayhost-Cache"] == "hit"
        assert stream.rest() == (computed.json()["choices"][0]["text"], "length")
    eventually(lambda: "known" in sharing.requests(), "its log line")
    line = sharing.requests()["known"]
    assert (line["outcome"], line["cached"], line["completion_tokens"]) == ("length", "hit", 50)


def test_many_who_ask_at_once_get_the_answer_of_one_run(sharing: Host) -> None:
    with ThreadPoolExecutor(8) as pool, sharing.frozen():
        asking = [
            pool.submit(complete, sharing, f"same {n}", prompt="same", max_tokens=20)
            for n in range(8)
        ]
        eventually(
            lambda: 'outcome="joined"} 7.0' in httpx.get(f"{sharing.url}/metrics").text,
            "seven of them to have joined the first",
        )
        assert not any(one.done() for one in asking)
    replies = [one.result() for one in asking]
    assert sorted(map(met, replies)) == ["joined"] * 7 + ["miss"]
    assert len({reply.json()["choices"][0]["text"] for reply in replies}) == 1
    assert len({reply.json()["id"] for reply in replies}) == 8


def test_no_store_is_heeded(sharing: Host) -> None:
    def ask() -> httpx.Response:
        headers = {"Cache-Control": "no-store"}
        return httpx.post(sharing.url + PATH, json=body("secret"), headers=headers, timeout=60)

    assert [met(ask()), met(ask())] == ["bypass", "bypass"]
    assert met(complete(sharing, prompt="secret")) == "miss"


def test_a_known_answer_needs_no_worker_and_a_new_model_answers_anew(
    models: Path, store: Path, tmp_path: Path
) -> None:
    shutil.copy(models / "tiny.gguf", tmp_path / "tiny.gguf")
    profile = write_profile(tmp_path / "changing.json", [tiny(share="reproducible")])
    with started(profile, store) as host:
        first = complete(host)
        assert met(first) == "miss"
        with host.frozen():
            known = complete(host)
        assert met(known) == "hit"
        host.worker().kill()
        eventually(lambda: loaded(host) == 2, "the next worker")
        assert met(complete(host)) == "hit"
        before = {fingerprint(one) for one in (first, known, complete(host, prompt="other"))}
        assert len(before) == 1

        write_tiny_llama(tmp_path / "new.gguf", context=512, printable=True)
        (tmp_path / "new.gguf").rename(tmp_path / "tiny.gguf")
        host.worker().kill()
        eventually(lambda: loaded(host) == 3, "a worker with the new file")
        anew = complete(host)
        assert met(anew) == "miss"
        assert fingerprint(anew) not in before
