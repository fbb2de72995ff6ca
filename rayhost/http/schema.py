"""What all that generate have in common: the parameters, their ranges, and refusals of values.

Pure: structs in, plain values out, InvalidRequest for a value that is out of range. How they become
a `Sampling` is in `sampling`.
"""

from collections.abc import Callable
from functools import cache
from operator import attrgetter
from typing import Any, NamedTuple

import msgspec

from rayhost.errors import InvalidRequest

MAX_CHOICES = 64  # of one request, all its prompts together
BREAKERS = ("\n", ":", '"', "*")  # of DRY, where none are given
MAX_STOPS = 16
MAX_STOP_CHARACTERS = 1024  # matching costs the square of what a stop string holds back
INT32_MAX = 2**31 - 1


class StreamOptions(msgspec.Struct, frozen=True):
    """How a stream is written."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class GenerationBody(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of every shape. A default of None stands for "not given"."""

    model: str
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repeat_penalty: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    logit_bias: dict[str, float] = {}
    # llama.cpp's, under its names. Of its defaults only that of `repeat_last_n` is not kept.
    repeat_last_n: int = -1
    typical_p: float = 1.0
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = 64
    dry_sequence_breakers: tuple[str, ...] = BREAKERS
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    ignore_eos: bool = False
    # Accepted because they ask for nothing that a single host could do or leave undone.
    user: str = ""
    safety_identifier: str = ""
    prompt_cache_key: str = ""
    metadata: dict[str, Any] = {}
    service_tier: str = ""

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a chunk that tells its cost."""
        return self.stream_options is not None and self.stream_options.include_usage is True


class StoppedBody(GenerationBody, frozen=True, kw_only=True):
    """A body with OpenAI's name of the texts before which the answer ends."""

    stop: str | tuple[str, ...] = ()


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
    "repeat_last_n": Range(-1, INT32_MAX),
    "typical_p": Range(0, 1, open_low=True),
    "dry_multiplier": Range(0, 100),
    "dry_base": Range(1, 100),
    "dry_allowed_length": Range(1, 1024),
    "dry_penalty_last_n": Range(-1, INT32_MAX),
    "xtc_probability": Range(0, 1),
    "xtc_threshold": Range(0, 1, open_low=True),
    "mirostat": Range(0, 2),
    "mirostat_tau": Range(0, 100),
    "mirostat_eta": Range(0, 1),
    "n": Range(1, 16),
    "best_of": Range(1, 16),
    "top_logprobs": Range(0, 20),
    "logprobs": Range(0, 5),  # of a completion; in a chat it is true or false
    "max_tokens": Range(1, INT32_MAX),
    "max_completion_tokens": Range(1, INT32_MAX),
    "max_output_tokens": Range(1, INT32_MAX),
}

# Parameters that ask for something that is not to be had, and the values that ask for nothing.
UNSUPPORTED: dict[str, tuple[object, ...]] = {
    "n": (1,),  # except where the answer has choices
    "store": (False,),
    "chat_template": (),  # the operator's to choose: it is code
}


def check_values(body: GenerationBody) -> None:
    """Raise InvalidRequest for a number out of its range or a pair that contradicts itself."""
    names, values_of, defaults = _bounded(type(body))
    for name, value, default in zip(names, values_of(body), defaults, strict=True):
        # Most are not given, which costs least to see so.
        if value is not default and not RANGES[name].allows(value):
            raise InvalidRequest(f"{name}: must be {RANGES[name]}, not {shown(value)}", param=name)
    if body.stream_options is not None and not body.stream:
        raise InvalidRequest(
            "stream_options: only allowed with stream true", param="stream_options"
        )


@cache
def _bounded(
    schema: type[GenerationBody],
) -> tuple[tuple[str, ...], Callable[[GenerationBody], tuple[Any, ...]], tuple[object, ...]]:
    """Return the names of a body's numbers that have a range, their values, and their defaults."""
    fields = [one for one in msgspec.structs.fields(schema) if one.name in RANGES]
    names = tuple(one.name for one in fields)
    return names, attrgetter(*names), tuple(one.default for one in fields)


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


def stops_of(body: StoppedBody) -> tuple[str, ...]:
    """Return the stop strings. Raises InvalidRequest for too many, an empty or a long one."""
    return checked_stops((body.stop,) if isinstance(body.stop, str) else body.stop, "stop")


def checked_stops(stops: tuple[str, ...], param: str) -> tuple[str, ...]:
    """Return stop strings as they are. Raises as `stops_of` does, naming `param`."""
    if len(stops) > MAX_STOPS:
        raise InvalidRequest(
            f"{param}: at most {MAX_STOPS} strings are allowed, not {len(stops)}", param=param
        )
    if "" in stops:
        raise InvalidRequest(f"{param}: a stop string must not be empty", param=param)
    longest = max(map(len, stops), default=0)
    if longest > MAX_STOP_CHARACTERS:
        raise InvalidRequest(
            f"{param}: a stop string has at most {MAX_STOP_CHARACTERS} characters, not {longest}",
            param=param,
        )
    return stops


def shown(value: object) -> str:
    """Return a value for a message, cut to a length that a client can read."""
    text = str(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
