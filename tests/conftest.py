"""Models shared by the whole suite: a random one made on the spot, and real weights pulled once."""

import signal
from pathlib import Path

import pytest

from rayhost.models import catalog
from rayhost.models.store import Store, default_root
from tests.support.tiny_gguf import write_tiny_llama


def pytest_configure() -> None:
    """A shell that starts CI in the background has SIGINT ignored, and children inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random llama with a chat template and 512 tokens of context; loads in milliseconds."""
    return write_tiny_llama(tmp_path_factory.mktemp("models") / "tiny.gguf")


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct, pulled into the machine's own store once. For heavy tests only."""
    entry = catalog.BY_NAME["smollm2-135m"]
    return Store(default_root()).pull(entry.name, entry.source, entry.sha256).path
