"""A model's vocabulary and chat template: text to tokens and back.

Safe to use from another thread while the engine decodes: the vocabulary never changes. Whatever a
client sends costs time in proportion to its length.
"""

import ctypes
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
from llama_cpp import llama_cpp as llama

from rayhost.engine.base import Int32, LoadError, PromptError
from rayhost.engine.grammar import Words
from rayhost.engine.template import ChatTemplate
from rayhost.engine.tool_prompts import Dialect, Functions, Messages, detect, shown
from rayhost.engine.tools import MARKS, grammar
from rayhost.ipc.messages import Constraint, Tools, ToolSupport

SPECIALS_IN_BLOCK = 32
_LONG_TOKEN = 16  # bytes; texts with fewer for each token of the context are just read
_LONG_TEXT = 4096  # characters; a shorter text is tokenized whole in about a millisecond
_SPECIAL = (
    llama.LLAMA_TOKEN_ATTR_CONTROL
    | llama.LLAMA_TOKEN_ATTR_USER_DEFINED
    | llama.LLAMA_TOKEN_ATTR_UNKNOWN
)


class LlamaCodec:
    """The model's vocabulary and chat template."""

    def __init__(self, model: Any, vocab: Any, context: int, template: str = "") -> None:
        """`template` is for chats, instead of the one that the model's file may have."""
        self._vocab = vocab
        self.vocabulary: int = llama.llama_vocab_n_tokens(vocab)
        self.context = context  # tokens that a prompt can have at most; the engine's to change
        self._pieces: dict[int, bytes] = {}
        self._ends: dict[int, bool] = {}
        own = None if template else llama.llama_model_chat_template(model, None)
        self.has_chat = bool(template) or own is not None
        self._template_source = template or (own or b"").decode(errors="replace")
        self._bos = self._special_text(llama.llama_vocab_bos(vocab))
        self._eos = self._special_text(llama.llama_vocab_eos(vocab))

    def chat(
        self,
        messages: Sequence[dict[str, Any]],
        tools: Tools | None = None,
        continue_final: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Apply the chat template and tokenize. Raises PromptError."""
        prompt = self._within(self.render(messages, tools, continue_final, options))
        # A template that writes the leading token itself must not get a second one.
        return self._tokenize(prompt, not (self._bos and prompt.startswith(self._bos)))

    def render(
        self,
        messages: Sequence[dict[str, Any]],
        tools: Tools | None = None,
        continue_final: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> str:
        """Apply the chat template, with `options` as further variables. Raises PromptError."""
        template = self._template
        told: Messages = messages
        functions: Functions | None = None
        if tools is not None or any(m["role"] == "tool" or "tool_calls" in m for m in messages):
            told, functions = shown(self._dialect, messages, tools)
        return template.render(told, tools=functions, continue_final=continue_final, extra=options)

    def try_template(self) -> None:
        """Raise LoadError for a chat template that does not compile."""
        try:
            self._template.render([])
        except PromptError as error:
            if error.code == "chat_template_invalid":
                raise LoadError(f"chat_template: {error}") from error

    def tool_support(self) -> ToolSupport:
        """Return who tells the model of tools. Asks the template: 50 ms, as its child is started.

        A template that breaks here would break over a chat, which then says why.
        """
        try:
            return "native" if self._dialect.knows_tools else "generic"
        except PromptError:
            return ""

    def calls(self, tools: Tools, answer: Constraint | None) -> tuple[Constraint, str]:
        """Return what binds the calls in an answer, and the syntax that they are written in.

        An answer without a call has to match `answer`. Raises PromptError.
        """
        syntax, one_call = self._dialect.syntax, self._dialect.one_call
        parallel = tools.parallel and not one_call
        bound = msgspec.structs.replace(tools, parallel=parallel)
        source = grammar(bound, syntax, self._marks, answer)
        return Constraint("calls", source), syntax

    @cached_property
    def _template(self) -> ChatTemplate:
        if not self.has_chat:
            raise PromptError(
                "this model has no chat template: use /v1/completions, or name a chat_template in "
                "the profile",
                "chat_template_missing",
            )
        return ChatTemplate(self._template_source, self._bos, self._eos)

    @cached_property
    def _dialect(self) -> Dialect:
        return detect(lambda messages, functions: self._template.render(messages, tools=functions))

    @cached_property
    def _marks(self) -> Mapping[str, int]:
        """The beginnings and ends of calls that the grammar knows as special tokens."""
        found = {}
        for mark in MARKS:
            ids = self._tokenize_block(mark, False)
            if len(ids) == 1 and self._is_special(ids[0], mark):
                found[mark] = ids[0]
        return found

    def _is_special(self, token: int, text: str) -> bool:
        """Tell whether llguidance's view of the vocabulary has no text for a token."""
        kind = llama.llama_vocab_get_attr(self._vocab, token)
        tagged = text.startswith("<") and text.endswith(">")
        return bool(
            kind & llama.LLAMA_TOKEN_ATTR_CONTROL
            or (kind & llama.LLAMA_TOKEN_ATTR_USER_DEFINED and tagged)
        )

    def text(self, text: str) -> list[int]:
        """Tokenize raw text, with the special tokens the model wants in front."""
        return self._tokenize(self._within(text), True)

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Tokenize text as it is. Raises PromptError."""
        if parse_special:
            return self._tokenize(text, add_special)
        return self._tokenize_block(text, add_special, parse_special=False)

    def pair(self, _query: str, _document: str) -> list[int]:
        """Refuse what only a model that ranks can do (`PairCodec`), with PromptError."""
        raise PromptError("this model does not rank documents", "model_not_supported")

    def piece(self, token: int) -> bytes:
        """Return the bytes of a token; they may be part of a UTF-8 character.

        Control tokens have none, but for those that begin and end calls of tools.
        """
        known = self._pieces.get(token)
        if known is None:
            called = token in self._marks.values()
            known = self._pieces[token] = self._read_piece(token, special=called)
        return known

    def ends(self, token: int) -> bool:
        """Tell whether the token ends a generation."""
        known = self._ends.get(token)
        if known is None:
            known = self._ends[token] = bool(llama.llama_vocab_is_eog(self._vocab, token))
        return known

    def name(self, token: int) -> bytes:
        """Return the bytes of a token, a control token's own too."""
        return self.piece(token) or self._read_piece(token, special=True)

    def end_tokens(self) -> Int32:
        """Return every token that ends a generation."""
        return self._end_tokens

    @cached_property
    def _end_tokens(self) -> Int32:
        # Once, when first asked for: llama.cpp has no list of them.
        ids = [i for i in range(llama.llama_vocab_n_tokens(self._vocab)) if self.ends(i)]
        return np.array(ids, np.int32)

    def words(self) -> Words:
        """Return the vocabulary as grammars need it: 0.1 s for 49,152 tokens."""
        pieces = [self._read_piece(i, special=True) for i in range(self.vocabulary)]
        return Words(
            [
                b"\xff" + piece if self._is_special(i, piece.decode(errors="replace")) else piece
                for i, piece in enumerate(pieces)
            ],
            self.end_tokens().tolist(),
            self._vocab,
            ctypes.cast(llama.llama_tokenize, ctypes.c_void_p).value or 0,
        )

    def fill(self, before: str, after: str) -> list[int]:
        """Tokenize a gap to be filled, the way the model was trained to.

        The text before it, then the one after it, then what fills it. Raises PromptError for a
        model without tokens that say so.
        """
        marks = [
            mark(self._vocab)
            for mark in (
                llama.llama_vocab_fim_pre,
                llama.llama_vocab_fim_suf,
                llama.llama_vocab_fim_mid,
            )
        ]
        if min(marks) < 0:
            raise PromptError("this model was not trained to fill in text: leave out suffix")
        prefix, suffix, middle = marks
        self._within(before + after)
        leading = self._tokenize("", True)
        return [
            *leading,
            *(prefix, *self._tokenize(before, False)),
            *(suffix, *self._tokenize(after, False)),
            middle,
        ]

    def _within(self, text: str) -> str:
        """Return a text that may fit the context. Raises PromptError for one that cannot.

        Told by its length alone: reading a megabyte takes half a second in which nobody else's
        prompt is read.
        """
        if len(text) > self.context * _LONG_TOKEN and self._longest_token:
            least = -(-len(text.encode("utf-8", errors="replace")) // self._longest_token)
            if least > self.context:
                raise self._too_long(least)
        return text

    def _too_long(self, least: int) -> PromptError:
        return PromptError(
            f"This model's maximum context length is {self.context} tokens. However, your "
            f"prompt has at least {least} tokens.",
            "context_length_exceeded",
        )

    @cached_property
    def _longest_token(self) -> int:
        """No token has more bytes of a text; 0 where one may have any number of them.

        Only of the kinds of vocabulary that leave nothing of a text out: others have one token for
        a word that they do not know, or for any number of spaces.
        """
        kinds = (llama.LLAMA_VOCAB_TYPE_BPE, llama.LLAMA_VOCAB_TYPE_SPM)
        if llama.llama_vocab_type(self._vocab) not in kinds:
            return 0
        # As it stands in the file a token is no shorter than what it spells.
        return max(
            len(llama.llama_vocab_get_text(self._vocab, token)) for token in range(self.vocabulary)
        )

    def _tokenize(self, text: str, add_special: bool) -> list[int]:
        ids: list[int] = []
        for block in self._blocks(text):
            ids += self._tokenize_block(block, add_special and not ids)
        return ids

    def _tokenize_block(
        self, text: str, add_special: bool, *, parse_special: bool = True
    ) -> list[int]:
        raw = text.encode("utf-8", errors="replace")  # a template may write a lone surrogate
        room = len(raw) + 8  # a token is at least a byte, plus what is added in front and behind
        ids = (llama.llama_token * room)()
        count = llama.llama_tokenize(
            self._vocab, raw, len(raw), ids, room, add_special, parse_special
        )
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
        if len(starts) >= self.context:
            raise self._too_long(len(starts))
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
