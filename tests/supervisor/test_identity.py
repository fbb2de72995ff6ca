"""When two workers' answers are each other's."""

import os
from pathlib import Path

import msgspec
import pytest

from rayhost.ipc.messages import Load, Ready
from rayhost.supervisor.identity import Origin

READY = Ready(
    architecture="llama",
    quantization="F32",
    parameters=1,
    size_bytes=1,
    context=512,
    train_context=512,
    vocabulary=100,
    chat=True,
    load_ms=1.0,
)


@pytest.fixture
def load(tmp_path: Path) -> Load:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"weights")
    return Load(
        name="m",
        path=str(path),
        context=512,
        concurrency=4,
        batch=128,
        threads=1,
        cpus=(0,),
        kv_type="f16",
        kv_layout="split",
        inter_token_ms=100,
        log_format="json",
    )


def identity(load: Load, ready: Ready = READY) -> bytes:
    return Origin(load).identity(ready)


def test_a_worker_that_is_started_again_is_the_same(load: Load) -> None:
    assert identity(load) == identity(load)
    more = msgspec.structs.replace(
        load, threads=2, cpus=(0, 1), concurrency=8, log_format="console"
    )
    assert identity(more) == identity(load)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "n"},
        {"kv_type": "q8_0"},
        {"kv_layout": "unified"},
        {"flash_attention": False},
        {"chat_template": "x"},
    ],
)
def test_another_setting_that_changes_answers_is_another_worker(
    load: Load, changes: dict[str, object]
) -> None:
    assert identity(msgspec.structs.replace(load, **changes)) != identity(load)


def test_another_context_is_another_worker(load: Load) -> None:
    assert identity(load, msgspec.structs.replace(READY, context=256)) != identity(load)


def test_a_file_put_in_its_place_is_another_model(load: Load, tmp_path: Path) -> None:
    before = identity(load)
    other = tmp_path / "other"
    other.write_bytes(b"WEIGHTS")
    stat = os.stat(load.path)
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    other.rename(load.path)
    assert identity(load) != before


def test_a_file_that_is_written_to_is_another_model(load: Load) -> None:
    before = identity(load)
    with open(load.path, "ab") as file:
        file.write(b"more")
    assert identity(load) != before


def test_a_file_that_changed_while_it_was_loaded_is_equal_to_nothing(load: Load) -> None:
    origin = Origin(load)
    with open(load.path, "ab") as file:
        file.write(b"more")
    assert origin.identity(READY) not in (identity(load), origin.identity(READY))


def test_a_file_that_is_gone_is_equal_to_nothing(load: Load) -> None:
    origin = Origin(load)
    Path(load.path).unlink()
    assert origin.identity(READY) != origin.identity(READY)
