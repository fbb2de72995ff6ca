"""How a body says tokens are to be chosen, as the `Sampling` that a worker takes.

Pure: a body whose numbers are in range in, InvalidRequest for what is still wrong.
"""

import secrets

from rayhost.errors import InvalidRequest
from rayhost.http.schema import BREAKERS, GenerationBody, one_of_aliases, shown
from rayhost.ipc.sampling import Dry, Mirostat, Sampling, Xtc

MAX_BIASED = 1024
MOST_BIAS = 100.0
MAX_BREAKERS = 16
MAX_BREAKER_BYTES = 40
XTC_MOST = 0.5  # no two tokens are more probable than that


def sampling_of(body: GenerationBody) -> Sampling:
    """Return the sampling parameters of a checked body; without a seed, draw one.

    Raises InvalidRequest.
    """
    repeat_penalty = one_of_aliases(body, "repeat_penalty", "repetition_penalty")
    breakers = body.dry_sequence_breakers
    if breakers is not BREAKERS:
        _check_breakers(breakers)
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
        repeat_last_n=body.repeat_last_n,
        typical_p=body.typical_p,
        logit_bias=_bias(body.logit_bias) if body.logit_bias else (),
        ignore_eos=body.ignore_eos,
        dry=_dry(body, breakers),
        xtc=_xtc(body),
        mirostat=_mirostat(body),
    )


def _bias(biases: dict[str, float]) -> tuple[tuple[int, float], ...]:
    if len(biases) > MAX_BIASED:
        raise InvalidRequest(
            f"logit_bias: at most {MAX_BIASED} tokens are allowed, not {len(biases)}",
            param="logit_bias",
        )
    pairs = {}
    for token, value in biases.items():
        if not (token.isascii() and token.isdigit() and len(token) <= 10):
            raise InvalidRequest(
                f"logit_bias: a key is the id of a token, not {shown(token)!r}", param="logit_bias"
            )
        if not -MOST_BIAS <= value <= MOST_BIAS:
            raise InvalidRequest(
                f"logit_bias.{token}: must be between -100 and 100, not {shown(value)}",
                param="logit_bias",
            )
        pairs[int(token)] = value
    return tuple(sorted((token, value) for token, value in pairs.items() if value))


def _check_breakers(breakers: tuple[str, ...]) -> None:
    if len(breakers) > MAX_BREAKERS:
        raise InvalidRequest(
            f"dry_sequence_breakers: at most {MAX_BREAKERS} are allowed, not {len(breakers)}",
            param="dry_sequence_breakers",
        )
    for breaker in breakers:
        if not 0 < len(breaker.encode(errors="replace")) <= MAX_BREAKER_BYTES:
            raise InvalidRequest(
                f"dry_sequence_breakers: one has 1 to {MAX_BREAKER_BYTES} bytes, unlike "
                f"{shown(breaker)!r}",
                param="dry_sequence_breakers",
            )


def _dry(body: GenerationBody, breakers: tuple[str, ...]) -> Dry | None:
    if body.dry_multiplier == 0.0 or body.dry_penalty_last_n == 0:
        return None
    return Dry(
        multiplier=body.dry_multiplier,
        base=body.dry_base,
        allowed_length=body.dry_allowed_length,
        last_n=body.dry_penalty_last_n,
        breakers=tuple(sorted(set(breakers))),
    )


def _xtc(body: GenerationBody) -> Xtc | None:
    if body.mirostat or body.xtc_probability == 0.0 or body.xtc_threshold > XTC_MOST:
        return None
    return Xtc(body.xtc_probability, body.xtc_threshold)


def _mirostat(body: GenerationBody) -> Mirostat | None:
    if body.mirostat == 0:
        return None
    return Mirostat(
        version=1 if body.mirostat == 1 else 2, tau=body.mirostat_tau, eta=body.mirostat_eta
    )
