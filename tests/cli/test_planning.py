"""What is loaded on a box of a given size, for profiles that leave sizes open and that do not."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from rayhost.baseline.calibration import Settings
from rayhost.cli.planning import Planner
from rayhost.cli.sizing import wish_for
from rayhost.errors import RayhostError
from rayhost.governor.fit import DoesNotFit
from rayhost.governor.readings import Kernel
from rayhost.ipc.messages import Load
from rayhost.models.catalog_shapes import BY_NAME
from rayhost.profile import Cpus, Kv, ModelProfile, Profile, Snapshots
from rayhost.supervisor import topology
from tests.supervisor.machines import MACHINES
from tests.support.tiny_gguf import write_tiny_llama

CONTAINER = Path(__file__).parent.parent / "governor" / "recorded" / "container"  # 369 MiB of room


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAYHOST_HOME", str(tmp_path / "home"))
    write_tiny_llama(tmp_path / "tiny.gguf", context=4096)
    return tmp_path


def planner(folder: Path, root: Path = CONTAINER) -> Planner:
    return Planner(folder, "json", Kernel(root))


def model(**fields: Any) -> ModelProfile:
    return ModelProfile("tiny", **{"source": "file:tiny.gguf", **fields})


def load(folder: Path, **fields: Any) -> Load:
    ((_, planned),) = planner(folder).plan(Profile((model(**fields),)))
    assert isinstance(planned, Load)
    return planned


def test_a_small_model_gets_the_usual_sizes_in_a_small_box(folder: Path) -> None:
    planned = load(folder)
    assert (planned.context, planned.concurrency, planned.batch) == (2048, 16, 512)
    assert (planned.kv_type, planned.flash_attention) == ("f16", False)


def test_what_the_profile_says_is_loaded_as_it_says(folder: Path) -> None:
    planned = load(folder, context=256, concurrency=3, batch=16, kv=Kv("q8_0"))
    assert (planned.context, planned.concurrency, planned.batch) == (256, 3, 16)
    assert (planned.kv_type, planned.flash_attention) == ("q8_0", True)


def test_caches_shrink_where_the_room_is_short(folder: Path) -> None:
    asked = 400 << 20
    planned = load(folder, snapshots=Snapshots(ram_mb=400))
    assert 0 < planned.snapshot_bytes < asked


def test_what_cannot_fit_is_refused_as_a_whole(folder: Path) -> None:
    with pytest.raises(DoesNotFit, match="cells"):
        planner(folder).plan(Profile((model(context=1 << 19, concurrency=8),)))


def test_a_model_that_cannot_be_had_leaves_the_others(folder: Path) -> None:
    bad = ModelProfile("bad", source="file:none.gguf")
    (folder / "text.gguf").write_text("no model")
    broken = ModelProfile("broken", source="file:text.gguf")
    planned = planner(folder).plan(Profile((bad, model(), broken)))
    kinds = [isinstance(one, RayhostError) for _, one in planned]
    assert kinds == [True, False, True]
    assert [one.name for one, _ in planned] == ["bad", "tiny", "broken"]


def test_a_profile_without_a_single_usable_model_is_not_a_matter_of_memory(folder: Path) -> None:
    ((_, planned),) = planner(folder).plan(Profile((ModelProfile("bad", source="file:none.gguf"),)))
    assert isinstance(planned, RayhostError)


def test_the_same_profile_gets_the_same_settings_when_it_is_read_again(folder: Path) -> None:
    one = planner(folder)
    assert one.plan(Profile((model(),))) == one.plan(Profile((model(),)))


def test_no_more_threads_than_a_quota_lets_run(folder: Path) -> None:
    root = CONTAINER.parent / "v2"  # half a core
    ((_, planned),) = planner(folder, root).plan(Profile((model(),)))
    assert isinstance(planned, Load)
    assert planned.threads == 1


@pytest.mark.parametrize(
    ("box", "said", "threads", "follows"),
    [
        ("v2", 3, 1, 3),  # half a core of four: with more of it, up to what the profile says
        ("v2", 1, 1, 1),
        ("v2", 9, 1, None),
        ("container", 3, 3, 3),  # no quota
        ("container", 9, 9, None),  # more than CPUs, as the profile says
    ],
)
def test_threads_of_the_profile_yield_to_a_quota_with_a_warning(
    folder: Path, monkeypatch: pytest.MonkeyPatch, box: str, said: int, threads: int,
    follows: int | None,
) -> None:  # fmt: skip
    monkeypatch.setattr(topology, "read", lambda: topology.Topology(frozenset(range(4))))
    one = planner(folder, CONTAINER.parent / box)
    with capture_logs() as logs:
        ((_, planned),) = one.plan(Profile((model(threads=said),)))
    assert isinstance(planned, Load)
    assert planned.threads == threads
    assert one.budget.demands["tiny"].threads == follows
    warned = [line for line in logs if line["log_level"] == "warning"]
    told = [(line["field"], line["said"], line["quota_cores"]) for line in warned]
    assert told == ([("models[0].threads", said, 0.5)] if threads < said else [])


def test_workers_get_the_cpus_that_the_front_leaves(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = MACHINES["four cores of two threads"]
    monkeypatch.setattr(topology, "read", lambda: here)
    one = planner(folder)
    ((_, planned),) = one.plan(Profile((model(),), cpus=Cpus(front=(0,))))
    assert isinstance(planned, Load)
    assert (one.front, planned.cpus, planned.threads) == ((0,), (1, 2, 3, 5, 6, 7), 3)  # cores
    ((_, planned),) = one.plan(Profile((model(cpus=(0, 4)),), cpus=Cpus(front=(0,))))
    assert isinstance(planned, Load)
    assert (planned.cpus, planned.threads) == ((0, 4), 1)
    with pytest.raises(RayhostError, match=r"cpus\.front names \[9\]"):
        one.plan(Profile((model(),), cpus=Cpus(front=(9,))))


SHAPE = BY_NAME["smollm2-135m"]


@pytest.mark.parametrize(
    ("profile", "free_kv", "kv_type"),
    [
        (ModelProfile("a"), True, None),
        (ModelProfile("a"), False, "f16"),  # as tuned
        (ModelProfile("a", kv=Kv("f16")), True, "f16"),
        (ModelProfile("a", reproducible=True), True, "f16"),  # what the settings say of it
    ],
)
def test_the_cells_precision_is_open_only_where_nobody_chose_it(
    profile: ModelProfile, free_kv: bool, kv_type: str | None
) -> None:
    assert wish_for(profile, Settings(), SHAPE, free_kv=free_kv).kv_type == kv_type


def test_sizes_left_to_auto_are_open_and_others_are_not() -> None:
    wish = wish_for(ModelProfile("a"), Settings(ubatch=128), SHAPE, free_kv=True)
    assert (wish.context, wish.concurrency, wish.batch, wish.ubatch) == (None, None, None, 128)
    fixed = msgspec.structs.replace(ModelProfile("a"), context=64, concurrency=2, batch=4)
    wish = wish_for(fixed, Settings(), SHAPE, free_kv=True)
    assert (wish.context, wish.concurrency, wish.batch) == (64, 2, 4)


def test_another_file_moved_over_the_first_is_another_load(folder: Path) -> None:
    before = load(folder)
    (folder / "tiny.gguf").chmod(0o600)
    (folder / "link.gguf").hardlink_to(folder / "tiny.gguf")
    assert load(folder) == before
    write_tiny_llama(folder / "next.gguf", context=4096)
    (folder / "next.gguf").replace(folder / "tiny.gguf")
    assert load(folder) != before
