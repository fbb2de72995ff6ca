"""Long texts are tokenized in blocks: the same tokens, in time that grows with the length only."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_cpp import llama_cpp

from rayhost.engine.base import PromptError
from rayhost.engine.codec import SPECIALS_IN_BLOCK, LlamaCodec, any_of, cut
from rayhost.engine.llama import LlamaEngine
from tests.worker.process import load_of

SPECIAL = re.compile(re.escape("<|im_start|>") + "|" + re.escape("<|im_end|>"))
CONTEXT = 4000
TURN = "<|im_start|>user\nhello world<|im_end|>\n"


@pytest.fixture(scope="module")
def codec(tiny_model: Path) -> LlamaCodec:
    return LlamaEngine(load_of(tiny_model, context=CONTEXT, concurrency=1)).codec


@given(st.text(max_size=50), st.lists(st.integers(0, 50)))
def test_the_pieces_of_a_text_are_the_text(text: str, at: list[int]) -> None:
    at = [place for place in at if place <= len(text)]
    pieces = cut(text, at)
    assert "".join(pieces) == text
    assert all(pieces)


WORDS = st.sets(st.text("ab<|*", min_size=1, max_size=5), max_size=8)


@given(WORDS, st.text("ab<|*", max_size=20))
def test_the_tree_matches_the_longest_of_the_words(words: set[str], text: str) -> None:
    longest = next((w for w in sorted(words, key=len, reverse=True) if text.startswith(w)), None)
    match = re.compile(any_of(words)).match(text)
    assert (match and match[0]) == longest


def test_a_long_chat_has_the_tokens_of_its_parts(codec: LlamaCodec) -> None:
    turn = codec.text(TURN)
    assert codec.text(TURN * 1500) == turn * 1500
    assert codec.text("word " * 2000 + TURN * 50) == codec.text("word " * 2000) + turn * 50


def test_no_call_of_the_tokenizer_sees_many_special_tokens_at_once(
    codec: LlamaCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    tokenize = llama_cpp.llama_tokenize

    def counting(vocab: object, raw: bytes, *rest: object) -> int:
        seen.append(len(SPECIAL.findall(raw.decode())))
        return int(tokenize(vocab, raw, *rest))

    monkeypatch.setattr(llama_cpp, "llama_tokenize", counting)
    codec.text(TURN * 1000)
    assert sum(seen) == 2000
    assert max(seen) <= SPECIALS_IN_BLOCK


def test_a_text_whose_special_tokens_fill_the_context_is_refused_unread(codec: LlamaCodec) -> None:
    with pytest.raises(PromptError, match=f"{CONTEXT} tokens.*at least 4000 tokens") as caught:
        codec.text("<|im_start|>a<|im_end|>" * (CONTEXT // 2))
    assert caught.value.code == "context_length_exceeded"


def test_text_is_tokenized_as_it_is_asked_for(codec: LlamaCodec) -> None:
    plain = codec.tokenize("<|im_end|>a", add_special=False, parse_special=True)
    spelled = codec.tokenize("<|im_end|>a", add_special=False, parse_special=False)
    led = codec.tokenize("a", add_special=True, parse_special=True)
    assert codec.name(plain[0]) == b"<|im_end|>"
    assert len(spelled) > len(plain)
    assert led == codec.text("a")
    for ids in (plain, spelled):
        assert b"".join(codec.name(token) for token in ids) == b"<|im_end|>a"
    assert max(spelled) < codec.vocabulary


@pytest.mark.parametrize("way", ["text", "chat", "fill"])
def test_a_text_that_is_too_long_for_any_tokens_is_refused_unread(
    codec: LlamaCodec, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    texts = (llama_cpp.llama_vocab_get_text(codec._vocab, i) for i in range(codec.vocabulary))
    text = "a" * (CONTEXT * max(16, *map(len, texts)) + 1)
    read: list[bytes] = []
    tokenize = llama_cpp.llama_tokenize

    def reading(vocab: object, raw: bytes, *rest: object) -> int:
        read.append(raw)
        return int(tokenize(vocab, raw, *rest))

    monkeypatch.setattr(llama_cpp, "llama_tokenize", reading)
    monkeypatch.setattr(codec, "render", lambda *_: text)
    monkeypatch.setattr("rayhost.engine.codec.llama.llama_vocab_fim_pre", lambda _: 1)
    monkeypatch.setattr("rayhost.engine.codec.llama.llama_vocab_fim_suf", lambda _: 2)
    monkeypatch.setattr("rayhost.engine.codec.llama.llama_vocab_fim_mid", lambda _: 3)
    asked = {
        "text": lambda: codec.text(text),
        "chat": lambda: codec.chat([]),
        "fill": lambda: codec.fill(text[:10], text[10:]),
    }
    with pytest.raises(PromptError, match=f"{CONTEXT} tokens.*at least") as caught:
        asked[way]()
    assert caught.value.code == "context_length_exceeded"
    assert read == []


def test_a_vocabulary_that_leaves_text_out_says_nothing_of_a_length(
    codec: LlamaCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(codec.__dict__, "_longest_token", raising=False)
    kind = llama_cpp.LLAMA_VOCAB_TYPE_WPM
    monkeypatch.setattr("rayhost.engine.codec.llama.llama_vocab_type", lambda _: kind)
    assert len(codec.text("a" * 40 * CONTEXT)) > CONTEXT
    monkeypatch.delitem(codec.__dict__, "_longest_token")
