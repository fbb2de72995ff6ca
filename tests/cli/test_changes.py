"""What a reload would change, told from two states of a profile."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from rayhost.cli.access import Access
from rayhost.cli.changes import Planned, Reloaded, Setup, after_trying, compare, retried
from rayhost.errors import RayhostError
from rayhost.front.keys import KeyRing
from rayhost.governor.fit import Box
from rayhost.ipc.messages import Load
from rayhost.profile import Cache, Cpus, Hooks, Limits, Listen, ModelProfile, Profile
from rayhost.supervisor.governed import Budget
from tests.supervisor.kept import load_of

NOTHING = Reloaded((), (), (), (), ())
Make = Callable[..., Setup]


def planned(name: str, context: int = 512, **fields: Any) -> Planned:
    load = structs.replace(load_of(Path(name)), name=name, context=context)
    return ModelProfile(name, context=context, **fields), load


@pytest.fixture
def setup(tmp_path: Path) -> Make:
    entry = Access(KeyRing(tmp_path / "keys.json"), (), "")

    def make(*models: Planned, **sections: Any) -> Setup:
        profile = Profile(tuple(model for model, _ in models), **sections)
        return Setup(profile, entry, models, Budget(Box(0, {})))

    return make


def test_the_same_profile_changes_nothing(setup: Make) -> None:
    changed = compare(setup(planned("a")), setup(planned("a")), ())
    assert changed == NOTHING
    assert list(changed.told()) == []


def test_models_come_go_and_change(setup: Make) -> None:
    before = setup(planned("stays"), planned("grows"), planned("goes"))
    after = setup(planned("comes"), planned("grows", 1024), planned("stays"))
    changed = compare(before, after, ())
    assert changed == structs.replace(
        NOTHING, added=("comes",), removed=("goes",), replaced=("grows",)
    )
    assert list(changed.told()) == ["added: comes", "removed: goes", "replaced: grows"]


def test_a_model_that_failed_is_loaded_again(setup: Make) -> None:
    assert compare(setup(planned("a")), setup(planned("a")), ["a"]).replaced == ("a",)


def test_a_failed_model_that_nobody_changed_may_fail_again(setup: Make) -> None:
    before = setup(planned("same"), planned("mended"), planned("well"))
    after = setup(planned("same"), planned("mended", 1024), planned("well"), planned("new"))
    failed = ["same", "mended"]
    assert retried(before, after, failed) == {"same"}
    changed = after_trying(compare(before, after, failed), ["same"])
    assert (changed.replaced, changed.failed) == (("mended",), ("same",))
    assert list(changed.told()) == ["added: new", "replaced: mended", "failed again: same"]


def test_another_file_at_the_same_path_is_another_model(setup: Make) -> None:
    model, load = planned("a")
    assert isinstance(load, Load)
    moved = model, structs.replace(load, stamp=(1, 2))
    assert compare(setup((model, load)), setup(moved), ()).replaced == ("a",)


def test_a_model_whose_file_is_gone_now_is_to_be_replaced(setup: Make) -> None:
    gone = (ModelProfile("a", context=512), RayhostError("no such file"))
    assert compare(setup(planned("a")), setup(gone), ()).replaced == ("a",)


def test_what_only_the_front_knows_of_a_model_leaves_its_worker_alone(setup: Make) -> None:
    after = setup(planned("a", aliases=("b",), share="all"))
    changed = compare(setup(planned("a")), after, ())
    assert changed == structs.replace(NOTHING, settings=("models.a.aliases", "models.a.share"))


def test_limits_keys_hooks_and_who_may_enter_are_read_again(setup: Make) -> None:
    after = setup(
        planned("a"),
        limits=Limits(queue=7, drain_s=1),
        keys="other.json",
        hooks=Hooks(on_ready=("true",)),
        listen=Listen(open=True, origins=("*",)),
        schema_="schema.json",
    )
    changed = compare(setup(planned("a")), after, ())
    assert set(changed.settings) == {
        "limits.queue", "limits.drain_s", "keys", "hooks.on_ready", "listen.open",
        "listen.origins",
    }  # fmt: skip
    assert changed.need_restart == ()


def test_what_takes_a_restart_is_named(setup: Make) -> None:
    after = setup(planned("a"), listen=Listen(host="::1", port=1), traces=True)
    changed = compare(setup(planned("a")), after, ())
    assert changed.need_restart == ("listen.host", "listen.port", "traces")
    assert list(changed.told()) == [
        "in force only after a restart: listen.host, listen.port, traces"
    ]


def test_it_is_named_by_every_reload_until_there_was_a_restart(setup: Make) -> None:
    started = setup(planned("a")).profile
    moved = setup(planned("a"), listen=Listen(port=1))
    assert compare(moved, moved, (), started).need_restart == ("listen.port",)
    back = compare(moved, setup(planned("a")), (), started)
    assert (back.need_restart, back.settings) == ((), ())


def test_caches_and_cpus_are_taken_in(setup: Make) -> None:
    after = setup(planned("a"), cache=Cache(bytes=1, ttl_s=2.0), cpus=Cpus(front=(0,)))
    changed = compare(setup(planned("a")), after, ())
    assert changed == structs.replace(
        NOTHING, settings=("cache.bytes", "cache.ttl_s", "cpus.front")
    )
