"""Hosts for client software: SmolLM2 for what it says, a keyed one for what it refuses."""

import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import httpx
import pytest
from openai.types.chat import ChatCompletionFunctionToolParam

from rayhost.models import catalog
from rayhost.models.store import Store, default_root
from tests.support.host import Host, command, started, tiny, write_profile
from tests.support.tiny_gguf import write_tiny_llama

CHAT_MODEL = "smollm2-135m"
EMBEDDING_MODEL = "all-minilm-l6-v2"
TEXTS = ["The cat sleeps on the sofa.", "A kitten naps on a couch.", "Shares fell in New York."]
PERSON: dict[str, object] = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
TOOL: ChatCompletionFunctionToolParam = {
    "type": "function",
    "function": {
        "name": "remember",
        "description": "Write down who somebody is.",
        "parameters": PERSON,
    },
}
ABOUT = "Ada is 36 years old. Who is it, and how old?"
QUESTION = "What is the capital of France? Answer with one word."


@pytest.fixture(scope="package")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A host that serves SmolLM2 and a model for embeddings, without keys."""
    models = []
    for name, context in ((CHAT_MODEL, 2048), (EMBEDDING_MODEL, 256)):
        entry = catalog.BY_NAME[name]
        Store(default_root()).pull(entry.name, entry.source, entry.sha256)
        models.append({"name": name, "context": context, "concurrency": 4})
    profile = write_profile(tmp_path_factory.mktemp("clients") / "real.json", models)
    with started(profile, home=None) as running:
        yield running


@dataclass(frozen=True)
class Keyed:
    """A host that wants keys: `key` has no limits, `spent` is over its own for hours."""

    url: str
    key: str
    spent: str


@pytest.fixture(scope="package")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    folder = tmp_path_factory.mktemp("keyed")
    write_tiny_llama(folder / "tiny.gguf", context=512)

    def key(*arguments: str) -> str:
        added = command("key", "add", *arguments, "--file", folder / "keys.json")
        run = subprocess.run(added, check=True, capture_output=True, text=True, timeout=60)
        return run.stdout.strip()

    free, spent = key("free"), key("spent", "--tokens", "1")
    profile = folder / "keyed.json"
    written = write_profile(profile, [tiny()]).read_text()
    profile.write_text(written.replace("{", '{"keys": "keys.json", ', 1))
    with started(profile, folder) as running:
        long = {"model": "tiny", "prompt": "hi", "max_tokens": 400, "temperature": 0}
        headers = {"Authorization": f"Bearer {spent}"}
        reply = httpx.post(f"{running.url}/v1/completions", json=long, headers=headers, timeout=60)
        assert reply.status_code == 200, reply.text
        yield Keyed(running.url, free, spent)


def likeness(one: Sequence[float], other: Sequence[float]) -> float:
    """The cosine of the angle between two vectors of length 1."""
    return sum(a * b for a, b in zip(one, other, strict=True))


def check_vectors(cat: Sequence[float], kitten: Sequence[float], shares: Sequence[float]) -> None:
    """Fail unless the vectors of `TEXTS` say what the texts do."""
    assert len(cat) == 384
    assert likeness(cat, cat) == pytest.approx(1, abs=1e-3)
    assert likeness(cat, kitten) > 0.5 > likeness(cat, shares) + 0.2
