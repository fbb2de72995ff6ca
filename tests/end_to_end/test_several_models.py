"""Several models in one host: each ready, failing and answering on its own."""

from pathlib import Path

import httpx
import pytest

from tests.end_to_end.ask import complete
from tests.support.host import started, tiny, write_profile
from tests.support.tiny_gguf import write_broken_gguf

pytestmark = pytest.mark.heavy


def test_a_broken_model_takes_none_of_the_others_with_it(models: Path, store: Path) -> None:
    write_broken_gguf(models / "broken.gguf")
    served = [
        tiny("bad", "broken.gguf"),
        tiny("good", aliases=["fine"]),
        tiny("absent", "nowhere.gguf"),
    ]
    with started(write_profile(models / "mixed.json", served), store) as host:
        assert host.ready_line.startswith("rayhost: good ready after ")
        assert '"model":"good"' in host.ready_line
        for name in ("good", "fine"):
            reply = complete(host, model=name)
            assert (reply.status_code, reply.json()["model"]) == (200, "good")

        whole = httpx.get(f"{host.url}/ready")
        assert whole.status_code == 503
        states = {model["model"]: model for model in whole.json()["models"]}
        assert {name: model["state"] for name, model in states.items()} == {
            "bad": "failed",
            "good": "ready",
            "absent": "failed",
        }
        assert "nowhere.gguf" in states["absent"]["reason"]
        assert states["bad"]["reason"]
        assert httpx.get(f"{host.url}/ready", params={"model": "fine"}).status_code == 200
        assert httpx.get(f"{host.url}/ready", params={"model": "bad"}).status_code == 503
        assert httpx.get(f"{host.url}/health").status_code == 200

        refused = complete(host, model="bad")
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "model_failed"
        assert len(host.workers()) == 1
        failures = [line["model"] for line in host.log() if line["event"] == "model failed"]
        assert sorted(failures) == ["absent", "bad"]


def test_a_worker_that_dies_leaves_the_other_models_alone(models: Path, store: Path) -> None:
    two = write_profile(models / "two.json", [tiny("one"), tiny("two")])
    with started(two, store) as host:
        other = host.worker("two")
        with host.frozen("one"):
            assert complete(host, model="two").status_code == 200
        host.worker("one").kill()
        assert complete(host, model="two").status_code == 200
        assert complete(host, model="one").status_code == 200  # waits for the new worker
        assert host.worker("two").pid == other.pid
