"""What a worker holds before its first request, and what of it outlives the worker."""

import queue
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rayhost.engine.base import EngineFailed, LoadError, PromptError
from rayhost.ipc.status import Word
from rayhost.worker import warm
from rayhost.worker.snapshot_files import SnapshotFiles
from rayhost.worker.snapshots import Snapshots
from tests.worker.fake_engine import FakeCodec, FakeEngine, reference
from tests.worker.rig import GREEDY, Rig

SYSTEM = "abcabcabcabcabcabcabc"
ROOM = 100_000


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


def prepared(engine: FakeEngine, *preload: str, files: SnapshotFiles | None = None) -> Snapshots:
    snapshots = Snapshots(ROOM, trims=engine.facts.trims)
    warm.prepare(engine, Speaker(), snapshots, files, preload)
    return snapshots


@pytest.mark.parametrize("trims", [True, False])
def test_a_preloaded_prompt_is_there_for_the_first_request(trims: bool) -> None:
    engine = FakeEngine(slots=2, context=100, batch=8, trims=trims)
    rig = Rig(engine, prepared(engine, SYSTEM))
    prompt = [*Speaker().text(SYSTEM)[:-1], 5, 6]
    rig.start(1, prompt)
    rig.finish()
    finished = rig.told(1).finished
    assert finished is not None
    assert rig.told(1).reused == len(SYSTEM) - 1
    assert rig.status[Word.REUSED_RAM] == 1
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


def test_a_preload_without_room_is_left_out() -> None:
    engine = FakeEngine()
    snapshots = Snapshots(50)
    warm.prepare(engine, Speaker(), snapshots, None, [SYSTEM])
    assert len(snapshots) == 0
    assert engine.cells[0] == []


@pytest.mark.parametrize("longer", [False, True])
def test_what_was_computed_once_comes_from_disk_the_next_time(tmp_path: Path, longer: bool) -> None:
    files = SnapshotFiles(tmp_path / "kv", ROOM, "model")
    first = FakeEngine(context=100)
    snapshots = prepared(first, SYSTEM)
    if longer:  # as any conversation leaves one
        first.cells[0] = [*Speaker().text(SYSTEM)[:-1], 9, 9, 9]
        snapshots.put(first.cells[0], first.snapshot(0), 5.0)
    files.save(snapshots.hottest(ROOM))
    engine = FakeEngine(context=100)
    rig = Rig(engine, prepared(engine, SYSTEM, files=files))
    assert engine.sizes == []
    rig.start(1, [*Speaker().text(SYSTEM)[:-1], 5, 6])
    rig.finish()
    told = rig.told(1).finished
    assert told is not None
    assert rig.told(1).reused == len(SYSTEM) - 1


def test_a_snapshot_that_the_engine_refuses_costs_nothing_but_the_prefill() -> None:
    class Choosy(FakeEngine):
        def restore(self, slot: int, state: Any) -> None:
            raise EngineFailed("not these bytes")

    engine = Choosy(context=100)
    snapshots = prepared(engine, SYSTEM)
    rig = Rig(engine, snapshots)
    prompt = [*Speaker().text(SYSTEM)[:-1], 5, 6]
    rig.start(1, prompt)
    rig.finish()
    assert rig.told(1).result == reference(prompt, 8, GREEDY, context=100)
    assert len(snapshots) == 0


def test_the_saver_writes_what_is_hottest_when_it_is_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Files(SnapshotFiles):
        saved: queue.SimpleQueue[int] = queue.SimpleQueue()

        def save(self, snapshots: Sequence[Any]) -> int:
            self.saved.put(len(snapshots))
            raise SystemExit  # ends the thread

    now = [0]
    monkeypatch.setattr("rayhost.clock.now_ns", lambda: now[0])
    files = Files(tmp_path, ROOM, "model")
    saver = warm.Saver(files, prepared(FakeEngine(context=100), SYSTEM), ROOM)
    saver.beat()
    now[0] = warm.SAVE_EVERY_NS
    saver.beat()
    saver.beat()
    with pytest.raises(SystemExit):
        saver.run()
    assert files.saved.get_nowait() == 1
