"""The text thread: prompts become token ids here, beside the step thread and never in its way.

Tokenizing releases the GIL; a template or a long prompt delays only other prompts.
"""

import queue

from rayhost.engine.base import Codec, PromptError
from rayhost.ipc.messages import Message, Prepare, Prepared, Rejected, pack_tokens
from rayhost.worker.outbox import Outbox

PrepareQueue = queue.SimpleQueue[tuple[int, Prepare]]


def prepare_forever(codec: Codec, inbox: PrepareQueue, outbox: Outbox) -> None:
    """Answer every Prepare with Prepared or Rejected. Runs until the process ends."""
    while True:
        request_id, prepare = inbox.get()
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
