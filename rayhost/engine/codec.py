"""A model's vocabulary and chat template: text to tokens and back.

Safe to use from another thread while the engine decodes: the vocabulary never changes. Whatever a
client sends costs time in proportion to its length.
"""

import ctypes
import re
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any

from llama_cpp import llama_cpp as llama

from rayhost.engine.base import PromptError
from rayhost.engine.template import ChatTemplate

SPECIALS_IN_BLOCK = 32
_LONG_TEXT = 4096  # characters; a shorter text is tokenized whole in about a millisecond
_SPECIAL = (
    llama.LLAMA_TOKEN_ATTR_CONTROL
    | llama.LLAMA_TOKEN_ATTR_USER_DEFINED
    | llama.LLAMA_TOKEN_ATTR_UNKNOWN
)


class LlamaCodec:
    """The model's vocabulary and chat template."""

    def __init__(self, model: Any, vocab: Any, context: int) -> None:
        self._vocab = vocab
        self._context = context
        self._pieces: dict[int, bytes] = {}
        self._ends: dict[int, bool] = {}
        template = llama.llama_model_chat_template(model, None)
        self.has_chat = template is not None
        self._template_source = (template or b"").decode(errors="replace")
        self._template: ChatTemplate | None = None
        self._bos = self._special_text(llama.llama_vocab_bos(vocab))
        self._eos = self._special_text(llama.llama_vocab_eos(vocab))

    def chat(self, messages: Sequence[dict[str, Any]]) -> list[int]:
        """Apply the chat template and tokenize. Raises PromptError."""
        if not self.has_chat:
            raise PromptError(
                "this model has no chat template: use /v1/completions", "chat_template_missing"
            )
        if self._template is None:
            self._template = ChatTemplate(self._template_source, self._bos, self._eos)
        prompt = self._template.render(messages)
        # A template that writes the leading token itself must not get a second one.
        return self._tokenize(prompt, not (self._bos and prompt.startswith(self._bos)))

    def text(self, text: str) -> list[int]:
        """Tokenize raw text, with the special tokens the model wants in front."""
        return self._tokenize(text, True)

    def piece(self, token: int) -> bytes:
        """Return the bytes of a token; they may be part of a UTF-8 character. Control: empty."""
        known = self._pieces.get(token)
        if known is None:
            known = self._pieces[token] = self._read_piece(token, special=False)
        return known

    def ends(self, token: int) -> bool:
        """Tell whether the token ends a generation."""
        known = self._ends.get(token)
        if known is None:
            known = self._ends[token] = bool(llama.llama_vocab_is_eog(self._vocab, token))
        return known

    def _tokenize(self, text: str, add_special: bool) -> list[int]:
        ids: list[int] = []
        for block in self._blocks(text):
            ids += self._tokenize_block(block, add_special and not ids)
        return ids

    def _tokenize_block(self, text: str, add_special: bool) -> list[int]:
        raw = text.encode("utf-8", errors="replace")  # a lone surrogate from JSON becomes "?"
        room = len(raw) + 8  # a token is at least a byte, plus what is added in front and behind
        ids = (llama.llama_token * room)()
        count = llama.llama_tokenize(self._vocab, raw, len(raw), ids, room, add_special, True)
        if count < 0:
            raise PromptError(f"the tokenizer wants room for {-count} tokens and has {room}")
        return list(ids[:count])

    def _blocks(self, text: str) -> list[str]:
        """Return a long text in pieces that together have the same tokens.

        llama.cpp looks for every special token in all of the text that follows each one it found:
        20,000 short chat messages took it 42 s, a tenth of a second in blocks. A special token
        ends what is tokenized together, so just before one is where a text may be cut.
        Raises PromptError when the special tokens alone fill the context.
        """
        if len(text) < _LONG_TEXT or llama.llama_vocab_get_add_eos(self._vocab):
            return [text]
        starts = [match.start() for match in self._special_pattern.finditer(text)]
        if len(starts) >= self._context:
            raise PromptError(
                f"This model's maximum context length is {self._context} tokens. However, your "
                f"prompt has at least {len(starts)} tokens.",
                "context_length_exceeded",
            )
        return cut(text, starts[::SPECIALS_IN_BLOCK])

    @cached_property
    def _special_pattern(self) -> re.Pattern[str]:
        """Matches the special tokens that do not take the white space before them."""
        texts = set()
        for token in range(llama.llama_vocab_n_tokens(self._vocab)):
            kind = llama.llama_vocab_get_attr(self._vocab, token)
            if kind & _SPECIAL and not kind & llama.LLAMA_TOKEN_ATTR_LSTRIP:
                text = llama.llama_vocab_get_text(self._vocab, token)
                texts.add(text.decode(errors="replace"))
        return re.compile(any_of(texts - {""}))

    def _special_text(self, token: int) -> str:
        return "" if token < 0 else self._read_piece(token, special=True).decode(errors="replace")

    def _read_piece(self, token: int, special: bool) -> bytes:
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            size = llama.llama_token_to_piece(self._vocab, token, buffer, room, 0, special)
            if size >= 0:
                return buffer.raw[:size]
            room = -size


def cut(text: str, at: list[int]) -> list[str]:
    """Return the pieces of a text, cut at some places; joined, they are the text."""
    edges = sorted({0, *at, len(text)})
    return [text[start:end] for start, end in pairwise(edges)]


def any_of(words: set[str]) -> str:
    """Return a regular expression that matches any of the words, the longest first.

    A tree of what they begin with: Gemma 3 has 6,000 special tokens, and an alternative for each
    would be tried at every character.
    """
    if not words:
        return r"(?!)"
    by_first: dict[str, set[str]] = {}
    for word in words - {""}:
        by_first.setdefault(word[0], set()).add(word[1:])
    branches = [re.escape(first) + any_of(rest) for first, rest in sorted(by_first.items())]
    tree = f"(?:{'|'.join(branches)})" if branches else ""
    return f"{tree}?" if "" in words and branches else tree
