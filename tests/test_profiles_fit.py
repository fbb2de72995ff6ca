"""The profiles that come with rayhost fit the box that their name says, with what they ask for."""

import json
import re
from pathlib import Path

import pytest

from bench import random_model
from rayhost import profile
from rayhost.cli.forecast import Forecaster
from rayhost.models import catalog
from rayhost.models.gguf import read_info
from rayhost.models.store import Store, default_root
from rayhost.sizes import parse_size

FOLDER = Path(__file__).parent.parent / "profiles"
BOXED = sorted(FOLDER.glob("*core-*.json"))
TALKING = [  # with a model of the catalog; who has a file of their own knows what it can do
    path
    for path in BOXED
    if "-embedding" not in path.stem
    and not json.loads(path.read_bytes())["models"][0].get("source")
]


@pytest.fixture(scope="module")
def one_billion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file in the shape of Llama 3.2 1B, which no package index has."""
    return random_model.write(tmp_path_factory.mktemp("shape") / "one-billion.gguf", blank=True)


def test_there_is_one_for_each_box_and_workload() -> None:
    boxes, loads = ("512mib-1core", "1gib-1core", "4gib-2core"), ("chat", "extraction", "embedding")
    small = {f"{box}-{load}" for box in boxes for load in loads}
    large = {"4gib-2core-chat-1b", "4gib-2core-extraction-1b"}
    assert {path.stem for path in BOXED} == small | large


@pytest.mark.heavy
@pytest.mark.parametrize("path", TALKING, ids=lambda path: path.stem)
def test_its_model_can_chat(path: Path) -> None:
    (model,) = profile.load(path).models
    entry = catalog.BY_NAME[model.name]
    stored = Store(default_root()).pull(entry.name, entry.source, entry.sha256)
    assert read_info(stored.path).chat or model.chat_template


@pytest.mark.parametrize("path", BOXED, ids=lambda path: path.stem)
def test_it_fits_its_box_as_it_is_written(
    path: Path, tmp_path: Path, one_billion: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYHOST_HOME", str(tmp_path))  # nothing was measured of anything
    size, cores = re.findall(r"(\d+[mg]ib)-(\d)core", path.stem)[0]
    document = json.loads(path.read_bytes())
    if "source" in document["models"][0]:
        document["models"][0]["source"] = f"file:{one_billion}"
    served = tmp_path / path.name
    served.write_text(json.dumps(document))
    plan = Forecaster(parse_size(size), float(cores)).plan(str(served))
    assert not plan.refusal
    assert plan.needed <= plan.room
    written = profile.load(path)
    assert written.goal
    (row,), (model,) = plan.models, written.models
    assert (row.context, row.concurrency) == (model.context, model.concurrency)
    assert row.kv_type == "f16"
    if "-extraction" in path.stem:  # which asks for JSON, and must not make it shrink
        assert plan.needed + row.constrained <= plan.room
