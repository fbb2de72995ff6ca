"""What chat and text completions have in common: the parameters, their ranges, what they mean.

Pure: structs in, `Sampling` and plain values out, InvalidRequest for a value that is out of range.
"""

import secrets
from typing import Any, NamedTuple

import msgspec

from rayhost.errors import InvalidRequest
from rayhost.ipc.messages import Sampling

MAX_STOPS = 16
MAX_STOP_CHARACTERS = 1024  # matching costs the square of what a stop string holds back
INT32_MAX = 2**31 - 1


class StreamOptions(msgspec.Struct, frozen=True):
    """How a stream is written."""

    include_usage: bool | None = None


class GenerationBody(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of both endpoints. A default of None stands for "not given"."""

    model: str
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    stop: str | tuple[str, ...] = ()
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repeat_penalty: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    # Accepted because they ask for nothing that a single host could do or leave undone.
    user: str = ""
    metadata: dict[str, Any] = {}
    service_tier: str = ""

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a chunk that tells its cost."""
        return self.stream_options is not None and self.stream_options.include_usage is True


class Range(NamedTuple):
    """The values a number may have, both ends included unless `open_low`."""

    low: float
    high: float
    open_low: bool = False

    def allows(self, value: float) -> bool:
        """Return whether a value is one of them."""
        return self.low <= value <= self.high and not (self.open_low and value == self.low)

    def __str__(self) -> str:
        if self.open_low:
            return f"greater than {self.low} and at most {self.high}"
        return f"between {self.low} and {self.high}"


RANGES = {
    "temperature": Range(0, 2),
    "top_p": Range(0, 1, open_low=True),
    "top_k": Range(0, INT32_MAX),
    "min_p": Range(0, 1),
    "presence_penalty": Range(-2, 2),
    "frequency_penalty": Range(-2, 2),
    # Logits are divided by it, in 32 bits: a tiny one would make them infinite.
    "repeat_penalty": Range(0.01, 10),
    "repetition_penalty": Range(0.01, 10),
    "seed": Range(-(2**63), 2**63 - 1),
    "max_tokens": Range(1, INT32_MAX),
    "max_completion_tokens": Range(1, INT32_MAX),
}

# Parameters of both endpoints that ask for something not built yet.
UNSUPPORTED: dict[str, tuple[object, ...]] = {
    "n": (1,),
    "store": (False,),
    "logit_bias": ({},),
}


def check_values(body: GenerationBody) -> None:
    """Raise InvalidRequest for a number out of its range or a pair that contradicts itself."""
    for name, allowed in RANGES.items():
        value = getattr(body, name, None)
        if value is not None and not allowed.allows(value):
            raise InvalidRequest(f"{name}: must be {allowed}, not {shown(value)}", param=name)
    if body.stream_options is not None and not body.stream:
        raise InvalidRequest(
            "stream_options: only allowed with stream true", param="stream_options"
        )


def one_of_aliases(body: GenerationBody, preferred: str, alias: str) -> Any:
    """Return the value of a parameter with two names, None if neither is given.

    Raises InvalidRequest if both are, with different values.
    """
    first, second = getattr(body, preferred), getattr(body, alias)
    if first is not None and second is not None and first != second:
        raise InvalidRequest(
            f"{preferred}: contradicts {alias} ({shown(first)} and {shown(second)}); send one",
            param=preferred,
        )
    return second if first is None else first


def sampling_of(body: GenerationBody) -> Sampling:
    """Return the sampling parameters of a checked body; without a seed, draw one."""
    repeat_penalty = one_of_aliases(body, "repeat_penalty", "repetition_penalty")
    return Sampling(
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        min_p=body.min_p,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        repeat_penalty=1.0 if repeat_penalty is None else repeat_penalty,
        # The sampler wants 64 bits without a sign.
        seed=secrets.randbits(63) if body.seed is None else body.seed % 2**64,
    )


def stops_of(body: GenerationBody) -> tuple[str, ...]:
    """Return the stop strings. Raises InvalidRequest for too many, an empty or a long one."""
    stops = (body.stop,) if isinstance(body.stop, str) else body.stop
    if len(stops) > MAX_STOPS:
        raise InvalidRequest(
            f"stop: at most {MAX_STOPS} strings are allowed, not {len(stops)}", param="stop"
        )
    if "" in stops:
        raise InvalidRequest("stop: a stop string must not be empty", param="stop")
    longest = max(map(len, stops), default=0)
    if longest > MAX_STOP_CHARACTERS:
        raise InvalidRequest(
            f"stop: a stop string has at most {MAX_STOP_CHARACTERS} characters, not {longest}",
            param="stop",
        )
    return stops


def shown(value: object) -> str:
    """Return a value for a message, cut to a length that a client can read."""
    text = str(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
