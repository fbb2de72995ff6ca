"""What a real vocabulary says of its tokens: names, those that end an answer, gaps to fill."""

from pathlib import Path

import gguf
import pytest

from rayhost.engine.base import PromptError
from rayhost.engine.codec import LlamaCodec
from rayhost.engine.llama import LlamaEngine
from tests.support.tiny_gguf import vocabulary, write_tiny_llama
from tests.worker.process import load_of

FILLING = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")


def codec(folder: Path, *, fills: bool = False, add_bos: bool = False) -> LlamaCodec:
    marks = dict.fromkeys(FILLING, gguf.TokenType.CONTROL) if fills else {}
    path = write_tiny_llama(folder / "tiny.gguf", marks=marks, add_bos=add_bos)
    return LlamaEngine(load_of(path, context=512, concurrency=1)).codec


def test_a_control_token_has_a_name_and_no_text(tmp_path: Path) -> None:
    tokens = codec(tmp_path)
    end = vocabulary().index("<|im_end|>")
    assert (tokens.piece(end), tokens.name(end)) == (b"", b"<|im_end|>")
    hello = vocabulary().index("hello")
    assert tokens.piece(hello) == tokens.name(hello) == b"hello"


def test_every_token_that_ends_an_answer_is_known(tmp_path: Path) -> None:
    tokens = codec(tmp_path)
    ids = tokens.end_tokens().tolist()
    assert vocabulary().index("<|im_end|>") in ids
    assert ids == [token for token in range(len(vocabulary())) if tokens.ends(token)]


@pytest.mark.parametrize("add_bos", [False, True])
def test_a_gap_is_what_is_before_it_then_what_is_after_it(tmp_path: Path, add_bos: bool) -> None:
    tokens = codec(tmp_path, fills=True, add_bos=add_bos)
    before, after, middle = range(len(vocabulary()), len(vocabulary()) + 3)
    hello, world = vocabulary().index("hello"), vocabulary().index("Ġworld")
    leading = [vocabulary().index("<|endoftext|>")] if add_bos else []
    assert tokens.fill("hello", " world") == [*leading, before, hello, after, world, middle]
    assert tokens.fill("", "") == [*leading, before, after, middle]


def test_a_model_that_cannot_fill_a_gap_says_so(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="not trained to fill in"):
        codec(tmp_path).fill("a", "b")
