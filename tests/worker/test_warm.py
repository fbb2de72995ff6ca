"""What a worker holds before its first request, and what of it outlives the worker."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from rayhost.engine.base import EngineFailed, LoadError, PromptError
from rayhost.ipc.messages import pack_tokens
from rayhost.worker import warm
from rayhost.worker.snapshot_files import SnapshotFiles
from rayhost.worker.snapshots import Snapshot, Snapshots
from tests.worker.fake_engine import FakeCodec, FakeEngine, reference
from tests.worker.rig import GREEDY, Rig

SYSTEM = "abcabcabcabcabcabcabc"
ROOM = 100_000
PRELOAD = [1 + "abc".index(letter) for letter in SYSTEM[:-1]]


class Speaker(FakeCodec):
    """A codec whose template is `<role>text` for each message, a token for each letter."""

    def chat(self, messages: Sequence[dict[str, Any]], *_: object) -> list[int]:
        tokens = []
        for message in messages:
            tokens += [13 if message["role"] == "system" else 14, *self.text(message["content"])]
        return tokens

    def text(self, text: str) -> list[int]:
        if "!" in text:
            raise PromptError("no such letter")
        return [1 + "abc1".index(letter) for letter in text]


def prepared(
    engine: FakeEngine, *preload: str, files: SnapshotFiles | None = None, room: int = ROOM
) -> Rig:
    """Return the rig of a worker that has computed what it is to hold."""
    snapshots = Snapshots(room, trims=engine.facts.trims)
    beginnings = warm.prepare(engine, Speaker(), snapshots, files, preload)
    rig = Rig(engine, snapshots, preload=beginnings)
    rig.loop.preload()
    return rig


@pytest.mark.parametrize("trims", [True, False])
def test_a_preloaded_prompt_is_there_for_the_first_request(trims: bool) -> None:
    rig = prepared(FakeEngine(slots=2, context=100, batch=8, trims=trims), SYSTEM)
    assert rig.snapshots.holds(pack_tokens(PRELOAD))
    prompt = [*PRELOAD, 5, 6]
    rig.start(1, prompt)
    rig.finish()
    assert rig.told(1).reused == len(PRELOAD)
    assert rig.told(1).result == reference(prompt, 8, GREEDY, context=100)


def test_a_system_prompt_ends_where_its_users_begin_to_differ() -> None:
    speaker = Speaker()
    tokens = warm.beginning(speaker, "abc", chat=True)
    for user in ("a", "b", "11"):
        system = {"role": "system", "content": "abc"}
        chat = speaker.chat([system, {"role": "user", "content": user}])
        assert chat[: len(tokens)] == tokens
    assert tokens == [13, 1, 2, 3, 14]


@pytest.mark.parametrize(
    ("preload", "reason"),
    [
        (["ab", "a" * 60], "preload prompt 2 has 59 tokens; the context is 48"),
        (["!"], "preload prompt 1: no such letter"),
    ],
)
def test_a_prompt_that_no_request_can_have_fails_the_load(preload: list[str], reason: str) -> None:
    with pytest.raises(LoadError, match=reason):
        prepared(FakeEngine(), *preload)


def test_a_preload_without_room_is_left_out_and_tried_once() -> None:
    with capture_logs() as lines:
        rig = prepared(FakeEngine(), SYSTEM, room=50)
        computed = list(rig.engine.sizes)
        rig.loop.step()
    assert len(rig.snapshots) == 0
    assert rig.engine.sizes == computed
    assert [(line["event"], line["prompt"]) for line in lines] == [
        ("preload does not fit into snapshots.ram_mb", 1)
    ]


def test_a_preload_of_one_token_has_nothing_that_could_be_held() -> None:
    rig = prepared(FakeEngine(), "a", SYSTEM)
    assert len(rig.snapshots) == 1


@pytest.mark.parametrize(("trims", "longer"), [(True, False), (True, True), (False, False)])
def test_what_was_computed_once_comes_from_disk_the_next_time(
    tmp_path: Path, trims: bool, longer: bool
) -> None:
    files = SnapshotFiles(tmp_path / "kv", ROOM, "model")
    first = prepared(FakeEngine(context=100, trims=trims), SYSTEM)
    if longer:  # as any conversation leaves one
        first.engine.cells[1] = [*PRELOAD, 9, 9, 9]
        first.snapshots.put(first.engine.cells[1], first.engine.snapshot(1), 5.0)
    files.save(first.snapshots.hottest(ROOM))
    rig = prepared(FakeEngine(context=100, trims=trims), SYSTEM, files=files)
    assert rig.engine.sizes == [1] * longer  # the last one, for states that end there
    rig.start(1, [*PRELOAD, 5, 6])
    rig.finish()
    assert rig.told(1).reused == len(PRELOAD)


def test_a_snapshot_that_the_engine_refuses_costs_nothing_but_the_prefill() -> None:
    class Choosy(FakeEngine):
        def restore(self, slot: int, state: Any) -> None:
            raise EngineFailed("not these bytes")

    engine = Choosy(context=100)
    rig = prepared(engine, SYSTEM)
    rig.start(1, prompt := [*PRELOAD, 5, 6])
    rig.finish()
    assert rig.told(1).result == reference(prompt, 8, GREEDY, context=100)


class Files(SnapshotFiles):
    """Remembers how many snapshots each call was to save,."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, ROOM, "model")
        self.saved: list[int] = []

    def save(self, snapshots: Sequence[Any]) -> int:
        self.saved.append(len(snapshots))
        return len(snapshots)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Nanoseconds, in a list that a test may change."""
    now = [0]
    monkeypatch.setattr("rayhost.clock.now_ns", lambda: now[0])
    return now


def written(saver: warm.Saver, files: Files) -> list[int]:
    """Close a saver whose thread comes to run only after that; return what it wrote."""
    thread = threading.Thread(target=saver.run)
    saver.end()
    thread.start()
    thread.join()
    return files.saved


class Asked(Snapshots):
    """Counts how often somebody wanted to know what is hottest."""

    times = 0

    def hottest(self, limit_bytes: int) -> list[Snapshot]:
        self.times += 1
        return super().hottest(limit_bytes)


def test_the_saver_writes_what_is_hottest_when_it_is_time(tmp_path: Path, now: list[int]) -> None:
    snapshots = Asked(ROOM)
    saver = warm.Saver(Files(tmp_path), snapshots, ROOM)
    for at_ns, times in ((1, 0), (warm.SAVE_EVERY_NS, 1), (warm.SAVE_EVERY_NS + 1, 1)):
        now[0] = at_ns
        saver.beat()
        assert snapshots.times == times


def test_what_is_pinned_is_offered_at_once_and_once(tmp_path: Path, now: list[int]) -> None:
    snapshots = Asked(ROOM)
    saver = warm.Saver(Files(tmp_path), snapshots, ROOM)
    snapshots.put([1, 2, 3], FakeEngine().snapshot(0), 1.0)
    saver.beat()
    assert snapshots.times == 0
    snapshots.pin(pack_tokens([1, 2, 3]))
    snapshots.put([4, 5], FakeEngine().snapshot(0), 1.0, pinned=True)
    saver.beat()
    saver.beat()
    assert snapshots.times == 1


def test_of_offers_that_nobody_took_the_last_is_written(tmp_path: Path, now: list[int]) -> None:
    files = Files(tmp_path)
    rig = prepared(FakeEngine(context=100))
    saver = warm.Saver(files, rig.snapshots, ROOM)
    for number in range(1, 4):
        now[0] += warm.SAVE_EVERY_NS
        saver.beat()
        rig.snapshots.put([number] * 10, rig.engine.snapshot(0), 1.0)
    assert written(saver, files) == [3]  # as of the end
