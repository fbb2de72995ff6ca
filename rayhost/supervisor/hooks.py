"""Commands of the operator's that are run when something happened, beside serving.

Invariant: a hook never delays or fails anything here. Each is a process group of its own that is
gone after its time-out or `stop`; one that fails leaves a log line with the end of what it said.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Sequence

import structlog

TIMEOUT_S = 60.0
_TAIL_BYTES = 2000
_CHUNK_BYTES = 65536

_log = structlog.get_logger("rayhost.hooks")


class Hooks:
    """Starts hooks and keeps them until they end. Lives in the event loop's thread."""

    def __init__(self, timeout_s: float = TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._running: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._processes: set[asyncio.subprocess.Process] = set()
        self._killed = False

    def fire(self, hook: str, argv: Sequence[str], *, model: str = "", url: str) -> None:
        """Run `argv`, if there is any, with the RAYHOST_* variables set; return at once.

        `model` is the one that it is about, empty for the whole host. One that still runs for the
        same model is not started a second time.
        """
        key = (hook, model)
        if not argv:
            return
        if key in self._running:
            _log.warning("hook still runs", hook=hook, model=model, command=argv[0])
            return
        env = {
            **os.environ,
            "RAYHOST_HOOK": hook,
            "RAYHOST_MODEL": model,
            "RAYHOST_URL": url,
            "RAYHOST_PID": str(os.getpid()),
        }
        task = asyncio.get_running_loop().create_task(self._run(hook, model, argv, env))
        self._running[key] = task
        task.add_done_callback(lambda _: self._running.pop(key))

    async def stop(self) -> None:
        """Kill what still runs; return when it is gone."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def kill(self) -> None:
        """Kill what still runs, and what is just being started; nobody waits for it."""
        self._killed = True
        for process in self._processes:
            _kill(process)

    async def _run(self, hook: str, model: str, argv: Sequence[str], env: dict[str, str]) -> None:
        log = _log.bind(hook=hook, model=model, command=argv[0])
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                env=env,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:  # ValueError: a NUL in an argument
            log.error("hook failed", reason=str(error))
            return
        said = bytearray()
        self._processes.add(process)
        if self._killed:
            _kill(process)
        try:
            async with asyncio.timeout(self._timeout_s):
                await _follow(process, said)
                status = await process.wait()
        except TimeoutError:
            reason = f"not done after {self._timeout_s:g} s: killed"
        else:
            reason = f"exit status {status}" if status else ""
        finally:
            _kill(process)
            await process.wait()
            self._processes.remove(process)
        if reason:
            log.error("hook failed", reason=reason, stderr=said.decode(errors="replace").strip())


async def _follow(process: asyncio.subprocess.Process, said: bytearray) -> None:
    """Keep the end of what the process says until it closes its stderr."""
    if process.stderr is not None:
        while chunk := await process.stderr.read(_CHUNK_BYTES):
            said += chunk
            del said[:-_TAIL_BYTES]


def _kill(process: asyncio.subprocess.Process) -> None:
    """Kill what is left of the group, also what the command started and left behind."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
