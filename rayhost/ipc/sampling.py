"""How a run draws its tokens: a part of `Start`, on the wire as the messages are."""

from typing import Literal

import msgspec


class Dry(msgspec.Struct, frozen=True, array_like=True):
    """Don't repeat yourself: the penalty of a token that would make a repetition longer.

    It is `multiplier` times `base` to the power of what the repetition has beyond `allowed_length`.
    """

    multiplier: float
    base: float
    allowed_length: int
    last_n: int  # tokens that are searched for repetitions; -1: all
    breakers: tuple[str, ...]  # texts that no repetition goes across


class Xtc(msgspec.Struct, frozen=True, array_like=True):
    """Exclude top choices: with `probability`, all but the least of those over `threshold`."""

    probability: float
    threshold: float


class Mirostat(msgspec.Struct, frozen=True, array_like=True):
    """Tokens of a surprise near `tau` bits, held there at a rate of `eta`."""

    version: Literal[1, 2]
    tau: float
    eta: float


class Sampling(msgspec.Struct, frozen=True, array_like=True):
    """How the next token is chosen. `temperature` 0 is greedy; `top_k` 0 and `top_p` 1 are off."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repeat_penalty: float = 1.0
    seed: int = 0  # 64 bits; the front draws one where the client gave none
    repeat_last_n: int = -1  # tokens that the three penalties look back; -1: all
    typical_p: float = 1.0  # 1: off
    logit_bias: tuple[tuple[int, float], ...] = ()  # added to the logits of these tokens
    ignore_eos: bool = False  # no token that ends the answer
    dry: Dry | None = None
    xtc: Xtc | None = None
    mirostat: Mirostat | None = None  # instead of every truncation
