"""`POST /v1/completions`: the body's meaning and the answer's form. Pure; used by `app`."""

import codecs
from collections.abc import Mapping
from typing import Any, TypeGuard

from rayhost.errors import InvalidRequest
from rayhost.front.request import (
    GenerateRequest,
    Piece,
    Prompt,
    Recalled,
    Run,
    TextPrompt,
    TokenPrompt,
)
from rayhost.http.answer import Ask, Caller
from rayhost.http.body import parse_body
from rayhost.http.choices import ChoicesAnswer, forked
from rayhost.http.constrained import ConstrainedBody, form_of
from rayhost.http.effects import unused
from rayhost.http.sampling import sampling_of
from rayhost.http.schema import (
    INT32_MAX,
    MAX_CHOICES,
    UNSUPPORTED,
    check_values,
    shown,
    stops_of,
)
from rayhost.ipc.messages import TokenLogprob

DEFAULT_MAX_TOKENS = 16  # OpenAI's

REFUSED: dict[str, tuple[object, ...]] = {
    name: harmless for name, harmless in UNSUPPORTED.items() if name != "n"
}

Item = str | int | list[int]


class CompletionBody(ConstrainedBody, frozen=True, kw_only=True):
    """The body."""

    prompt: str | list[Item]
    suffix: str | None = None
    n: int = 1
    best_of: int | None = None
    echo: bool = False
    logprobs: int | None = None


def parse(raw: bytes, caller: Caller) -> Ask:
    """Return what a completion body asks for. Raises InvalidRequest."""
    body, ignored = parse_body(raw, CompletionBody, REFUSED)
    check_values(body)
    if body.best_of not in (None, body.n):
        raise InvalidRequest(
            f"best_of: must be n, which is {body.n}: answers are not ranked here", param="best_of"
        )
    prompts = _prompts(body)
    if len(prompts) * body.n > MAX_CHOICES:
        raise InvalidRequest(
            f"prompt: {len(prompts)} prompts of {body.n} choices each are more than the "
            f"{MAX_CHOICES} choices that a request may have",
            param="prompt",
        )
    sampling, stops, form = sampling_of(body), stops_of(body), form_of(body)
    requests: list[GenerateRequest] = []
    for i, prompt in enumerate(prompts):
        request = GenerateRequest(
            id=caller.request_id,
            model=body.model,
            prompt=prompt,
            sampling=sampling,
            max_tokens=DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens,
            stop=stops,
            terms=caller.terms,
            seeded=body.seed is not None,
            reuse=caller.reuse,
            logprobs=body.logprobs,
            constraint=form.constraint,
        )
        requests += forked(request, body.n, i * body.n)
    return Ask(
        tuple(requests),
        body.stream,
        body.include_usage,
        (*ignored, *unused(body)),
        body.n,
        {"texts": _echoed(prompts, body)} if body.echo else {},
        form.param,
    )


def _prompts(body: CompletionBody) -> list[Prompt]:
    """Return the prompts, in any of the four forms that OpenAI documents."""
    prompt = body.prompt
    if isinstance(prompt, str):
        return [TextPrompt(prompt, body.suffix or None)]
    if not prompt:
        raise InvalidRequest("prompt: must not be empty", param="prompt")
    if _all_ints(prompt):
        return [_tokens(prompt, "prompt", body.suffix)]
    if any(isinstance(item, int) for item in prompt):
        raise InvalidRequest(
            "prompt: a list holds token ids or prompts, not both",
            code="invalid_type",
            param="prompt",
        )
    return [
        _tokens(item, f"prompt[{i}]", body.suffix)
        if isinstance(item, list)
        else TextPrompt(str(item), body.suffix or None)
        for i, item in enumerate(prompt)
    ]


def _all_ints(items: list[Item]) -> TypeGuard[list[int]]:
    return all(isinstance(item, int) for item in items)


def _tokens(ids: list[int], where: str, suffix: str | None) -> TokenPrompt:
    if not ids:
        raise InvalidRequest(f"{where}: must not be empty", param=where)
    if suffix:
        raise InvalidRequest("suffix: only allowed with a prompt of text", param="suffix")
    for i, token in enumerate(ids):
        if not 0 <= token <= INT32_MAX:
            raise InvalidRequest(
                f"{where}[{i}]: a token id is between 0 and {INT32_MAX}, not {shown(token)}",
                param=f"{where}[{i}]",
            )
    return TokenPrompt(tuple(ids))


def _echoed(prompts: list[Prompt], body: CompletionBody) -> list[str]:
    """Return the text in front of each choice. Raises InvalidRequest where it is not known."""
    if body.logprobs is not None:
        raise InvalidRequest(
            "echo: not allowed with logprobs, as those of a prompt are not computed", param="echo"
        )
    texts = [prompt.text for prompt in prompts if isinstance(prompt, TextPrompt)]
    if len(texts) < len(prompts):
        raise InvalidRequest("echo: only allowed with a prompt of text", param="echo")
    return [text for text in texts for _ in range(body.n)]


class CompletionAnswer(ChoicesAnswer):
    """A `text_completion`, or its chunks, which are called the same."""

    id_prefix = "cmpl"
    whole_object = "text_completion"
    chunk_object = "text_completion"

    def __init__(self, ask: Ask, run: Run | Recalled) -> None:
        super().__init__(ask, run)
        self._echoed: list[str] = ask.echo.get("texts", [])
        self._offsets: dict[int, _Offsets] = {}

    def opening(self) -> bytes:
        """Return the prompts, where they are to be repeated."""
        return b"".join(
            [self.piece(Piece(text), index) for index, text in enumerate(self._echoed) if text]
        )

    def _delta(self, index: int, piece: Piece) -> dict[str, Any]:
        told = self._told(index, piece.logprobs) if piece.logprobs else None
        return _choice(index, piece.text, None, told)

    def _last(self, index: int, finish_reason: str) -> dict[str, Any]:
        return _choice(index, "", finish_reason, None)

    def _whole(self, index: int, piece: Piece, finish_reason: str) -> dict[str, Any]:
        told = self._told(index, piece.logprobs) if self._logprobs else None
        text = self._echoed[index] + piece.text if self._echoed else piece.text
        return _choice(index, text, finish_reason, told)

    def _told(self, index: int, logprobs: tuple[TokenLogprob, ...]) -> dict[str, Any]:
        offsets = self._offsets.setdefault(index, _Offsets())
        return {
            "tokens": [_name(one.piece) for one in logprobs],
            "token_logprobs": [one.logprob for one in logprobs],
            # The one that came is among them, whether it is one of the likeliest or not.
            "top_logprobs": [
                {
                    **{_name(like.piece): like.logprob for like in one.top},
                    _name(one.piece): one.logprob,
                }
                for one in logprobs
            ],
            "text_offset": [offsets.of(one.piece) for one in logprobs],
        }


class _Offsets:
    """Where tokens begin in a choice's text, in characters."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._length = 0

    def of(self, piece: bytes) -> int:
        """Return where the next token begins."""
        begins = self._length
        self._length += len(self._decoder.decode(piece))
        return begins


def _name(piece: bytes) -> str:
    """Return a token as text; one that is a part of a character as OpenAI spells it."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)


def _choice(
    index: int, text: str, finish_reason: str | None, logprobs: Mapping[str, Any] | None
) -> dict[str, Any]:
    return {
        "index": index,
        "text": text,
        "logprobs": logprobs,
        "finish_reason": finish_reason,
    }
