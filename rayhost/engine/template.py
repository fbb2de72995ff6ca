"""Chat templates: code from strangers, rendered by a child process (`engine.renderer`) in limits.

Invariant: whatever a template does, `render` returns or raises within seconds, and takes no more
than the child's memory, which is the kernel's first choice when there is none left. A child that
ends is replaced at the next rendering. For one thread: a prompt waits while another is rendered.

What a template finds: `messages`, `add_generation_prompt`, `bos_token`, `eos_token`, `tools` (None
or a list of `{"type": "function", "function": {...}}`), what `chat_template_kwargs` names, and the
functions `raise_exception` and `strftime_now`.
"""

import contextlib
import json
import secrets
import select
import subprocess
import sys
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from rayhost import clock
from rayhost.engine import renderer
from rayhost.engine.base import PromptError

MAX_S = 20  # until the child answers; it has less time of a CPU, which others may need too
_MAX_ANSWER = 64 << 20  # bytes
_LIMITS = renderer.Limits()


class ChatTemplate:
    """A template. `render` raises PromptError where it cannot be compiled or rendered."""

    def __init__(self, source: str, bos: str, eos: str, limits: renderer.Limits = _LIMITS) -> None:
        self.source = source
        self._limits = limits
        self._special = {"bos_token": bos, "eos_token": eos}
        self._child: _Child | None = None
        self._broken: tuple[str, str] | None = None  # why it does not compile

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        continue_final: bool = False,
        extra: Mapping[str, Any] | None = None,
    ) -> str:
        """Return the prompt text that asks for the assistant's next message.

        With `continue_final` the text ends in the middle of the last message, which goes on.
        `extra` are further variables.
        """
        if not continue_final:
            return self._text(messages, tools, extra, True)
        # What the template puts behind the last content is the end of the message: cut it off.
        mark = f"|{secrets.token_hex(16)}|"
        last = messages[-1]
        marked = [*messages[:-1], {**last, "content": last["content"] + mark}]
        text, found, _ = self._text(marked, tools, extra, False).partition(mark)
        if not found:
            raise PromptError(
                "the model's chat template does not print the last message as it is, so it cannot "
                "be continued",
                "chat_template_error",
            )
        return text

    def _text(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None,
        extra: Mapping[str, Any] | None,
        add_generation_prompt: bool,
    ) -> str:
        return self._ask(
            {
                **(extra or {}),
                **self._special,
                "messages": messages,
                "tools": tools,
                "add_generation_prompt": add_generation_prompt,
            }
        )

    def _ask(self, variables: Mapping[str, Any]) -> str:
        if self._broken is not None:
            raise PromptError(*self._broken)
        while True:
            child = None
            try:
                child = self._child = self._child or _Child(self.source, self._limits)
                answer = child.ask(variables)
                break
            except PromptError as refusal:
                self._broken = str(refusal), refusal.code
                raise
            except _Died as death:
                self._child = None
                if child and child.retired:
                    continue
                raise PromptError(
                    f"the model's chat template {death}: it may take {self._limits.cpu_s:g} s and "
                    f"{renderer.MAX_MEMORY >> 20} MiB",
                    "chat_template_limit",
                ) from death
        if isinstance(answer, str):
            return answer
        raise PromptError(*answer)


class _Died(Exception):
    """The child ended, or had to be ended; says of what."""


class _Child:
    """A renderer that has compiled the template. Raises PromptError when it cannot, and _Died."""

    def __init__(self, source: str, limits: renderer.Limits) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", renderer.__file__, *map(str, limits)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        # Also where nobody closes it; a worker that is killed closes the pipe, which does as well.
        self._end = weakref.finalize(self, _end, self._process)
        self._be_the_first_to_go()
        refusal = self.ask(source)
        if isinstance(refusal, tuple):
            self._end()
            raise PromptError(*refusal)

    @property
    def retired(self) -> bool:
        """True when it had ended because nobody asked for a while, before the question came."""
        return self._process.returncode == 0

    def ask(self, value: object) -> str | tuple[str, ...]:
        """Return the text, or why there is none and the error's code. Raises _Died."""
        give_up_ns = clock.now_ns() + MAX_S * 10**9
        stdin, stdout = _pipes(self._process)
        try:
            _write(stdin, renderer.pack(value))
            (size,) = renderer.SIZE.unpack(_read(stdout, renderer.SIZE.size, give_up_ns))
            if size > _MAX_ANSWER:
                raise _Died("answered out of turn")
            answer = json.loads(_read(stdout, size, give_up_ns))
        except _Died:
            self._end()
            raise
        except BrokenPipeError as error:
            self._end()
            raise _Died("took too much time or memory") from error
        return answer if isinstance(answer, str) else tuple(answer)

    def _be_the_first_to_go(self) -> None:
        with contextlib.suppress(OSError):  # it is gone already: the next line says so
            Path(f"/proc/{self._process.pid}/oom_score_adj").write_text("1000")


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    for pipe in _pipes(process):
        pipe.close()
    process.wait()


def _pipes(process: "subprocess.Popen[bytes]") -> tuple[IO[bytes], IO[bytes]]:
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("a renderer has pipes")
    return process.stdin, process.stdout


def _write(pipe: IO[bytes], raw: bytes) -> None:
    view = memoryview(raw)
    while view:
        view = view[pipe.write(view) :]


def _read(pipe: IO[bytes], size: int, give_up_ns: int) -> bytes:
    raw = bytearray()
    while len(raw) < size:
        wait_s = (give_up_ns - clock.now_ns()) / 1e9
        if wait_s <= 0 or not select.select([pipe], [], [], wait_s)[0]:
            raise _Died("took too long")
        part = pipe.read(size - len(raw))
        if not part:
            raise _Died("took too much time or memory")
        raw += part
    return bytes(raw)
