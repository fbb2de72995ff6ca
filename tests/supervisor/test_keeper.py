"""Keepers of real workers on a tiny model: death, restart, hanging, and what cannot be mended."""

import asyncio
import errno
import os
import select
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NoReturn

import psutil
import pytest
import pytest_asyncio
from msgspec import structs
from structlog.testing import capture_logs

from rayhost.errors import RayhostError, Unavailable
from rayhost.front.link import Link
from rayhost.front.run import ActiveRun
from rayhost.ipc.channel import ChildFds, End, create
from rayhost.ipc.messages import Load, Message
from rayhost.supervisor import backoff
from rayhost.supervisor import keeper as keeper_module
from tests.front.fake_worker import request
from tests.supervisor.kept import CONCURRENCY, keeping, load_of, workers
from tests.support.tiny_gguf import write_broken_gguf
from tests.support.waiting import soon


@pytest_asyncio.fixture(autouse=True)
async def nothing_is_left() -> AsyncIterator[None]:
    """Fail a test that leaves a process, a descriptor or shared memory."""

    def held() -> tuple[set[str], set[str]]:
        return set(os.listdir("/proc/self/fd")), set(os.listdir("/dev/shm"))

    def channels() -> int:  # those of tests before count, too
        maps = psutil.Process().memory_maps(grouped=False)
        return sum("rayhost-channel" in one.path for one in maps)

    before, mapped = held(), channels()
    yield
    assert workers() == []
    assert held() == before
    assert channels() <= mapped


PRELOAD = "you are helpful and good " * 10  # 225 tokens


async def text_of(run: ActiveRun) -> str:
    return "".join([piece.text async for piece in run])


async def test_a_worker_becomes_ready_and_serves(tiny_model: Path) -> None:
    async with keeping(load_of(tiny_model)) as kept:
        assert (kept.lane.state, kept.keeper.health().ok) == ("loading", True)
        await asyncio.wait_for(kept.keeper.settled.wait(), 30)
        health = kept.keeper.health()
        assert (health.ok, health.state, health.reason) == (True, "ready", "")
        assert kept.lane.capabilities is not None
        assert kept.lane.capabilities.chat
        assert kept.lane.context == 512

        run = await kept.submit("hello", tokens=5)
        assert len(await text_of(run)) > 0
        assert run.finish.completion_tokens == 5
        await soon(lambda: kept.keeper.reading().active == 0, "the end on the status page")
        reading = kept.keeper.reading()
        assert (reading.model, reading.queued, reading.kv_tokens) == ("tiny", 0, 0)
        assert reading.steps == kept.keeper.health().step == 5
        assert 0 < reading.decode_seconds <= reading.step_seconds
        assert reading.width == kept.lane.concurrency
        assert sum(reading.steps_by_seconds.values()) == reading.steps
        assert reading.steps_by_tokens[1] == reading.batch_tokens == 5, "a prompt of one token"


async def test_requests_that_come_before_the_model_is_loaded_are_served(tiny_model: Path) -> None:
    async with keeping(load_of(tiny_model)) as kept:
        runs = await asyncio.gather(*(kept.submit(str(n), tokens=3) for n in range(10)))
        for run in runs:
            await text_of(run)
            assert run.finish.completion_tokens == 3


async def test_a_killed_worker_is_noticed_and_replaced_and_its_runs_go_on(tiny_model: Path) -> None:
    prompts = [f"story number {n}" for n in range(CONCURRENCY)]
    async with keeping(load_of(tiny_model)) as kept:
        undisturbed = [await text_of(await kept.submit(prompt, 400)) for prompt in prompts]

        runs = [await kept.submit(prompt, 400) for prompt in prompts]
        first, generation = kept.worker, kept.generation
        await soon(lambda: all(run.produced for run in runs), "a token of each")
        kept.signal(signal.SIGSTOP)  # so that none can end before the kill
        cut = [run for run in runs if not run.outcome]
        assert cut, "the worker was done before it could be stopped"
        kept.signal(signal.SIGKILL)

        states = []

        def replaced() -> bool:
            states.append((kept.lane.state, kept.keeper.health().ok))
            if kept.lane.state != "ready":  # loading, too: why is told until it serves again
                assert "killed by SIGKILL" in kept.lane.reason
            return kept.lane.state == "ready" and kept.worker.pid != first.pid

        await soon(lambda: kept.lane.state != "ready", "the death to be noticed")
        assert "killed by SIGKILL" in kept.lane.reason
        await soon(replaced, "another worker")
        assert not any(ok for state, ok in states if state != "ready")
        assert states[-1] == ("ready", True)

        assert [await text_of(run) for run in runs] == undisturbed
        assert all(run.finish.completion_tokens == 400 for run in runs)
        assert kept.generation > generation
        assert not first.is_running()


async def test_a_death_is_noticed_without_waiting_for_a_beat(tiny_model: Path) -> None:
    async with keeping(load_of(tiny_model)) as kept:
        await kept.ready()
        began = asyncio.get_running_loop().time()
        kept.signal(signal.SIGKILL)
        await soon(lambda: kept.lane.state != "ready", "the death to be noticed")
        noticed_s = asyncio.get_running_loop().time() - began
        assert noticed_s < 0.4  # milliseconds; an idle worker beats each 500


async def test_a_worker_killed_again_and_again_comes_back_each_time(tiny_model: Path) -> None:
    async with keeping(load_of(tiny_model)) as kept:
        generations = []
        for _ in range(4):
            await kept.ready()
            generations.append(kept.generation)
            kept.signal(signal.SIGKILL)
            await soon(lambda: kept.lane.state != "ready", "the death")
        await kept.ready()
        assert generations == sorted(set(generations))
        assert len(workers()) == 1


async def test_a_model_that_cannot_be_loaded_is_told_once_and_not_tried_again(
    tmp_path: Path,
) -> None:
    broken = write_broken_gguf(tmp_path / "broken.gguf")
    with capture_logs() as lines:
        async with keeping(load_of(broken)) as kept:
            early = asyncio.create_task(kept.submit("early"))
            await asyncio.wait_for(kept.keeper.settled.wait(), 30)
            assert kept.lane.state == "failed"
            assert kept.lane.reason
            assert workers() == []
            for asked in (early, kept.submit("late")):
                with pytest.raises(Unavailable, match="failed to load") as caught:
                    await asked
                assert caught.value.code == "model_failed"
            # It is no illness that a restart of the host would cure.
            assert kept.keeper.health().ok
    assert [line["event"] for line in lines if line["log_level"] == "error"] == ["model failed"]


async def test_a_model_whose_file_could_not_be_had_has_no_worker() -> None:
    async with keeping(RayhostError("no such file")) as kept:
        assert kept.keeper.settled.is_set()
        assert (kept.lane.state, kept.lane.reason) == ("failed", "no such file")
        with pytest.raises(Unavailable, match="no such file"):
            await kept.submit("x")


async def test_a_worker_that_always_dies_while_loading_is_given_up(tiny_model: Path) -> None:
    with capture_logs() as lines:
        async with keeping(load_of(tiny_model, cpus=(4095,))) as kept:  # cannot be pinned there
            await asyncio.wait_for(kept.keeper.settled.wait(), 60)
            assert kept.lane.state == "failed"
            assert "3 times in a row" in kept.lane.reason
            assert "while loading the model" in kept.lane.reason
    events = [line["event"] for line in lines if line["log_level"] == "error"]
    assert events == ["worker lost", "worker lost", "model failed"]


async def test_a_machine_that_is_short_of_something_for_a_moment_is_tried_again(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_generation: int) -> NoReturn:
        monkeypatch.undo()
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(keeper_module, "create", full)
    async with keeping(load_of(tiny_model)) as kept:
        assert kept.lane.state == "restarting"
        assert "Cannot allocate memory" in kept.lane.reason
        await kept.ready()


async def test_only_the_first_worker_computes_its_preloads_before_it_is_ready(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = []
    send = Link.send

    def noted(link: Link, request_id: int, message: Message) -> None:
        if isinstance(message, Load):
            sent.append(message.preload_first)
        send(link, request_id, message)

    monkeypatch.setattr(Link, "send", noted)
    async with keeping(load_of(tiny_model)) as kept:
        await kept.ready()
        kept.signal(signal.SIGKILL)
        await soon(lambda: kept.lane.state == "restarting", "the death to be noticed")
        await kept.ready()
        await kept.keeper.replace(structs.replace(load_of(tiny_model), inter_token_ms=50))
    assert sent == [True, False, False]


async def test_a_model_that_was_ready_once_is_never_given_up(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = iter(range(backoff.LOAD_ATTEMPTS + 1))

    def full_for_a_while(_generation: int) -> NoReturn:
        if next(failures) == backoff.LOAD_ATTEMPTS:
            monkeypatch.undo()
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    async with keeping(load_of(tiny_model)) as kept:
        await kept.ready()
        monkeypatch.setattr(keeper_module, "create", full_for_a_while)
        kept.signal(signal.SIGKILL)
        await soon(lambda: kept.lane.state == "restarting", "the death to be noticed")
        await kept.ready()


async def test_a_file_that_is_gone_for_a_moment_ends_no_stream(
    tiny_model: Path, tmp_path: Path
) -> None:
    file, aside = tmp_path / "model.gguf", tmp_path / "aside"
    shutil.copy(tiny_model, file)
    async with keeping(load_of(file)) as kept:
        run = await kept.submit("story", 400)
        await soon(lambda: bool(run.produced), "a token")
        file.rename(aside)
        kept.signal(signal.SIGKILL)
        await soon(
            lambda: kept.lane.state == "restarting" and str(file) in kept.lane.reason,
            "a worker that cannot load",
        )
        aside.rename(file)
        await text_of(run)
        assert run.finish.completion_tokens == 400


@pytest.mark.parametrize("busy", [False, True])
async def test_a_stopped_worker_is_killed_and_its_runs_go_on_in_the_next(
    tiny_model: Path, busy: bool
) -> None:
    async with keeping(load_of(tiny_model)) as kept:
        undisturbed = await text_of(await kept.submit("story", 400))
        run = await kept.submit("story", 400) if busy else None
        if run:
            await soon(lambda: run.produced, "its first token")
        kept.signal(signal.SIGSTOP)
        stopped = kept.worker
        states = []

        def found() -> bool:
            states.append((kept.lane.state, kept.keeper.health().ok))
            return kept.lane.state != "ready"

        await soon(found, "the hang to be found")
        assert "no sign of life" in kept.lane.reason
        assert states[-1] == ("restarting", False)
        await kept.ready()
        assert not stopped.is_running()
        again = run or await kept.submit("story", 400)
        assert await text_of(again) == undisturbed


async def test_a_worker_that_is_stopped_for_a_moment_only_is_left_alone(tiny_model: Path) -> None:
    async with keeping(load_of(tiny_model)) as kept:
        await kept.ready()
        worker = kept.worker
        worker.suspend()
        await soon(lambda: (kept.keeper.health().beat_age_ms or 0) > 1500, "three beats to miss")
        worker.resume()
        await soon(lambda: (kept.keeper.health().beat_age_ms or 1e9) < 500, "its next beat")
        assert kept.worker.pid == worker.pid


async def test_an_idle_worker_is_not_taken_for_a_hung_one(tiny_model: Path) -> None:
    async with keeping(load_of(tiny_model)) as kept:
        await kept.ready()
        age_ms = kept.keeper.health().beat_age_ms
        assert age_ms is not None

        def beat_again() -> bool:
            now_ms = kept.keeper.health().beat_age_ms
            nonlocal age_ms
            younger = now_ms is not None and age_ms is not None and now_ms < age_ms
            age_ms = now_ms
            return younger

        await soon(beat_again, "a beat without any work")


async def test_a_condemned_worker_is_replaced(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[End] = []

    def create_and_tell(generation: int) -> tuple[End, ChildFds]:
        end, child = create(generation)
        ends.append(end)
        return end, child

    monkeypatch.setattr(keeper_module, "create", create_and_tell)
    async with keeping(load_of(tiny_model)) as kept:
        await kept.ready()
        pid = kept.worker.pid
        os.eventfd_write(ends[0].receiver.data_fd, 1)  # announces a frame that nobody wrote

        def gone() -> bool:
            kept.keeper.health()  # never fails, also between the verdict and the death
            kept.keeper.reading()
            return not psutil.pid_exists(pid)

        await soon(gone, "the condemned worker's death")
        await kept.ready()
        await text_of(await kept.submit("hello"))


async def test_stop_ends_an_idle_worker_politely(tiny_model: Path) -> None:
    async with keeping(load_of(tiny_model)) as kept:
        await kept.ready()
        worker = kept.worker
        with capture_logs() as lines:
            await kept.keeper.stop()
        assert not worker.is_running()
        assert kept.lane.state == "stopped"
        assert lines == []
        with pytest.raises(Unavailable) as caught:
            await kept.submit("x")
        assert caught.value.code == "draining"


async def test_stop_fails_what_still_runs(tiny_model: Path) -> None:
    async with keeping(load_of(tiny_model)) as kept:
        await kept.ready()
        kept.signal(signal.SIGSTOP)
        run = await kept.lane.submit(request())
        await kept.keeper.stop()  # it hears nothing, so it is killed after a while
        with pytest.raises(Unavailable, match="going down"):
            await text_of(run)


async def test_stop_while_loading_or_between_two_workers(tiny_model: Path) -> None:
    async with keeping(load_of(tiny_model)) as kept:
        await kept.keeper.stop()
        assert kept.lane.state == "stopped"
    async with keeping(load_of(tiny_model)) as kept:
        await kept.ready()
        kept.signal(signal.SIGKILL)
        await soon(lambda: kept.lane.state == "restarting", "the death")
        await kept.keeper.stop()
        assert kept.lane.state == "stopped"
        assert workers() == []


@pytest.mark.parametrize(
    ("changes", "same_process"),
    [
        ({"context": 400, "concurrency": 2}, True),
        ({"context": 400, "concurrency": 2, "batch": 64, "kv_layout": "unified"}, True),
        ({"context": 400, "concurrency": 2, "inter_token_ms": 50}, False),
    ],
)
async def test_other_settings_take_effect_while_requests_run(
    tiny_model: Path, changes: dict[str, Any], same_process: bool
) -> None:
    load = load_of(tiny_model)
    prompts = [f"story number {n}" for n in range(CONCURRENCY)]
    async with keeping(load) as kept:
        undisturbed = [await text_of(await kept.submit(prompt, 300)) for prompt in prompts]
        runs = [await kept.submit(prompt, 300) for prompt in prompts]
        await soon(lambda: all(run.produced for run in runs), "a token of each")
        before = kept.worker
        identity = kept.lane.identity
        await kept.keeper.replace(structs.replace(load, **changes))
        assert (kept.lane.state, kept.lane.context, kept.lane.concurrency) == ("ready", 400, 2)
        assert before.is_running() is same_process
        assert kept.lane.identity != identity
        assert [await text_of(run) for run in runs] == undisturbed
        assert {run.record.weight for run in runs} == {0}
        assert kept.times_loaded == 2 - same_process


async def test_sizes_that_cannot_be_had_change_nothing(tiny_model: Path) -> None:
    load = load_of(tiny_model)
    async with keeping(load) as kept:
        run = await kept.submit("story", 400)
        await soon(lambda: bool(run.produced), "a token")
        before = kept.worker
        with pytest.raises(RayhostError, match="cannot be had"):
            await kept.keeper.replace(structs.replace(load, context=8, concurrency=300))
        assert (kept.lane.state, kept.lane.concurrency) == ("ready", CONCURRENCY)
        await text_of(run)
        assert (run.finish.completion_tokens, before.is_running()) == (400, True)


async def test_a_worker_that_dies_while_it_is_resized_comes_back_as_it_was(
    tiny_model: Path,
) -> None:
    load = load_of(tiny_model)
    async with keeping(load) as kept:
        run = await kept.submit("story", 400)
        await soon(lambda: bool(run.produced), "a token")
        kept.signal(signal.SIGSTOP)
        resizing = asyncio.create_task(kept.keeper.replace(structs.replace(load, context=256)))
        await asyncio.sleep(0)  # it is asked
        kept.signal(signal.SIGKILL)
        with pytest.raises(RayhostError, match="died while it was resized"):
            await resizing
        await text_of(run)
        assert (run.finish.completion_tokens, kept.lane.context) == (400, load.context)


async def test_a_death_while_resized_is_blamed_on_no_request(tiny_model: Path) -> None:
    load = load_of(tiny_model)
    async with keeping(load) as kept:
        run = await kept.submit("story", 400)
        await soon(lambda: bool(run.produced), "a token")
        kept.signal(signal.SIGSTOP)
        resizing = asyncio.create_task(kept.keeper.replace(structs.replace(load, context=256)))
        await asyncio.sleep(0)  # it is asked
        kept.signal(signal.SIGHUP)  # no kill, so a crash
        kept.signal(signal.SIGCONT)
        with pytest.raises(RayhostError, match="died while it was resized"):
            await resizing
        assert (run.record.weight, run.record.crashes) == (0, 0)


async def test_sizes_that_no_new_worker_can_begin_with_give_way_to_those_it_could(
    tiny_model: Path,
) -> None:
    load = structs.replace(load_of(tiny_model), preload=(PRELOAD,), snapshot_bytes=1 << 22)
    async with keeping(load) as kept:
        await kept.ready()
        await kept.keeper.unload()
        with capture_logs() as lines:
            kept.keeper.wake(lambda load: structs.replace(load, context=64))
            await kept.ready()
        assert kept.keeper.load == load
        assert kept.lane.context == load.context
        assert "back to the settings before" in [line["event"] for line in lines]


async def test_a_context_that_the_preload_fills_is_refused_and_the_model_lives_on(
    tiny_model: Path,
) -> None:
    load = structs.replace(load_of(tiny_model), preload=(PRELOAD,), snapshot_bytes=1 << 22)
    async with keeping(load) as kept:
        await kept.ready()
        with pytest.raises(RayhostError, match="cannot be had: preload prompt 1 has"):
            await kept.keeper.replace(structs.replace(load, context=64))
        kept.signal(signal.SIGKILL)
        await soon(lambda: kept.lane.state == "restarting", "the death")
        await kept.ready()
        assert kept.lane.context == load.context


async def test_a_worker_that_was_told_to_end_makes_nothing_ready(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[End] = []

    def create_and_tell(generation: int) -> tuple[End, ChildFds]:
        end, child = create(generation)
        ends.append(end)
        return end, child

    monkeypatch.setattr(keeper_module, "create", create_and_tell)
    load = load_of(tiny_model)
    other = structs.replace(load, context=256, inter_token_ms=50)
    async with keeping(load) as kept:
        assert select.select([ends[0].receiver.data_fd], [], [], 30)[0]  # the loop cannot read it
        await kept.keeper.replace(other)
        assert (kept.lane.context, kept.keeper.load) == (256, other)
        assert kept.times_loaded == 1


async def test_a_reload_beside_a_resize_keeps_its_sizes(tiny_model: Path) -> None:
    load = load_of(tiny_model)
    async with keeping(load) as kept:
        await kept.ready()
        first = kept.worker
        await asyncio.gather(
            kept.keeper.replace(structs.replace(load, context=256)), kept.keeper.reload()
        )
        assert (kept.lane.state, kept.lane.context) == ("ready", 256)
        assert not first.is_running()


async def test_a_run_that_the_new_context_cannot_hold_ends_with_length(tiny_model: Path) -> None:
    load = load_of(tiny_model)
    async with keeping(load) as kept:
        run = await kept.submit("story", 450)
        await soon(lambda: len(run.produced) > 64, "more than fits then")
        await kept.keeper.replace(structs.replace(load, context=64))
        text = await text_of(run)
        assert (run.finish.reason, text != "") == ("length", True)


@pytest.mark.parametrize("how", ["refused", "dies"])
async def test_settings_that_do_not_load_give_way_to_those_before(
    tiny_model: Path, tmp_path: Path, how: str
) -> None:
    load = load_of(tiny_model)
    if how == "refused":
        other = structs.replace(load, path=str(write_broken_gguf(tmp_path / "x.gguf")))
    else:
        other = structs.replace(load, cpus=(4095,))  # cannot be pinned there
    async with keeping(load) as kept:
        await kept.ready()
        run = await kept.submit("story", 400)
        with pytest.raises(RayhostError, match="do not load"):
            await kept.keeper.replace(other)
        await kept.ready()
        await text_of(run)
        assert run.finish.completion_tokens == 400


async def test_a_worker_is_replaced_while_it_loads_and_between_two(tiny_model: Path) -> None:
    load = load_of(tiny_model)
    async with keeping(load) as kept:
        await kept.keeper.replace(structs.replace(load, context=256))
        assert kept.lane.context == 256
        kept.signal(signal.SIGKILL)
        await soon(lambda: kept.lane.state == "restarting", "the death")
        await asyncio.gather(
            kept.keeper.replace(structs.replace(load, context=320)),
            kept.keeper.replace(structs.replace(load, context=384)),
        )
        assert (kept.lane.state, kept.lane.context) == ("ready", 384)
        assert len(workers()) == 1


async def test_nothing_is_replaced_where_nothing_can_run(tiny_model: Path) -> None:
    load = load_of(tiny_model)
    async with keeping(RayhostError("no such file")) as kept:
        with pytest.raises(RayhostError, match="failed"):
            await kept.keeper.replace(load)
    async with keeping(load) as kept:
        replacing = asyncio.create_task(kept.keeper.replace(load))
        await asyncio.sleep(0)
        await kept.keeper.stop()
        with pytest.raises(RayhostError, match="going down"):
            await replacing
        with pytest.raises(RayhostError, match="stopped"):
            await kept.keeper.replace(load)


async def test_an_unloaded_model_has_no_process_and_is_not_ill(tiny_model: Path) -> None:
    async with keeping(load_of(tiny_model)) as kept:
        await kept.ready()
        await kept.keeper.unload()
        assert (kept.lane.state, kept.keeper.health().ok, workers()) == ("unloaded", True, [])
        await kept.keeper.unload()  # harmless


async def test_who_asks_for_an_unloaded_model_waits_until_it_is_woken(tiny_model: Path) -> None:
    async with keeping(load_of(tiny_model)) as kept:
        await kept.ready()
        await kept.keeper.unload()
        wanted = asyncio.Event()
        kept.lane.on_wanted = wanted.set
        asking = asyncio.create_task(kept.submit("story", tokens=3))
        await asyncio.wait_for(wanted.wait(), 10)
        kept.keeper.wake(lambda load: structs.replace(load, concurrency=2))
        run = await asking
        await text_of(run)
        assert run.finish.completion_tokens == 3
        assert kept.lane.concurrency == 2
        kept.keeper.wake(lambda load: load)  # one that runs stays as it is
        assert len(workers()) == 1


async def test_an_unloaded_model_that_is_restarted_is_loaded(tiny_model: Path) -> None:
    async with keeping(load_of(tiny_model)) as kept:
        await kept.ready()
        await kept.keeper.unload()
        await kept.keeper.reload()
        assert kept.lane.state == "ready"


async def test_a_resize_builds_on_the_settings_that_hold_by_then(tiny_model: Path) -> None:
    async with keeping(load_of(tiny_model)) as kept:
        await kept.ready()
        pid = kept.worker.pid
        first = kept.keeper.resize(lambda load: structs.replace(load, concurrency=2))
        second = kept.keeper.resize(lambda load: structs.replace(load, threads=2))
        await asyncio.gather(first, second, kept.keeper.resize(lambda load: load))
        load = kept.keeper.load
        assert not isinstance(load, RayhostError)
        assert (load.concurrency, load.threads, kept.lane.concurrency) == (2, 2, 2)
        assert (kept.worker.pid, kept.keeper.pid) == (pid, pid)
