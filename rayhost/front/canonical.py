"""The canonical key of a request: equal for two requests exactly when one answer serves both.

Invariant: whatever could change a byte of the answer is in the key, a field that is added to
`GenerateRequest` included, unless it is listed here as one that cannot, and the day, which a chat
template may tell the model. Pure but for that; used by `sharing`.
"""

import secrets
from operator import attrgetter

import msgspec
import xxhash

from rayhost import clock
from rayhost.front.request import ChatPrompt, GenerateRequest
from rayhost.ipc.sampling import Sampling

# Who asks, by which name, on what terms; sampling is in the key as `_choices` normalises it, the
# choice where the seed does not tell it apart.
UNCOUNTED = frozenset({"id", "model", "terms", "seeded", "choice", "reuse", "sampling"})

_counted = attrgetter(
    *(
        one.name
        for one in msgspec.structs.fields(GenerateRequest)
        if one.name not in UNCOUNTED and one.name not in ("prompt", "stop")
    ),
)
# Drawn, so that nobody can prepare two prompts with one key, to have the answer to theirs served to
# others. A key means nothing outside its process.
_SEED = secrets.randbits(64)
# Mappings in the order they came in: `http` makes its own of what has none, and templates print a
# schema, a call's arguments and the options in the client's.
_encode = msgspec.msgpack.Encoder().encode


def canonical_key(request: GenerateRequest) -> bytes:
    """Return 16 bytes (xxh3_128): what is asked, apart from the model that is to answer.

    Spelling out a default does not change it, nor does what greedy decoding ignores.
    """
    prompt = request.prompt
    parts = (
        type(prompt).__name__,
        prompt,
        sorted(set(request.stop)),  # the stop string that completes first ends the text
        _choices(request.sampling, request.seeded, request.choice),
        _counted(request),
        _today() if isinstance(prompt, ChatPrompt) else None,
    )
    return xxhash.xxh3_128_digest(_encode(parts), _SEED)


def _today() -> int:
    """Return the day as templates have it: of UTC. One begun before midnight has that day's key."""
    return int(clock.unix_seconds()) // 86400


def reproducible(request: GenerateRequest) -> bool:
    """Tell whether running the request again would give the same answer."""
    return request.sampling.temperature == 0 or request.seeded


def _choices(sampling: Sampling, seeded: bool, choice: int) -> tuple[object, ...]:
    """Return the sampling parameters that matter, 0.0 for -0.0, a choice for a drawn seed."""
    penalties = (
        sampling.presence_penalty + 0.0,
        sampling.frequency_penalty + 0.0,
        sampling.repeat_penalty,
    )
    best = (
        penalties,
        sampling.repeat_last_n if penalties != (0.0, 0.0, 1.0) else None,
        sampling.logit_bias,
        sampling.ignore_eos,
        sampling.dry,
    )
    if sampling.temperature == 0:
        return best
    truncations = (
        sampling.top_p,
        sampling.top_k,
        sampling.min_p + 0.0,
        sampling.typical_p,
        sampling.xtc,
    )
    return (
        *best,
        sampling.temperature,
        sampling.mirostat or truncations,
        seeded,
        sampling.seed if seeded else choice,
    )
