"""Both ends in one process: what each owns, and that closing leaves nothing behind."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from rayhost.ipc.channel import ChildFds, CorruptFrame, End, Frame, SegmentMismatch, attach, create
from rayhost.ipc.status import Word


@pytest.fixture
def ends() -> Iterator[tuple[End, End]]:
    front, child = create(7, 4096)
    worker = attach(child)
    yield front, worker
    front.close()
    worker.close()


def open_fds() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_both_directions_carry_messages_at_once(ends: tuple[End, End]) -> None:
    front, worker = ends
    front.sender.send(1, 11, b"down" * 2000)
    worker.sender.send(2, 22, b"up" * 4000)
    down: list[Frame] = []
    up: list[Frame] = []
    for _ in range(100):
        front.sender.on_space()
        worker.sender.on_space()
        down += worker.receiver.receive(2)
        up += front.receiver.receive(2)
    assert down == [Frame(1, 11, b"down" * 2000)]
    assert up == [Frame(2, 22, b"up" * 4000)]


def test_the_front_reads_the_status_the_worker_writes(ends: tuple[End, End]) -> None:
    front, worker = ends
    worker.status[Word.STEP] = 41
    worker.status[Word.FINISHED] = 2**64 - 1
    assert front.status[Word.STEP] == 41
    assert front.status[Word.FINISHED] == 2**64 - 1


def test_status_and_rings_do_not_overlap(ends: tuple[End, End]) -> None:
    front, worker = ends
    for word in Word:
        worker.status[word] = 2**64 - 1
    front.sender.send(1, 1, bytes(1000))
    worker.sender.send(1, 1, bytes(1000))
    front.sender.flush()
    worker.sender.flush()
    assert worker.receiver.receive(9) == front.receiver.receive(9) == [Frame(1, 1, bytes(1000))]
    assert {front.status[word] for word in Word} == {2**64 - 1}


def test_the_argument_names_the_inherited_descriptors() -> None:
    front, child = create(2**64 - 1, 4096)
    copy = ChildFds.from_arg(child.to_arg())
    assert (copy.generation, copy.fds) == (child.generation, child.fds)
    assert len(set(child.fds)) == 5
    child.close()
    front.close()


@pytest.mark.parametrize("arg", ["", "7", "7:", "7:1,2", "x:1,2,3,4,5", "7:1,2,3,4,5,6"])
def test_another_argument_is_refused(arg: str) -> None:
    with pytest.raises(ValueError, match=r"channel argument|invalid literal"):
        ChildFds.from_arg(arg)


def test_attach_refuses_another_generation_and_leaves_the_descriptors_to_their_owner() -> None:
    front, child = create(7, 4096)
    before = open_fds()
    with pytest.raises(SegmentMismatch, match="of generation 7, not 8"):
        attach(ChildFds(8, child.fds))
    assert open_fds() == before
    child.close()
    front.close()


def test_the_front_works_on_after_closing_what_the_child_inherits() -> None:
    before = open_fds()
    front, child = create(7, 4096)
    worker = attach(child)
    assert child.fds == ()
    child.close()
    front.sender.send(1, 1, b"x")
    front.sender.flush()
    assert worker.receiver.receive(1) == [Frame(1, 1, b"x")]
    worker.close()
    front.close()
    assert open_fds() == before


def test_descriptors_are_closed_on_exec_unless_passed_on() -> None:
    front, child = create(7, 4096)
    for fd in child.fds:
        os.set_inheritable(fd, True)  # as pass_fds does in the child
    worker = attach(child)
    assert not any(
        os.get_inheritable(fd)
        for end in (front, worker)
        for fd in (end.sender.space_fd, end.receiver.data_fd)
    )
    worker.close()
    front.close()


def mappings() -> int:
    return Path("/proc/self/maps").read_text().count("memfd:rayhost")


def test_close_returns_every_descriptor_and_the_mapping_and_may_be_repeated() -> None:
    before, mapped = open_fds(), mappings()
    for generation in range(50):
        front, child = create(generation)
        worker = attach(child)
        worker.sender.send(1, 1, bytes(300_000))  # leaves a message half sent
        worker.sender.flush()
        front.receiver.receive(2)
        for end in (front, worker, front, worker):
            end.close()
        assert front.sender.space_fd == front.receiver.data_fd == -1
    assert open_fds() == before
    assert mappings() == mapped


def test_close_works_while_an_error_still_holds_the_frames_of_its_traceback(
    ends: tuple[End, End],
) -> None:
    front, _ = ends
    os.eventfd_write(front.receiver.data_fd, 1)
    with pytest.raises(CorruptFrame) as caught:
        front.receiver.receive(1)
    front.close()
    assert caught.traceback
    with pytest.raises(ValueError, match="released"):
        front.status[Word.STEP]


@pytest.mark.parametrize("allowed", range(10))
def test_running_out_of_descriptors_leaks_none(
    allowed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = iter(range(allowed))

    def rationed(real: object) -> object:
        def call(*args: int) -> int:
            if next(budget, None) is None:
                raise OSError(24, "Too many open files")
            assert callable(real)
            fd: int = real(*args)
            return fd

        return call

    for name in ("memfd_create", "eventfd", "dup"):
        monkeypatch.setattr(os, name, rationed(getattr(os, name)))
    before = open_fds()
    if allowed == 9:  # one segment, four eventfds, the front's four duplicates
        front, child = create(7, 4096)
        child.close()
        front.close()
    else:
        with pytest.raises(OSError, match="Too many open files"):
            create(7, 4096)
    assert open_fds() == before
