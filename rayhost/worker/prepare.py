"""The text thread: prompts become token ids here, beside the step thread and never in its way.

Tokenizing releases the GIL; a template or a long prompt delays only other prompts.
"""

import queue

from rayhost.engine.base import Codec, PromptError
from rayhost.ipc.messages import Message, Prepare, Prepared, Rejected, pack_tokens
from rayhost.worker.outbox import Outbox


class Prompts:
    """Prompts between the thread that reads messages and the text thread, in order of arrival.

    A prompt that was dropped before its turn costs nothing: a client that sends long ones and
    leaves keeps nobody waiting.
    """

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[tuple[int, Prepare]] = queue.SimpleQueue()
        self._wanted: set[int] = set()

    def put(self, request_id: int, prepare: Prepare) -> None:
        """Queue a prompt."""
        self._wanted.add(request_id)
        self._queue.put((request_id, prepare))

    def drop(self, request_id: int) -> bool:
        """Forget a prompt. Return False for an id that does not wait here."""
        waits = request_id in self._wanted
        self._wanted.discard(request_id)
        return waits

    def take(self) -> tuple[int, Prepare]:
        """Return the next prompt that is still wanted; sleeps until there is one."""
        while True:
            request_id, prepare = self._queue.get()
            if self.drop(request_id):
                return request_id, prepare


def prepare_forever(codec: Codec, prompts: Prompts, outbox: Outbox) -> None:
    """Answer every Prepare with Prepared or Rejected. Runs until the process ends."""
    while True:
        request_id, prepare = prompts.take()
        outbox.send(request_id, answer(codec, prepare))
        outbox.flush_all()  # a long prompt's tokens may be larger than the ring


def answer(codec: Codec, prepare: Prepare) -> Message:
    """Return the prompt's tokens, or why there are none."""
    param = "prompt" if prepare.messages is None else "messages"
    try:
        if prepare.messages is not None:
            tokens = codec.chat(prepare.messages)
        else:
            tokens = codec.text(prepare.text or "")
    except PromptError as error:
        return Rejected(str(error), error.code, param)
    return Prepared(pack_tokens(tokens))
