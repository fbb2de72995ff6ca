"""Hosts for the whole folder: one for the tests that only ask, their own for those that kill."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.host import Host, started, tiny, write_profile
from tests.support.tiny_gguf import write_tiny_llama

LONG = 4096  # tokens: a run to the end of this takes about a second


@pytest.fixture(autouse=True)
def nothing_in_shared_memory() -> Iterator[None]:
    """Fail a test after which something is left in /dev/shm."""
    before = set(os.listdir("/dev/shm"))
    yield
    assert set(os.listdir("/dev/shm")) == before


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model store of the tests' own."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `tiny.gguf`, whose greedy text is printable and as long as asked for."""
    folder = tmp_path_factory.mktemp("hosts")
    write_tiny_llama(folder / "tiny.gguf", context=LONG, printable=True)
    return folder


@pytest.fixture(scope="module")
def host(models: Path, store: Path) -> Iterator[Host]:
    """A host that serves `tiny`: 4 sequences of 4096 tokens, 100 waiting."""
    profile = write_profile(models / "shared.json", [tiny(context=LONG)], queue=100)
    with started(profile, store) as running:
        yield running
