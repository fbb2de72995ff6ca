"""Records are kept by host and model, and used for no other file."""

from pathlib import Path

import msgspec
import pytest

from rayhost.baseline.calibration import Calibrations, Settings, Tuned, identity, subject
from rayhost.models.store import StoredModel
from tests.baseline.figures import CPU, baseline, model

MODEL = StoredModel("m", Path("/m.gguf"), "pypi:m==1", "1", 10)
OTHER_FILE = StoredModel("m", Path("/m.gguf"), "pypi:m==2", "2", 10)
TUNED = Tuned(
    identity="sha256:1",
    goal="throughput",
    sequences=8,
    gain=1.9,
    settings=Settings(threads=1, kv_type="q8_0"),
    variant="ab.gguf",
    label="Q8_0",
    taken_at="2026-01-02T03:04:05+00:00",
    applied=True,
)


@pytest.fixture
def records(tmp_path: Path) -> Calibrations:
    return Calibrations(tmp_path, CPU)


def test_what_is_saved_is_read_again(records: Calibrations) -> None:
    records.save_baseline(baseline())
    records.save_tuned("m", TUNED)
    assert records.baseline(MODEL) == baseline()
    assert records.tuned(MODEL) == TUNED


def test_each_model_has_its_own_part_of_a_baseline(records: Calibrations) -> None:
    records.save_baseline(baseline(model("m"), model("n", "sha256:2")))
    assert records.baseline(MODEL) == baseline(model("m"))


def test_another_file_of_the_same_name_was_never_measured(records: Calibrations) -> None:
    records.save_baseline(baseline())
    records.save_tuned("m", TUNED)
    assert records.baseline(OTHER_FILE) is None
    assert records.tuned(OTHER_FILE) is None


def test_another_host_was_never_measured(records: Calibrations, tmp_path: Path) -> None:
    records.save_tuned("m", TUNED)
    resized = Calibrations(tmp_path, msgspec.structs.replace(CPU, ids=(0, 1, 2, 3)))
    assert resized.tuned(MODEL) is None


def test_a_record_of_another_version_is_none(records: Calibrations, tmp_path: Path) -> None:
    records.save_tuned("m", TUNED)
    [path] = tmp_path.glob("calibration/*/m/tuned.json")
    path.write_text('{"goal": "speed"}')
    assert records.tuned(MODEL) is None


def test_a_dry_run_never_replaces_a_choice_that_is_served(records: Calibrations) -> None:
    dry = msgspec.structs.replace(TUNED, applied=False, variant=None)
    records.save_tuned("m", dry)
    assert records.tuned(MODEL) == dry
    records.save_tuned("m", TUNED)
    records.save_tuned("m", dry)
    assert records.tuned(MODEL) == TUNED
    of_another_file = msgspec.structs.replace(dry, identity="sha256:2")
    records.save_tuned("m", of_another_file)
    assert records.tuned(OTHER_FILE) == of_another_file


def test_a_choice_can_be_forgotten(records: Calibrations) -> None:
    records.save_tuned("m", TUNED)
    assert records.forget_tuned("m")
    assert records.tuned(MODEL) is None
    assert not records.forget_tuned("m")


def test_a_file_without_a_digest_is_known_by_size_and_time(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"12")
    plain = StoredModel("m", path, f"file:{path}", None, 2)
    before = identity(plain)
    path.write_bytes(b"123")
    assert identity(plain) != before
    assert subject(MODEL).identity == "sha256:1"


def test_what_a_worker_took_beyond_the_prediction_is_remembered_for_its_file(
    tmp_path: Path,
) -> None:
    records, served = Calibrations(tmp_path, CPU), Path("served.gguf")
    assert records.surplus(MODEL, served) == 0
    records.save_surplus(MODEL, served, 1000)
    assert records.surplus(MODEL, served) == 1000
    assert records.surplus(MODEL, Path("other.gguf")) == 0


def test_one_worker_that_grew_without_bound_is_forgotten_by_the_next(tmp_path: Path) -> None:
    records, served = Calibrations(tmp_path, CPU), Path("served.gguf")
    for size, known in ((0, 0), (300, 300), (20, 20), (20, 20), (0, 20), (900, 20), (0, 20)):
        records.save_surplus(MODEL, served, size)
        assert records.surplus(MODEL, served) == known
