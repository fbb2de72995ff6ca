"""How a run goes on, token by token: what text becomes final, and why the run is over. Pure.

Invariant: the same tokens give the same text and the same end, whether they were generated here or
in a worker before this one. Called by the step loop.
"""

from collections.abc import Sequence as List
from typing import Literal

from rayhost.engine.base import Codec
from rayhost.ipc.messages import Start
from rayhost.worker.sequence import Sequence

Reason = Literal["stop", "length"]


def outgrown(start: Start, tokens: int, context: int) -> bool:
    """Tell whether a run that has `tokens` by now is cut by a context that became smaller.

    The front knows of it, unless it sent the run before it heard of the context. One that has all
    that it may generate was over before, and its text is told.
    """
    return start.outgrown or (
        start.n_prompt < tokens < start.n_prompt + start.max_tokens and tokens >= context
    )


def replay(codec: Codec, sequence: Sequence) -> bool:
    """Rebuild the text of a resumed run, which its client has; tell whether it ends there.

    Raises GrammarError for tokens that its grammar does not let through.
    """
    for generated, token in enumerate(sequence.tokens[sequence.n_prompt :], 1):
        if sequence.matcher and not codec.ends(token):
            sequence.matcher.accept([token])
        _, ends = _advance(codec, sequence, token, generated)
        if ends:
            return True
    return False


def append(
    codec: Codec, sequence: Sequence, tokens: List[int], context: int
) -> tuple[tuple[int, ...], str, Reason | None]:
    """Add tokens to a run as far as it goes; return those, their text and why it ends."""
    text = ""
    first = len(sequence.tokens)
    sequence.tokens += tokens
    sequence.added = len(tokens) - 1
    for i, token in enumerate(tokens, 1):
        generated = first + i - sequence.n_prompt
        final, ends = _advance(codec, sequence, token, generated)
        text += final
        reason: Reason | None = "stop" if ends else None
        if not ends and (generated >= sequence.max_tokens or first + i >= context):
            text += sequence.text.close()
            reason = "length"
        if reason is not None:
            del sequence.tokens[first + i :]
            return tuple(tokens[:i]), text, reason
    return tuple(tokens), text, None


def _advance(codec: Codec, sequence: Sequence, token: int, generated: int) -> tuple[str, bool]:
    """Take the text of a run's `generated`-th token.

    Return what of it became final, and whether the run ends with it.
    """
    stream = sequence.text
    if codec.ends(token):
        return stream.close(), True
    if sequence.logprobs >= 0:
        sequence.begins.append(stream.decoded)
    text = stream.push(codec.piece(token))
    if stream.stopped:
        return text, True
    if sequence.matcher and sequence.matcher.finished and generated == sequence.n_generated:
        return text + stream.close(), True  # whether or not the model would end here
    return text, False
