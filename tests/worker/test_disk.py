"""A request that begins as a snapshot does which is on disk and in nobody's memory."""

from pathlib import Path

import numpy as np
import pytest
from structlog.testing import capture_logs

from rayhost.ipc.messages import pack_tokens
from rayhost.ipc.status import Word
from rayhost.worker.disk import Disk, Fetched
from rayhost.worker.output import TextStream
from rayhost.worker.prefixes import MIN_SHARED
from rayhost.worker.sequence import Sequence
from rayhost.worker.snapshot_files import SnapshotFiles
from rayhost.worker.snapshots import Snapshot, Snapshots
from tests.worker.fake_engine import FakeEngine, reference
from tests.worker.rig import GREEDY, Rig

ROOM = 100_000
CONTEXT = 160
BEGINNING = [1, 2, 3, 4, 5, 6, 7, 8] * 5
PROMPT = [*BEGINNING, 9, 9]


def snapshot(tokens: list[int], saved_ms: float = 1000.0) -> Snapshot:
    state = np.asarray(tokens, np.int32).view(np.uint8)
    return Snapshot(pack_tokens(tokens), state, saved_ms, value_ms=saved_ms)


def sequence(request_id: int) -> Sequence:
    return Sequence(
        request_id=request_id,
        tokens=list(PROMPT),
        n_prompt=len(PROMPT),
        max_tokens=8,
        sampling=GREEDY,
        text=TextStream(()),
    )


@pytest.fixture
def files(tmp_path: Path) -> SnapshotFiles:
    files = SnapshotFiles(tmp_path / "kv", ROOM, "model")
    assert files.save([snapshot(BEGINNING)]) == 1
    return files


def rig_of(files: SnapshotFiles, *, slots: int = 2, room: int = ROOM, trims: bool = True) -> Rig:
    """Return a rig whose disk has listed what is there."""
    engine = FakeEngine(slots=slots, context=CONTEXT, batch=64, trims=trims)
    rig = Rig(engine, Snapshots(room, trims=trims), files=files)
    rig.disk.turn()
    return rig


def prefilled(rig: Rig) -> int:
    return int(rig.status[Word.PREFILL_TOKENS])


@pytest.mark.parametrize("trims", [True, False])
def test_it_waits_for_the_disk_and_begins_with_that(files: SnapshotFiles, trims: bool) -> None:
    rig = rig_of(files, trims=trims)
    rig.start(1, PROMPT)
    rig.loop.step()
    assert (prefilled(rig), rig.status[Word.WAITING]) == (0, 1)
    rig.disk.turn()
    rig.finish()
    assert rig.told(1).reused == len(BEGINNING)
    assert rig.told(1).result == reference(PROMPT, 8, GREEDY, context=CONTEXT)
    assert rig.status[Word.REUSED_DISK] == 1
    assert rig.status[Word.WAITING] == 0


def test_all_who_begin_so_wait_for_one_reading(files: SnapshotFiles) -> None:
    rig = rig_of(files)
    for number in (1, 2, 3):
        rig.start(number, [*BEGINNING, number])
    rig.loop.step()
    assert rig.status[Word.WAITING] == 3
    rig.disk.turn()
    rig.finish()
    assert [rig.told(number).reused for number in (1, 2, 3)] == [len(BEGINNING)] * 3


def test_what_is_in_memory_is_not_read(files: SnapshotFiles) -> None:
    rig = rig_of(files)
    rig.snapshots.add(snapshot(BEGINNING))
    rig.start(1, PROMPT)
    rig.finish()
    assert rig.status[Word.REUSED_RAM] == 1


def test_what_somebody_wants_now_takes_the_place_of_what_is_worth_as_much(
    files: SnapshotFiles,
) -> None:
    rig = rig_of(files, room=400)
    rig.snapshots.add(snapshot([8, 7, 6, 5] * 10, saved_ms=1500.0))
    rig.start(1, PROMPT)
    rig.loop.step()
    rig.disk.turn()
    rig.finish()
    assert rig.told(1).reused == len(BEGINNING)


def test_where_the_store_has_no_room_nobody_waits(files: SnapshotFiles) -> None:
    rig = rig_of(files, room=100)
    rig.start(1, PROMPT)
    rig.finish()
    assert rig.told(1).reused == 0


def test_nobody_waits_longer_than_computing_it_would_take(files: SnapshotFiles) -> None:
    rig = rig_of(files)
    rig.start(1, PROMPT)
    for _ in range(1000):  # each reads the clock a few times
        if rig.told(1).finished:
            break
        rig.loop.step()
    assert rig.told(1).reused == 0
    assert rig.told(1).result == reference(PROMPT, 8, GREEDY, context=CONTEXT)


def test_a_reading_that_takes_too_long_is_waited_for_once(files: SnapshotFiles) -> None:
    now = [0]
    got: list[Fetched] = []
    snapshots = Snapshots(ROOM)
    disk = Disk(files, snapshots, got.append, trims=True, longest=CONTEXT, now=lambda: now[0])
    disk.turn()
    early, late = sequence(1), sequence(2)
    assert disk.hold(early, 0)
    now[0] = round(1e9) - 1
    assert not list(disk.overdue())
    assert disk.patience_ns == 1
    now[0] += 1
    assert list(disk.overdue()) == [early]
    assert not disk.hold(late, 0)
    assert disk.patience_ns > 1e18
    disk.turn()
    assert disk.take(got[0]) == []
    assert len(snapshots) == 1


def test_who_gains_little_waits_as_little(files: SnapshotFiles) -> None:
    disk = Disk(files, Snapshots(ROOM), lambda _: None, trims=True, longest=CONTEXT, now=lambda: 0)
    disk.turn()
    assert not disk.hold(sequence(1), len(BEGINNING) - MIN_SHARED + 1)
    assert disk.hold(sequence(1), len(BEGINNING) - MIN_SHARED)
    assert disk.patience_ns == pytest.approx(1e9 * MIN_SHARED / len(BEGINNING))


def test_what_is_longer_than_the_context_is_not_asked_for(files: SnapshotFiles) -> None:
    disk = Disk(files, Snapshots(ROOM), lambda _: None, trims=True, longest=CONTEXT)
    disk.turn()
    disk.rekey(files, len(BEGINNING) - 1)
    disk.turn()
    assert not disk.hold(sequence(1), 0)
    disk.rekey(files, len(BEGINNING))
    disk.turn()
    assert disk.hold(sequence(1), 0)


def test_who_leaves_is_not_computed(files: SnapshotFiles) -> None:
    rig = rig_of(files)
    rig.start(1, PROMPT)
    rig.loop.step()
    rig.cancel(1)
    rig.disk.turn()
    rig.finish()
    assert (prefilled(rig), rig.status[Word.WAITING]) == (0, 0)


def test_a_damaged_file_costs_nothing_but_the_prefill(files: SnapshotFiles, tmp_path: Path) -> None:
    rig = rig_of(files)
    (path,) = (tmp_path / "kv").iterdir()
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    rig.start(1, PROMPT)
    rig.loop.step()
    with capture_logs() as lines:
        rig.disk.turn()
    rig.finish()
    assert [line["event"] for line in lines] == ["snapshot removed"]
    assert rig.told(1).result == reference(PROMPT, 8, GREEDY, context=CONTEXT)
    assert not path.exists()


def test_what_was_read_for_another_key_is_of_no_use(files: SnapshotFiles, tmp_path: Path) -> None:
    rig = rig_of(files)
    rig.start(1, PROMPT)
    rig.loop.step()
    rig.disk.rekey(SnapshotFiles(tmp_path / "kv", ROOM, "another"), CONTEXT)
    rig.disk.turn()
    rig.finish()
    assert (rig.told(1).reused, len(rig.snapshots)) == (0, 0)


def test_what_is_saved_later_is_found(files: SnapshotFiles) -> None:
    rig = rig_of(files)
    other = [8, 7, 6, 5] * 10
    files.save([snapshot(other)])
    rig.disk.relist(files)
    rig.disk.turn()
    rig.start(1, [*other, 1, 2])
    rig.loop.step()
    rig.disk.turn()
    rig.finish()
    assert rig.told(1).reused == len(other)
