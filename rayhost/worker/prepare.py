"""The text thread: prompts become token ids here, beside the step thread and never in its way.

Tokenizing releases the GIL; a template or a long prompt delays only other prompts. A prompt whose
answer is constrained is told once the constraint is compiled, which delays only others like it.
"""

import queue
from functools import partial

import structlog

from rayhost.engine.base import Codec, PromptError
from rayhost.engine.grammar import GrammarError
from rayhost.engine.tools import fault
from rayhost.ipc.messages import (
    Compiling,
    Convert,
    Message,
    Prepare,
    Prepared,
    Rejected,
    pack_tokens,
)
from rayhost.worker.constraints import Constraints, Outcome, rejected
from rayhost.worker.convert import convert
from rayhost.worker.outbox import Outbox

_log = structlog.get_logger("rayhost.worker")


class Prompts:
    """Prompts between the thread that reads messages and the text thread, in order of arrival.

    A prompt that was dropped before its turn costs nothing: a client that sends long ones and
    leaves keeps nobody waiting.
    """

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[tuple[int, Prepare | Convert]] = queue.SimpleQueue()
        self._wanted: set[int] = set()

    def put(self, request_id: int, prepare: Prepare | Convert) -> None:
        """Queue a prompt."""
        self._wanted.add(request_id)
        self._queue.put((request_id, prepare))

    def drop(self, request_id: int) -> bool:
        """Forget a prompt. Return False for an id that does not wait here."""
        waits = request_id in self._wanted
        self._wanted.discard(request_id)
        return waits

    def take(self) -> tuple[int, Prepare | Convert]:
        """Return the next prompt that is still wanted; sleeps until there is one."""
        while True:
            request_id, prepare = self._queue.get()
            if self.drop(request_id):
                return request_id, prepare


def prepare_forever(
    codec: Codec, prompts: Prompts, outbox: Outbox, constraints: Constraints
) -> None:
    """Answer every Prepare and every Convert. Runs until the process ends."""
    while True:
        request_id, asked = prompts.take()
        told = made_of(codec, asked)
        if not isinstance(told, Prepared) or told.constraint is None:
            _tell(outbox, request_id, told)
        elif outcome := constraints.get(told.constraint):
            _tell(outbox, request_id, checked(told, outcome))
        else:
            _tell(outbox, request_id, Compiling())
            tell = partial(_tell_checked, outbox, request_id, told)
            constraints.compile(request_id, told.constraint, tell)


def made_of(codec: Codec, asked: Prepare | Convert) -> Message:
    """Return what becomes of a prompt or a question, whatever JSON a client put into it.

    What nobody foresaw is logged, and costs its own request: not the worker, under everybody else.
    """
    try:
        return convert(codec, asked) if isinstance(asked, Convert) else answer(codec, asked)
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
        _log.exception("prompt failed")
        return Rejected("the prompt could not be read: its shape was not foreseen", "prompt_failed")


def _tell_checked(outbox: Outbox, request_id: int, told: Prepared, outcome: Outcome) -> None:
    _tell(outbox, request_id, checked(told, outcome))


def _tell(outbox: Outbox, request_id: int, message: Message) -> None:
    outbox.send(request_id, message)
    outbox.flush_all()  # a long prompt's tokens may be larger than the ring


def checked(told: Prepared, outcome: Outcome) -> Message:
    """Return what is told of a prompt whose constraint has come to `outcome`."""
    if not isinstance(outcome, GrammarError):
        return told
    if told.tool_syntax and told.constraint is not None:
        return fault(told.constraint.source, str(outcome))
    return rejected(outcome)


def answer(codec: Codec, prepare: Prepare) -> Message:
    """Return the prompt's tokens, or why there are none."""
    param = "prompt" if prepare.messages is None else "messages"
    constraint, syntax = prepare.constraint, ""
    try:
        if prepare.messages is not None:
            tools = prepare.tools if prepare.tools and prepare.tools.choice != "none" else None
            tokens = codec.chat(prepare.messages, tools, prepare.continue_final, prepare.options)
            if tools is not None:
                param = "tools"
                constraint, syntax = codec.calls(tools, constraint)
        elif prepare.document is not None:
            tokens = codec.pair(prepare.text or "", prepare.document)
        elif prepare.suffix is not None:
            param = "suffix"
            tokens = codec.fill(prepare.text or "", prepare.suffix)
        else:
            tokens = codec.text(prepare.text or "")
    except PromptError as error:
        return Rejected(str(error), error.code, param)
    return Prepared(pack_tokens(tokens), constraint, syntax)
