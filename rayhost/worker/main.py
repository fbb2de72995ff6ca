"""The worker process: attach, pin, load, then its threads.

The main thread steps the engine, the reader takes what the front sends, the text thread turns
prompts into tokens; with snapshots on disk one writes them and one reads them. Any of them failing
ends the process: the front replaces it and runs its requests again. The engine is imported only
here, and only once the process is on its own.
"""

import contextvars
import ctypes
import os
import queue
import select
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from rayhost import clock, logs, procfs
from rayhost.engine.base import Codec, Facts, LoadError
from rayhost.file_stamp import Stamp, stamp_of
from rayhost.ipc.channel import ChildFds, End, Receiver, attach
from rayhost.ipc.messages import (
    Cancel,
    Convert,
    Load,
    LoadFailed,
    Message,
    Prepare,
    Ready,
    decode,
)
from rayhost.worker import warm
from rayhost.worker.constraints import Compile, Constraints
from rayhost.worker.disk import Disk, Fetched
from rayhost.worker.embed_loop import EmbedLoop
from rayhost.worker.loop import StepLoop
from rayhost.worker.outbox import Outbox
from rayhost.worker.prepare import Prompts, prepare_forever
from rayhost.worker.snapshot_files import SnapshotFiles
from rayhost.worker.snapshots import Snapshots
from rayhost.worker.turns import Inbox

if TYPE_CHECKING:
    from rayhost.engine.codec import LlamaCodec

_PR_SET_PDEATHSIG = 1
_FRAMES_AT_ONCE = 256
_OOM_SCORE = 500  # the kernel takes a worker, which can be rebuilt, before the front
_EXIT_SOFTWARE = 70  # sysexits.h EX_SOFTWARE
_SWITCH_S = 0.0005  # the step thread must not wait 5 ms for the GIL behind a template


def run(child_fds: str, parent_pid: int) -> None:
    """Serve one model until told to stop, or until the front dies. Does not return."""
    _live_and_die_with(parent_pid)
    end = attach(ChildFds.from_arg(child_fds))
    outbox = Outbox(end.sender)
    load = _await_load(end.receiver)
    logs.configure(load.log_format, model=load.name)
    sys.excepthook = _end_process
    try:
        _work(load, end, outbox)
    except LoadError as error:
        outbox.send(0, LoadFailed(str(error)))
        outbox.flush()
    # Daemon threads may be inside llama.cpp: leave without tearing the interpreter down.
    os._exit(0)


def _live_and_die_with(parent_pid: int) -> None:
    """Be killed when the front is, leave the terminal's and systemd's signals to the front."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it died before the line above
        os._exit(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    victim = Path("/proc/self/oom_score_adj")
    if int(victim.read_text()) < _OOM_SCORE:  # a container's may be higher: not ours to lower
        victim.write_text(str(_OOM_SCORE))
    sys.setswitchinterval(_SWITCH_S)


def _await_load(receiver: Receiver) -> Load:
    poll = select.poll()
    poll.register(receiver.data_fd, select.POLLIN)
    while True:
        poll.poll()
        for frame in receiver.receive(1):
            message = decode(frame.kind, frame.payload)
            if not isinstance(message, Load):
                raise TypeError(f"the first message was {type(message).__name__}, not Load")
            return message


def _work(load: Load, end: End, outbox: Outbox) -> None:
    # numpy has brought threads; those of the OpenMP pool inherit, so llama.cpp comes after it.
    procfs.pin(load.cpus)
    from rayhost.engine.native import open_model, task_of  # noqa: PLC0415 - see above

    began = clock.now_ns()
    stamp = stamp_of(load.path)
    model = open_model(load)
    if task_of(model) == "generate":
        _generate(load, model, began, end, outbox, stamp=stamp)
    else:
        _embed(load, model, began, end, outbox)


def _embed(load: Load, model: Any, began: int, end: End, outbox: Outbox) -> None:
    from rayhost.engine.embedding import LlamaEmbedder  # noqa: PLC0415 - after the pinning

    if load.preload:
        raise LoadError("preload: the model makes vectors, and keeps nothing of a prompt")
    if load.chat_template:
        raise LoadError("chat_template: the model makes vectors, and does not chat")
    embedder = LlamaEmbedder(load, model)
    _tell_ready(embedder.facts, (clock.now_ns() - began) / 1e6, outbox)
    constraints = Constraints(partial(_compiler, embedder.codec))
    EmbedLoop(
        embedder=embedder,
        inbox=_begin_threads(embedder.codec, end, outbox, constraints),
        out=outbox,
        status=end.status,
        resized=lambda _, took_ms: _tell_ready(embedder.facts, took_ms, outbox),
    ).run()


def _generate(
    load: Load, model: Any, began: int, end: End, outbox: Outbox, *, stamp: Stamp | None
) -> None:
    """`stamp` is of the file from before it was opened."""
    from rayhost.engine.llama import LlamaEngine  # noqa: PLC0415 - after the pinning

    engine = LlamaEngine(load, model)
    snapshots = Snapshots(load.snapshot_bytes, trims=engine.facts.trims)
    if stamp_of(load.path) != stamp:  # nobody knows which file it is: nothing of it may outlive it
        load = msgspec.structs.replace(load, snapshot_dir="")
        structlog.get_logger().warning("no snapshots on disk: the model file changed as it loaded")

    def files_of(load: Load) -> SnapshotFiles:
        key = f"{load.path} {stamp} {engine.state_key}"
        return SnapshotFiles(Path(load.snapshot_dir), load.snapshot_dir_bytes, key)

    files = files_of(load) if load.snapshot_dir else None
    preload = warm.prepare(engine, engine.codec, snapshots, files, load.preload)
    longest = max(map(len, preload), default=0)
    constraints = Constraints(partial(_compiler, engine.codec))
    steps = _begin_threads(engine.codec, end, outbox, constraints)

    def fetched(what: Fetched) -> None:
        steps.put((0, what))

    facts = engine.facts
    disk = Disk(files, snapshots, fetched, trims=facts.trims, longest=facts.context)
    limit = load.snapshot_dir_bytes
    saver = warm.Saver(files, snapshots, limit, saved=disk.relist) if files else None
    if saver:
        disk.start()
        saver.start()

    def resized(load: Load, took_ms: float) -> None:
        if saver:
            files = files_of(load)
            saver.rekey(files)
            disk.rekey(files, engine.facts.context)
        _tell_ready(engine.facts, took_ms, outbox, longest)

    loop = StepLoop(
        engine=engine,
        codec=engine.codec,
        inbox=steps,
        out=outbox,
        status=end.status,
        target_ns=load.inter_token_ms * 1_000_000,
        snapshots=snapshots,
        disk=disk,
        constraints=constraints,
        preload=preload,
        save=saver.beat if saver else _nothing,
        resized=resized,
    )
    if load.preload_first:
        loop.preload()
    _tell_ready(engine.facts, (clock.now_ns() - began) / 1e6, outbox, longest)
    loop.run()
    if saver:
        loop.keep_all()
        saver.close()


def _begin_threads(codec: Codec, end: End, outbox: Outbox, constraints: Constraints) -> Inbox:
    """Start the text thread and the reader; return what the latter has for the step thread."""
    steps: Inbox = queue.SimpleQueue()
    prompts = Prompts()
    context = contextvars.copy_context()  # the log's fixed fields, which other threads do not see
    threading.excepthook = lambda failure: context.copy().run(_end_process, *failure[:3])
    _thread("text", prepare_forever, codec, prompts, outbox, constraints)
    _thread("reader", _read_forever, end.receiver, steps, prompts, constraints)
    return steps


def _compiler(codec: "LlamaCodec") -> Compile:
    # With llguidance, 6 MB: only in workers that a grammar has come to.
    from rayhost.engine.grammar_compiler import Grammars, tokenizer_of  # noqa: PLC0415

    return Grammars(lambda: tokenizer_of(codec.words())).compile


def _nothing() -> None:
    """Save nothing."""


def _tell_ready(facts: Facts, load_ms: float, outbox: Outbox, preloaded: int = 0) -> None:
    ready = Ready(
        architecture=facts.architecture,
        quantization=facts.quantization,
        parameters=facts.parameters,
        size_bytes=facts.size_bytes,
        context=facts.context,
        train_context=facts.train_context,
        vocabulary=facts.vocabulary,
        chat=facts.chat,
        load_ms=load_ms,
        task=facts.task,
        dimensions=facts.dimensions,
        sliding_window=facts.sliding_window,
        tools=facts.tools,
        preloaded=preloaded,
    )
    outbox.send(0, ready)
    outbox.flush()


def _read_forever(
    receiver: Receiver, steps: Inbox, prompts: Prompts, constraints: Constraints
) -> None:
    poll = select.poll()
    poll.register(receiver.data_fd, select.POLLIN)
    while True:
        poll.poll()
        for kind, request_id, payload in receiver.receive(_FRAMES_AT_ONCE):
            deliver(request_id, decode(kind, payload), steps, prompts, constraints)


def deliver(
    request_id: int, message: Message, steps: Inbox, prompts: Prompts, constraints: Constraints
) -> None:
    """Take a message to the thread it is for."""
    if isinstance(message, Prepare | Convert):
        prompts.put(request_id, message)
        return
    if isinstance(message, Cancel):
        if prompts.drop(request_id):
            return
        constraints.drop(request_id)  # of a prompt, or of a run that the step thread knows too
    steps.put((request_id, message))


def _thread(name: str, target: Callable[..., None], *args: object) -> None:
    threading.Thread(target=target, args=args, name=name, daemon=True).start()


def _end_process(
    kind: type[BaseException], failure: BaseException | None, _trace: TracebackType | None
) -> None:
    structlog.get_logger().error(
        "worker failed", thread=threading.current_thread().name, exc_info=failure or kind()
    )
    os._exit(_EXIT_SOFTWARE)
