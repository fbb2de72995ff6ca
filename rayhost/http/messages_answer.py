"""The form of Anthropic's answers: a `message`, or the events that build it. Pure."""

from collections.abc import Sequence
from typing import Any

import msgspec
import orjson

from rayhost.errors import ApiError
from rayhost.front.request import Finish, Recalled, Run
from rayhost.http import sse
from rayhost.http.answer import Ask, own_id
from rayhost.http.blocks import Block, BlocksAnswer
from rayhost.http.messages_errors import messages_envelope
from rayhost.ipc.messages import TokenLogprob

# Of an object: a call's arguments. The values in it are looked at, not made.
_check = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_PING = sse.named("ping", {"type": "ping"})


class MessagesAnswer(BlocksAnswer):
    """Content blocks of a `message`: `text` and `tool_use`."""

    def __init__(self, ask: Ask, run: Run | Recalled) -> None:
        super().__init__(ask, run)
        self._request_id = ask.request.id
        self._own_id = own_id(ask.request.id)
        self._max_tokens = ask.request.max_tokens
        self._prompt_tokens = (
            run.finish.prompt_tokens if isinstance(run, Recalled) else run.prompt_tokens
        )

    def opening(self) -> bytes:
        """Return the event before the first block. How much was cached is not known yet."""
        usage = _usage(Finish("stop", self._prompt_tokens, 0))
        message = {**self._message(), "stop_reason": None, "stop_sequence": None, "usage": usage}
        return _event("message_start", message=message)

    def alive(self, comment: bytes) -> bytes:
        """Return the comment, and the event that Anthropic's clients know for it."""
        return comment + _PING

    def closing(self, finishes: Sequence[Finish]) -> bytes:
        """Return the events after the last block."""
        (finish,) = finishes
        delta = _event("message_delta", delta=self._stop(finish), usage=_usage(finish))
        return delta + _event("message_stop")

    def failed(self, error: ApiError) -> bytes:
        """Return the event of an answer that cannot be carried on."""
        return sse.named("error", messages_envelope(error, self._request_id))

    def _begun(self, block: Block) -> bytes:
        return _event(
            "content_block_start", index=block.index, content_block=self._content(block, {})
        )

    def _grown(self, block: Block, new: str, _logprobs: Sequence[TokenLogprob]) -> bytes:
        if block.name is None:
            delta = {"type": "text_delta", "text": new}
        else:
            delta = {"type": "input_json_delta", "partial_json": new}
        return _event("content_block_delta", index=block.index, delta=delta)

    def _done(self, block: Block) -> bytes:
        return _event("content_block_stop", index=block.index)

    def _reply(self, finish: Finish) -> dict[str, Any]:
        content = [self._content(block, _input(block)) for block in self._blocks]
        message = {**self._message(), "content": content}
        return {**message, **self._stop(finish), "usage": _usage(finish)}

    def _message(self) -> dict[str, Any]:
        return {
            "id": f"msg_{self._own_id}",
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": [],
        }

    def _content(self, block: Block, given: object) -> dict[str, Any]:
        if block.name is None:
            return {"type": "text", "text": block.text}
        call_id = f"toolu_{self._own_id}_{block.call}"
        return {"type": "tool_use", "id": call_id, "name": block.name, "input": given}

    def _stop(self, finish: Finish) -> dict[str, Any]:
        return {
            "stop_reason": self._stop_reason(finish),
            "stop_sequence": finish.stop_sequence,
            "stop_details": None,
        }

    def _stop_reason(self, finish: Finish) -> str:
        if finish.reason == "length":
            used_up = self._max_tokens is None or finish.completion_tokens >= self._max_tokens
            return "max_tokens" if used_up else "model_context_window_exceeded"
        if finish.stop_sequence is not None:
            return "stop_sequence"
        return "tool_use" if self._has_calls else "end_turn"


def _input(block: Block) -> object:
    """Return a call's arguments; none of those that were cut short, as the stop reason says.

    They are the model's own JSON: numbers in it may be larger than an encoder takes.
    """
    if block.name is None:
        return {}
    raw = block.text.encode()
    try:
        _check(raw)
    except (msgspec.DecodeError, RecursionError):
        return {}
    return orjson.Fragment(raw)


def _usage(finish: Finish) -> dict[str, Any]:
    """Return the cost. What was cached is not counted among the input, as Anthropic counts."""
    return {
        "input_tokens": finish.prompt_tokens - finish.reused_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": finish.reused_tokens,
        "output_tokens": finish.completion_tokens,
    }


def _event(kind: str, **fields: Any) -> bytes:
    return sse.named(kind, {"type": kind, **fields})
