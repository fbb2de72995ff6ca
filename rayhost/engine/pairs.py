"""The vocabulary of a model that embeds or ranks: a text, or a question and a text as an answer.

The special tokens around them are the model's own. Safe to use from another thread while the engine
computes, as `LlamaCodec` is.
"""

import re
from typing import Any

from llama_cpp import llama_cpp as llama

from rayhost.engine.codec import LlamaCodec

_PLACE = re.compile(r"\{(query|document)\}")


class PairCodec(LlamaCodec):
    """As `LlamaCodec`; `ranks` says whether the model rates pairs."""

    def __init__(self, model: Any, vocab: Any, context: int, *, ranks: bool) -> None:
        super().__init__(model, vocab, context)
        self._ranks = ranks
        template = llama.llama_model_chat_template(model, b"rerank")
        self._rerank = None if template is None else template.decode(errors="replace")
        self._word_pieces = llama.llama_vocab_type(vocab) == llama.LLAMA_VOCAB_TYPE_WPM

    def text(self, text: str) -> list[int]:
        """Tokenize a text, with the special tokens that the model wants around it."""
        if not self._word_pieces:
            return super().text(text)
        # A long text is tokenized in blocks, and llama.cpp would end each of them.
        begin, end = llama.llama_vocab_bos(self._vocab), llama.llama_vocab_sep(self._vocab)
        return [begin, *self._tokenize(text, False), end]

    def pair(self, query: str, document: str) -> list[int]:
        """Tokenize a question and a text in the form that llama.cpp's own server gives them.

        Raises PromptError for a model that does not rank.
        """
        if not self._ranks:
            return super().pair(query, document)
        if self._rerank is not None:
            return self._filled(self._rerank, {"query": query, "document": document})
        vocab = self._vocab
        sep = llama.llama_vocab_sep(vocab)
        eos = llama.llama_vocab_eos(vocab)
        end = [sep if eos < 0 else eos] if llama.llama_vocab_get_add_eos(vocab) else []
        begin = [llama.llama_vocab_bos(vocab)] if llama.llama_vocab_get_add_bos(vocab) else []
        between = [sep] if llama.llama_vocab_get_add_sep(vocab) else []
        asked, answered = self._tokenize(query, False), self._tokenize(document, False)
        return [*begin, *asked, *end, *between, *answered, *end]

    def _filled(self, template: str, texts: dict[str, str]) -> list[int]:
        """Tokenize the model's own form with both texts in their places."""
        return self._tokenize(_PLACE.sub(lambda place: texts[place[1]], template), False)
