"""Text to tokens and back for whoever asks, on the text thread; nothing of it is run. Pure."""

from rayhost.engine.base import Codec, PromptError
from rayhost.ipc.messages import Convert, Converted, Rejected, pack_tokens, unpack_tokens

_PARAMS = {"tokens": "content", "text": "tokens", "prompt": "messages"}  # what may be at fault


def convert(codec: Codec, asked: Convert) -> Converted | Rejected:
    """Return what a question asks for, or why there is none."""
    try:
        match asked.to:
            case "tokens":
                return _tokens(codec, asked)
            case "text":
                return _text(codec, unpack_tokens(asked.tokens))
            case "prompt":
                text = codec.render(
                    asked.messages, asked.tools, asked.continue_final, asked.options
                )
                return Converted(text=text)
    except PromptError as error:
        return Rejected(str(error), error.code, _PARAMS[asked.to])


def _tokens(codec: Codec, asked: Convert) -> Converted:
    ids = codec.tokenize(
        asked.text, add_special=asked.add_special, parse_special=asked.parse_special
    )
    pieces = tuple([codec.name(token) for token in ids]) if asked.pieces else ()
    return Converted(tokens=pack_tokens(ids), pieces=pieces)


def _text(codec: Codec, ids: list[int]) -> Converted:
    for bad in (min(ids, default=0), max(ids, default=0)):
        if not 0 <= bad < codec.vocabulary:
            raise PromptError(
                f"{bad} is not a token of this model: ids are from 0 to {codec.vocabulary - 1}"
            )
    raw = b"".join([codec.name(token) for token in ids])
    return Converted(text=raw.decode(errors="replace"))
