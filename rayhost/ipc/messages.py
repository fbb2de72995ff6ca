"""Typed messages between the front and a worker: what a frame's payload means, by frame kind.

The frame header carries the kind and the request id; the payload is the msgpack of one struct
below (array-like, so field order is the wire format: append, never reorder). Both ends run the
same code, so there is no version negotiation. Token ids travel as raw little-endian int32.
"""

import array
from enum import IntEnum
from typing import Any, Literal

import msgspec


class Kind(IntEnum):
    """Frame kinds. Below 32 the front speaks, from 32 the worker."""

    LOAD = 1
    PREPARE = 2
    START = 3
    CANCEL = 4
    STOP = 5
    READY = 32
    LOAD_FAILED = 33
    PREPARED = 34
    REJECTED = 35
    TOKENS = 36
    FINISHED = 37


class Message(msgspec.Struct, frozen=True, array_like=True):
    """Base of every payload."""


class Load(Message, frozen=True):
    """Load this model; the first message of an incarnation. Sizes are in tokens."""

    name: str
    path: str
    context: int  # per sequence
    concurrency: int  # sequences decoded together
    batch: int  # upper bound of tokens in one step
    threads: int
    cpus: tuple[int, ...]
    kv_type: Literal["f16", "q8_0"]
    kv_layout: Literal["split", "unified"]
    inter_token_ms: int  # step time to stay under while anything is decoding
    log_format: Literal["json", "console"]
    ubatch: int = 512  # most tokens that the compute graph takes at once; at most `batch` counts
    flash_attention: bool = True
    outputs: int = 0  # most logits rows of one step; 0: one for each sequence
    snapshot_bytes: int = 0  # room in RAM for KV cells of past requests
    snapshot_dir: str = ""  # where the most used of them outlive the worker; empty: nowhere
    snapshot_dir_bytes: int = 0
    preload: tuple[str, ...] = ()  # system prompts (text, without a chat template) held ready


class Prepare(Message, frozen=True):
    """Turn a prompt into token ids. Exactly one of the two is set."""

    messages: tuple[dict[str, Any], ...] | None
    text: str | None


class Sampling(Message, frozen=True):
    """How the next token is chosen. `temperature` 0 is greedy; `top_k` 0 and `top_p` 1 are off."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repeat_penalty: float = 1.0
    seed: int = 0  # 64 bits; the front draws one where the client gave none


class Start(Message, frozen=True):
    """Generate. `tokens` is the prompt and, when a run is resumed, what it produced so far."""

    tokens: bytes  # int32 little-endian
    n_prompt: int  # how many of them are the prompt
    max_tokens: int  # generated tokens in total, resumed ones included
    sampling: Sampling
    stop: tuple[str, ...]


class Cancel(Message, frozen=True):
    """Forget this request: frees its sequence before the next step. Unknown ids are ignored."""


class Stop(Message, frozen=True):
    """End the process. The front has drained what it wanted drained."""


class Ready(Message, frozen=True):
    """The model is loaded and the first step would run now."""

    architecture: str
    quantization: str
    parameters: int
    size_bytes: int
    context: int  # per sequence, as granted
    train_context: int
    vocabulary: int
    chat: bool  # has a chat template
    load_ms: float


class LoadFailed(Message, frozen=True):
    """The model cannot be loaded; trying again with the same file cannot help."""

    reason: str


class Prepared(Message, frozen=True):
    """The prompt's token ids."""

    tokens: bytes  # int32 little-endian


class Rejected(Message, frozen=True):
    """A prompt that cannot be turned into tokens, or a run that cannot start: a client's error."""

    message: str
    code: str
    param: str | None = None


class Tokens(Message, frozen=True):
    """What one step added to one run: ids for the front's record, text for the client.

    `text` is whole UTF-8 characters that can no longer become part of a stop string; it may be
    empty while bytes are held back, and may hold text of earlier ids.
    """

    ids: tuple[int, ...]
    text: str


class Finished(Message, frozen=True):
    """The run's last message. Times are CLOCK_MONOTONIC ns, comparable between processes."""

    reason: Literal["stop", "length"]
    n_prompt: int
    n_generated: int
    started_ns: int  # first step that computed any of it
    first_token_ns: int
    finished_ns: int
    n_reused: int = 0  # tokens of the prompt that were not computed for this run


PAYLOAD: dict[Kind, type[Message]] = {
    Kind.LOAD: Load,
    Kind.PREPARE: Prepare,
    Kind.START: Start,
    Kind.CANCEL: Cancel,
    Kind.STOP: Stop,
    Kind.READY: Ready,
    Kind.LOAD_FAILED: LoadFailed,
    Kind.PREPARED: Prepared,
    Kind.REJECTED: Rejected,
    Kind.TOKENS: Tokens,
    Kind.FINISHED: Finished,
}
KIND = {payload: kind for kind, payload in PAYLOAD.items()}

_encode = msgspec.msgpack.Encoder().encode
_decoders = {kind: msgspec.msgpack.Decoder(payload) for kind, payload in PAYLOAD.items()}


def encode(message: Message) -> tuple[Kind, bytes]:
    """Return the frame kind and the payload of a message."""
    return KIND[type(message)], _encode(message)


def decode(kind: int, payload: bytes) -> Message:
    """Return the message in a frame.

    Raises ValueError for an unknown kind and msgspec.DecodeError for a payload of another shape;
    either condemns the peer, as frames are checksummed before they come here.
    """
    return _decoders[Kind(kind)].decode(payload)


def pack_tokens(ids: list[int]) -> bytes:
    """Token ids as the wire's int32 (both ends share one machine, so native order is the order)."""
    return array.array("i", ids).tobytes()


def unpack_tokens(raw: bytes) -> list[int]:
    """The inverse of `pack_tokens`."""
    ids = array.array("i")
    ids.frombytes(raw)
    return ids.tolist()
