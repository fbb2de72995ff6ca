"""A BERT tokenizer.json as the vocabulary that llama.cpp's WordPiece tokenizer reads.

Pure. llama.cpp marks where a word begins ("▁the"), Hugging Face where it goes on ("##ing"); the
control tokens stay as they are. Used by `bert`.
"""

from dataclasses import dataclass

import msgspec

from rayhost.errors import RayhostError

WORD_BEGINS = "▁"
MAX_TOKENS = 1 << 20
SPECIAL = ("[CLS]", "[SEP]", "[UNK]", "[PAD]", "[MASK]")  # every BERT calls them so


class _Model(msgspec.Struct, frozen=True):
    type: str
    vocab: dict[str, int]
    continuing_subword_prefix: str = "##"


class _Normalizer(msgspec.Struct, frozen=True):
    type: str
    lowercase: bool = True
    strip_accents: bool | None = None  # as `lowercase`


class _Added(msgspec.Struct, frozen=True):
    id: int
    content: str
    special: bool = False


class _Tokenizer(msgspec.Struct, frozen=True):
    model: _Model
    normalizer: _Normalizer
    added_tokens: tuple[_Added, ...] = ()


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Tokens by id. `kept` has, by id, whether there is such a token, `control` those of `SPECIAL`.

    `special` has the ids of `SPECIAL`, in that order.
    """

    tokens: list[str]
    kept: list[bool]
    control: frozenset[int]
    special: tuple[int, ...]
    lowercase: bool
    strip_accents: bool


def read_vocabulary(raw: bytes, size: int) -> Vocabulary:
    """Return what a tokenizer.json says, for `size` rows of embeddings. Raises RayhostError."""
    try:
        tokenizer = msgspec.json.decode(raw, type=_Tokenizer)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RayhostError(f"tokenizer.json: {error}") from error
    model, normalizer = tokenizer.model, tokenizer.normalizer
    if model.type != "WordPiece" or normalizer.type != "BertNormalizer":
        raise RayhostError(
            f"tokenizer.json: {model.type[:40]} after {normalizer.type[:40]} cannot be converted, "
            "WordPiece after BertNormalizer can"
        )
    ids = model.vocab | {one.content: one.id for one in tokenizer.added_tokens}
    if not 0 < size <= MAX_TOKENS or not all(0 <= token < size for token in ids.values()):
        raise RayhostError(f"tokenizer.json: has ids beyond the {size} embeddings of the model")
    missing = [name for name in SPECIAL if name not in ids]
    if missing:
        raise RayhostError(f"tokenizer.json: has no {missing[0]} token")
    control = {one.id for one in tokenizer.added_tokens if one.special}
    control |= {ids[name] for name in SPECIAL}
    tokens, kept = [f"[PAD{token}]" for token in range(size)], [False] * size
    for text, token in ids.items():
        kept[token] = True
        tokens[token] = (
            text if token in control else _phantom(text, model.continuing_subword_prefix)
        )
    strip = normalizer.lowercase if normalizer.strip_accents is None else normalizer.strip_accents
    return Vocabulary(
        tokens,
        kept,
        frozenset(control),
        tuple(ids[name] for name in SPECIAL),
        normalizer.lowercase,
        strip,
    )


def _phantom(text: str, continues: str) -> str:
    inside = continues and text.startswith(continues)
    return text.removeprefix(continues) if inside else WORD_BEGINS + text
