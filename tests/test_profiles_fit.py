"""The profiles that come with rayhost fit the box that their name says, with what they ask for."""

import re
from pathlib import Path

import pytest

from rayhost import profile
from rayhost.cli.forecast import Forecaster
from rayhost.sizes import parse_size

FOLDER = Path(__file__).parent.parent / "profiles"
BOXED = sorted(FOLDER.glob("*core-*.json"))


def test_there_is_one_for_each_box_and_workload() -> None:
    boxes, loads = ("512mib-1core", "1gib-1core", "4gib-2core"), ("chat", "extraction", "embedding")
    assert {path.stem for path in BOXED} == {f"{box}-{load}" for box in boxes for load in loads}


@pytest.mark.parametrize("path", BOXED, ids=lambda path: path.stem)
def test_it_fits_its_box_as_it_is_written(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYHOST_HOME", str(tmp_path))  # nothing was measured of anything
    size, cores = re.findall(r"(\d+[mg]ib)-(\d)core", path.stem)[0]
    plan = Forecaster(parse_size(size), float(cores)).plan(str(path))
    assert not plan.refusal
    assert plan.needed <= plan.room
    written = profile.load(path)
    assert written.goal
    (row,), (model,) = plan.models, written.models
    assert (row.context, row.concurrency) == (model.context, model.concurrency)
    assert row.kv_type == "f16"
    if path.stem.endswith("extraction"):  # which asks for JSON, and must not make it shrink
        assert plan.needed + row.constrained <= plan.room
