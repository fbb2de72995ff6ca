"""The form of a Responses answer: a `response` object, or the events that build it.

Pure, as every `Answer`. The order and the fields of the events are those that OpenAI's own clients
rebuild the object from; every event has the next sequence number.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from rayhost.clock import unix_seconds
from rayhost.errors import ApiError
from rayhost.front.request import Finish, Recalled, Run
from rayhost.http import sse
from rayhost.http.answer import Ask, own_id, usage_of
from rayhost.http.blocks import Block, BlocksAnswer
from rayhost.http.envelope import envelope
from rayhost.ipc.messages import TokenLogprob

Status = Literal["in_progress", "completed", "incomplete", "failed"]

# The codes that OpenAI documents for a response that failed; what else there is, is the server's.
_FAILURES = {400: "invalid_prompt", 429: "rate_limit_exceeded"}


class ResponsesAnswer(BlocksAnswer):
    """Items of a `response`: messages and function calls."""

    def __init__(self, ask: Ask, run: Run | Recalled) -> None:
        super().__init__(ask, run)
        self._own_id = own_id(ask.request.id)
        self._echo: Mapping[str, Any] = ask.echo
        self._created = int(unix_seconds())
        self._number = 0

    def opening(self) -> bytes:
        """Return the events before the first item."""
        response = self._response("in_progress")
        return self._event("response.created", response=response) + self._event(
            "response.in_progress", response=response
        )

    def closing(self, finishes: Sequence[Finish]) -> bytes:
        """Return the event that has the whole answer."""
        reply = self._reply(finishes[0])
        return self._event(f"response.{reply['status']}", response=reply)

    def failed(self, error: ApiError) -> bytes:
        """Return the events of an answer that cannot be carried on.

        Clients that build the response look for the first, plain readers of a stream for the
        second: the official ones raise what its `error` says.
        """
        response = self._response("failed")
        code = _FAILURES.get(error.status, "server_error")
        response["error"] = {"code": code, "message": error.message}
        told = envelope(error)
        about = {"code": error.code, "message": error.message, "param": error.param}
        return self._event("response.failed", response=response) + self._event(
            "error", **about, **told
        )

    def _reply(self, finish: Finish) -> dict[str, Any]:
        whole = finish.reason == "stop"
        response = self._response("completed" if whole else "incomplete")
        if whole:
            response["completed_at"] = int(unix_seconds())
        else:
            response["incomplete_details"] = {"reason": "max_output_tokens"}
        usage = usage_of([finish], 1)
        response["usage"] = {
            "input_tokens": usage.prompt,
            "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": 0},
            "output_tokens": usage.completion,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage.prompt + usage.completion,
        }
        return response

    def _begun(self, block: Block) -> bytes:
        item = self._item(block, "in_progress")
        if block.name is not None:
            return self._event("response.output_item.added", output_index=block.index, item=item)
        empty = {**item, "content": []}
        return self._event(
            "response.output_item.added", output_index=block.index, item=empty
        ) + self._event("response.content_part.added", **self._place(block), part=_part(block))

    def _grown(self, block: Block, new: str, logprobs: Sequence[TokenLogprob]) -> bytes:
        if block.name is not None:
            return self._event(
                "response.function_call_arguments.delta", **self._place(block), delta=new
            )
        return self._event(
            "response.output_text.delta",
            **self._place(block),
            delta=new,
            logprobs=[_logprob(one) for one in logprobs],
        )

    def _done(self, block: Block) -> bytes:
        place = self._place(block)
        if block.name is not None:
            called = {"name": block.name, "arguments": block.text}
            events = self._event("response.function_call_arguments.done", **place, **called)
        else:
            part = _part(block)
            text = {"text": part["text"], "logprobs": part["logprobs"]}
            events = self._event("response.output_text.done", **place, **text)
            events += self._event("response.content_part.done", **place, part=part)
        item = self._item(block, "incomplete" if block.cut else "completed")
        return events + self._event(
            "response.output_item.done", output_index=block.index, item=item
        )

    def _place(self, block: Block) -> dict[str, Any]:
        place = {"item_id": self._item_id(block), "output_index": block.index}
        return place if block.name is not None else {**place, "content_index": 0}

    def _item_id(self, block: Block) -> str:
        return f"{'msg' if block.name is None else 'fc'}_{self._own_id}_{block.index}"

    def _item(self, block: Block, status: Status) -> dict[str, Any]:
        head = {"id": self._item_id(block), "status": status}
        if block.name is None:
            return {**head, "type": "message", "role": "assistant", "content": [_part(block)]}
        call_id = f"call_{self._own_id}_{block.call}"
        return {
            **head,
            "type": "function_call",
            "call_id": call_id,
            "name": block.name,
            "arguments": block.text,
        }

    def _response(self, status: Status) -> dict[str, Any]:
        return {
            "id": f"resp_{self._own_id}",
            "object": "response",
            "created_at": self._created,
            "status": status,
            "background": False,
            "completed_at": None,
            "error": None,
            "incomplete_details": None,
            "model": self._model,
            "output": [
                self._item(block, "incomplete" if block.cut or block is self._open else "completed")
                for block in self._blocks
            ],
            "previous_response_id": None,
            "usage": None,
            **self._echo,
        }

    def _event(self, kind: str, **fields: Any) -> bytes:
        payload = {"type": kind, "sequence_number": self._number, **fields}
        self._number += 1
        return sse.named(kind, payload)


def _part(block: Block) -> dict[str, Any]:
    return {
        "type": "output_text",
        "text": block.text,
        "annotations": [],
        "logprobs": [_logprob(one) for one in block.logprobs],
    }


def _logprob(one: TokenLogprob) -> dict[str, Any]:
    top = [_token(likely.piece, likely.logprob) for likely in one.top]
    return {**_token(one.piece, one.logprob), "top_logprobs": top}


def _token(piece: bytes, logprob: float) -> dict[str, Any]:
    text = piece.decode(errors="replace")
    return {"token": text, "bytes": list(piece), "logprob": logprob}
