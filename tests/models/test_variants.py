"""Files made of a model: kept beside it, one at a time, gone with it."""

from pathlib import Path

import pytest

from rayhost.errors import RayhostError
from rayhost.models.store import Store


def made(store: Store, content: bytes) -> str:
    with store.workplace("m", 100) as folder:
        (folder / "x.gguf").write_bytes(content)
        return store.keep_variant("m", folder / "x.gguf")


def test_a_kept_variant_is_found_and_is_no_model_of_its_own(tmp_path: Path) -> None:
    store = Store(tmp_path)
    name = made(store, b"one")
    path = store.variant("m", name)
    assert path is not None
    assert path.read_bytes() == b"one"
    assert store.names() == ()


def test_the_next_variant_takes_its_place(tmp_path: Path) -> None:
    store = Store(tmp_path)
    old, new = made(store, b"one"), made(store, b"two")
    assert store.variant("m", old) is None
    assert store.variant("m", new) is not None


def test_a_name_that_leads_elsewhere_is_none(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made(store, b"one")
    (tmp_path / "models" / "m" / "ab.gguf").write_bytes(b"")
    assert store.variant("m", "../ab.gguf") is None


def test_variants_go_with_the_model_and_on_request(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for forget in (store.remove_variants, store.remove):
        name = made(store, b"one")
        forget("m")
        assert store.variant("m", name) is None
    store.remove_variants("m")


def test_a_workplace_is_empty_alone_and_gone_afterwards(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (tmp_path / "partial" / "tune@m").mkdir(parents=True)
    (tmp_path / "partial" / "tune@m" / "left.gguf").write_bytes(b"by a dead one")
    with store.workplace("m", 100) as folder:
        assert list(folder.iterdir()) == []
        with pytest.raises(RayhostError, match="tuned by another"), store.workplace("m", 100):
            pytest.fail("two got in")
        with store.workplace("n", 100) as other:
            assert other != folder
    assert not folder.exists()


def test_a_full_disk_is_told_before_anything_is_made(tmp_path: Path) -> None:
    store = Store(tmp_path, free_bytes=lambda _: 1000)
    with pytest.raises(RayhostError, match="MB of disk"), store.workplace("m", 1 << 30):
        pytest.fail("there is no room")
    assert list((tmp_path / "partial").iterdir()) == []
