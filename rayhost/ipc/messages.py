"""Typed messages between the front and a worker: what a frame's payload means, by frame kind.

The frame header carries the kind and the request id; the payload is the msgpack of one struct
below (array-like, so field order is the wire format: append, never reorder). Both ends run the
same code, so there is no version negotiation. Token ids travel as raw little-endian int32.
"""

import array
from enum import IntEnum
from typing import Any, Literal

import msgspec

from rayhost.ipc.sampling import Sampling

# What a run does: produce tokens, turn its prompt into a vector, or rate a pair of texts.
Task = Literal["generate", "embed", "rank"]

# Who tells a model of tools: its own chat template, the host in words of its own, or nobody.
ToolSupport = Literal["native", "generic", ""]


class Kind(IntEnum):
    """Frame kinds. Below 32 the front speaks, from 32 the worker."""

    LOAD = 1
    PREPARE = 2
    START = 3
    CANCEL = 4
    STOP = 5
    RESIZE = 6
    CONVERT = 7
    READY = 32
    LOAD_FAILED = 33
    PREPARED = 34
    REJECTED = 35
    TOKENS = 36
    FINISHED = 37
    EMBEDDED = 38
    CONVERTED = 39
    COMPILING = 40


class Unexpected(Exception):
    """A message that its sender has no reason to send: it is not to be trusted any more."""


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
    chat_template: str = ""  # instead of the file's; empty: the file's
    stamp: tuple[int, ...] = ()  # of the file, so that another at the same path is another load
    preload_first: bool = False  # before it is ready; else beside requests, after each of them


# Of a Load, what a context is made with and keeps.
OF_A_CONTEXT = (
    "context",
    "concurrency",
    "batch",
    "ubatch",
    "outputs",
    "kv_type",
    "kv_layout",
    "flash_attention",
)


class Constraint(Message, frozen=True):
    """What the generated text must match.

    `source` is the schema's JSON, or the grammar; that of "calls" is made by `engine.tools`.
    """

    kind: Literal["json_schema", "json_object", "regex", "gbnf", "lark", "calls"]
    source: str


class Tools(Message, frozen=True):
    """The functions a model may call, and whether it must."""

    functions: tuple[dict[str, Any], ...]  # each `{"name", "description", "parameters"}`
    choice: Literal["auto", "required", "none"] = "auto"
    only: str = ""  # with "required": the name of the one to call; empty: any
    parallel: bool = True


class Prepare(Message, frozen=True):
    """Turn a prompt into token ids. Exactly one of the first two is set."""

    messages: tuple[dict[str, Any], ...] | None
    text: str | None
    tools: Tools | None = None
    continue_final: bool = False  # the last message is the assistant's, and goes on
    constraint: Constraint | None = None  # to be compiled, and refused here if it cannot be
    document: str | None = None  # to be ranked by how well it answers `text`
    suffix: str | None = None  # of the text: what is asked for stands between the two
    options: dict[str, Any] = {}  # further variables of the chat template


class Start(Message, frozen=True):
    """Generate. `tokens` is the prompt and, when a run is resumed, what it produced so far."""

    tokens: bytes  # int32 little-endian
    n_prompt: int  # how many of them are the prompt
    max_tokens: int  # generated tokens in total, resumed ones included
    sampling: Sampling
    stop: tuple[str, ...]
    constraint: Constraint | None = None
    logprobs: int = -1  # the likeliest tokens told with each one; -1: no log-probabilities
    mu: float | None = None  # mirostat's state after the last of the tokens; None: at its beginning
    embed: bool = False  # answer with the prompt's vector, and generate nothing
    outgrown: bool = False  # it has all that the context holds now: tell what is held back, and end
    priority: int = 1  # of those waiting and those computing their prompt, the lowest goes first
    begun: bool = False  # a worker told of its first step: what is found now is its own


class Resize(Message, frozen=True):
    """Take another context of the same model file, with the sizes and KV type of `load`.

    Answered with Ready, or with LoadFailed: then the worker goes on as it was.
    """

    load: Load


class Convert(Message, frozen=True):
    """Turn `text` into tokens, `tokens` into text, or messages into the text of a prompt.

    For whoever wants to know: nothing of it is run. Answered with Converted or Rejected.
    """

    to: Literal["tokens", "text", "prompt"]
    text: str = ""
    tokens: bytes = b""  # int32 little-endian
    messages: tuple[dict[str, Any], ...] = ()
    tools: Tools | None = None
    continue_final: bool = False
    add_special: bool = False  # the special tokens that the model wants in front
    parse_special: bool = True  # special tokens that are spelled out in the text are tokens
    pieces: bool = False  # what each token spells, too
    options: dict[str, Any] = {}  # further variables of the chat template


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
    task: Task = "generate"  # what runs of it do
    dimensions: int = 0  # numbers of a vector; 0: it makes none
    sliding_window: int = 0  # tokens that most layers look back; 0: all of them
    tools: ToolSupport = ""
    preloaded: int = 0  # tokens of the longest prompt that it holds ready


class LoadFailed(Message, frozen=True):
    """What was asked for cannot be loaded. Of a file that never was, trying again cannot help."""

    reason: str


class Prepared(Message, frozen=True):
    """The prompt's token ids."""

    tokens: bytes  # int32 little-endian
    constraint: Constraint | None = None  # the one asked for, or what the tools make of it
    tool_syntax: str = ""  # how the answer writes calls of tools; empty: it has none


class Compiling(Message, frozen=True):
    """The prompt's text is read, and its constraint is being compiled: Prepared or Rejected come.

    Meanwhile the text thread has its hands free for others.
    """


class Converted(Message, frozen=True):
    """What a Convert asked for."""

    text: str = ""
    tokens: bytes = b""  # int32 little-endian
    pieces: tuple[bytes, ...] = ()


class Rejected(Message, frozen=True):
    """A prompt that cannot be turned into tokens, or a run that cannot start: a client's error."""

    message: str
    code: str
    param: str | None = None


class Likely(Message, frozen=True):
    """A token that could come next. `piece` is its bytes, perhaps part of a character."""

    token: int
    piece: bytes
    logprob: float  # natural logarithm


class TokenLogprob(Message, frozen=True):
    """A token that came, and the `top` likeliest in its place, the likeliest first."""

    token: int
    piece: bytes
    logprob: float
    top: tuple[Likely, ...] = ()


class Tokens(Message, frozen=True):
    """What one step added to one run: ids for the front's record, text for the client.

    `text` is whole UTF-8 characters that can no longer become part of a stop string; it may be
    empty while bytes are held back, and may hold text of earlier ids. Where they were asked for,
    `logprobs` has one for each of the ids, and `settled` says of how many tokens of the answer,
    from its first, the text has begun by now. One with `n_reused` tells that of the run's
    first step, which may have computed no more than a part of the prompt, and nothing else.
    """

    ids: tuple[int, ...]
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    settled: int = 0
    mu: float | None = None  # mirostat's state, for a worker that carries the run on
    n_reused: int | None = None  # tokens of the prompt that were not computed for this run


class Finished(Message, frozen=True):
    """The run's last message. Times are CLOCK_MONOTONIC ns, comparable between processes."""

    reason: Literal["stop", "length"]
    n_prompt: int
    n_generated: int
    started_ns: int  # first step that computed any of it
    first_token_ns: int
    finished_ns: int
    stop_sequence: str | None = None  # the stop string that ended it


class Embedded(Message, frozen=True):
    """The only message of a run that embeds. Times as in `Finished`."""

    vector: bytes  # float32 little-endian; of a model that ranks, the scores
    started_ns: int
    finished_ns: int


PAYLOAD: dict[Kind, type[Message]] = {
    Kind.LOAD: Load,
    Kind.PREPARE: Prepare,
    Kind.START: Start,
    Kind.CANCEL: Cancel,
    Kind.STOP: Stop,
    Kind.RESIZE: Resize,
    Kind.CONVERT: Convert,
    Kind.READY: Ready,
    Kind.LOAD_FAILED: LoadFailed,
    Kind.PREPARED: Prepared,
    Kind.REJECTED: Rejected,
    Kind.TOKENS: Tokens,
    Kind.FINISHED: Finished,
    Kind.EMBEDDED: Embedded,
    Kind.CONVERTED: Converted,
    Kind.COMPILING: Compiling,
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
