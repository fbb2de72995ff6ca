"""Downloads from the Hub, against a stand-in for its client: found, resumed, or one clear line."""

import hashlib
import sys
from pathlib import Path

import pytest

from rayhost.errors import RayhostError
from rayhost.models.fetch import Phase
from rayhost.models.store import Store
from tests.support.tiny_gguf import write_tiny_llama

SOURCE = "hf:owner/repo/sub/tiny.gguf"

# Like the real one: the file goes to `local_dir`, by way of an .incomplete one that is resumed.
CLIENT = """
import os, pathlib, types
from huggingface_hub.errors import RepositoryNotFoundError

def hf_hub_url(repository, file):
    return f"https://hub/{repository}/{file}"

def get_hf_file_metadata(url):
    if url != "https://hub/owner/repo/sub/tiny.gguf":
        raise RepositoryNotFoundError("404: no such repository\\n\\nMaybe log in?")
    return types.SimpleNamespace(size=len(content()))

def content():
    return pathlib.Path(os.environ["HUB_FILE"]).read_bytes()

def hf_hub_download(repository, file, *, local_dir):
    incomplete = pathlib.Path(local_dir, ".cache", "x.incomplete")
    if not incomplete.exists():
        incomplete.parent.mkdir(parents=True)
        incomplete.write_bytes(content()[:1000])
        if "HUB_FAILS" in os.environ:
            raise ConnectionError("the line went dead")
    else:
        incomplete.with_name("resumed").touch()
    target = pathlib.Path(local_dir, file)
    target.parent.mkdir()
    target.write_bytes(incomplete.read_bytes() + content()[1000:])
    incomplete.unlink()
    return str(target)
"""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Install the stand-in; return the model it serves."""
    package = tmp_path / "site" / "huggingface_hub"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(CLIENT)
    (package / "errors.py").write_text("class RepositoryNotFoundError(Exception): pass\n")
    model = write_tiny_llama(tmp_path / "tiny.gguf")
    monkeypatch.setenv("PYTHONPATH", str(package.parent))  # for the child
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setenv("HUB_FILE", str(model))
    return model.read_bytes()


def test_a_file_comes_from_the_hub(hub: bytes, tmp_path: Path) -> None:
    store = Store(tmp_path / "home")
    pulled = store.pull("tiny", SOURCE, hashlib.sha256(hub).hexdigest())
    assert pulled.path.read_bytes() == hub
    assert store.find("tiny") == pulled
    assert not list((store.root / "partial").iterdir())


def test_a_broken_download_is_carried_on_by_the_next_pull(
    hub: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "home")
    monkeypatch.setenv("HUB_FAILS", "1")
    with pytest.raises(RayhostError, match=f"^{SOURCE}: ConnectionError: the line went dead$"):
        store.pull("tiny", SOURCE)
    assert store.find("tiny") is None
    assert list(store.root.rglob("x.incomplete"))

    resumed: list[Path] = []

    def progress(done: int, total: int | None, phase: Phase) -> None:
        resumed.extend(store.root.rglob("resumed"))

    pulled = store.pull("tiny", SOURCE, progress=progress)
    assert pulled.path.read_bytes() == hub
    assert resumed


@pytest.mark.usefixtures("hub")
def test_another_source_does_not_resume_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "home")
    monkeypatch.setenv("HUB_FAILS", "1")
    with pytest.raises(RayhostError, match="went dead"):
        store.pull("tiny", SOURCE)
    with pytest.raises(RayhostError, match="404: no such repository"):
        store.pull("tiny", "hf:owner/another/tiny.gguf")
    assert not list(store.root.rglob("x.incomplete"))


@pytest.mark.usefixtures("hub")
def test_wrong_bytes_are_not_kept_to_be_resumed(tmp_path: Path) -> None:
    store = Store(tmp_path / "home")
    with pytest.raises(RayhostError, match="expected 0000"):
        store.pull("tiny", SOURCE, "0" * 64)
    assert not list((store.root / "partial").iterdir())


def test_without_the_extra_the_error_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(RayhostError, match=r"^hf:.*: needs an extra: pip install 'rayhost\[hf\]'$"):
        Store(tmp_path / "home").pull("tiny", SOURCE)
