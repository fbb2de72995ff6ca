"""The real engine on a tiny random model: batches, slots, text, and files that are no models."""

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rayhost.engine.base import LoadError, Logits, PromptError
from rayhost.engine.codec import LlamaCodec
from rayhost.engine.llama import LlamaEngine
from tests.engine.tiny_bert import write_tiny_bert
from tests.support.tiny_gguf import CONTROL, vocabulary, write_broken_gguf, write_tiny_llama
from tests.worker.process import load_of

TEXT_TOKENS = len(vocabulary()) - len(CONTROL)
BOS, TURN, END = range(TEXT_TOKENS, TEXT_TOKENS + 3)
load = load_of
LAYOUTS = [("f16", "split"), ("f16", "unified"), ("q8_0", "split"), ("q8_0", "unified")]


@pytest.fixture(scope="module")
def codec(tiny_model: Path) -> LlamaCodec:
    return LlamaEngine(load(tiny_model)).codec


def prompt(number: int, size: int) -> list[int]:
    """A prompt that no other number begins like."""
    random = np.random.default_rng(number)
    return [int(token) for token in random.integers(0, TEXT_TOKENS, size)]


def compute(engine: LlamaEngine, slot: int, tokens: list[int], chunk: int) -> Logits:
    """Prefill a prompt into an empty slot in chunks, and return the logits after it."""
    for start in range(0, len(tokens), chunk):
        part = tokens[start : start + chunk]
        engine.batch.clear()
        engine.batch.add(slot, part, start, due=start + chunk >= len(tokens))
        engine.decode()
    row: Logits = engine.logits()[0].copy()
    return row


def alone(engine: LlamaEngine, tokens: list[int], new: int, slot: int = 0) -> list[int]:
    """Generate greedily in one slot, with nothing else in the context's batch."""
    made = [int(compute(engine, slot, tokens, engine.batch.capacity).argmax())]
    while len(made) < new:
        engine.batch.clear()
        engine.batch.add(slot, made[-1:], len(tokens) + len(made) - 1, due=True)
        engine.decode()
        made.append(int(engine.logits()[0].argmax()))
    engine.forget(slot)
    return made


@pytest.mark.parametrize(("kv_type", "kv_layout"), LAYOUTS)
def test_greedy_gives_the_same_alone_in_a_batch_and_chunked(
    tiny_model: Path, kv_type: str, kv_layout: str
) -> None:
    engine = LlamaEngine(load(tiny_model, kv_type=kv_type, kv_layout=kv_layout))
    prompts = [prompt(number, size) for number, size in enumerate((40, 3, 17, 29))]
    expected = [alone(engine, tokens, 24) for tokens in prompts]
    assert len({tuple(tokens) for tokens in expected}) == 4
    assert all(len(set(tokens)) > 4 for tokens in expected), "a model that only repeats proves less"

    made: list[list[int]] = []
    for slot, tokens in enumerate(prompts):
        made.append([int(compute(engine, slot, tokens, chunk=7).argmax())])
    for _ in range(23):
        engine.batch.clear()
        for slot, tokens in enumerate(prompts):
            position = len(tokens) + len(made[slot]) - 1
            engine.batch.add(slot, made[slot][-1:], position, due=True)
        engine.decode()
        for slot, row in enumerate(engine.logits()):
            made[slot].append(int(row.argmax()))
    assert made == expected


@pytest.mark.parametrize(("kv_type", "kv_layout"), LAYOUTS)
def test_rows_of_logits_come_in_the_order_in_which_they_were_asked_for(
    tiny_model: Path, kv_type: str, kv_layout: str
) -> None:
    engine = LlamaEngine(load(tiny_model, kv_type=kv_type, kv_layout=kv_layout, batch=64))
    prompts = [prompt(number, 9) for number in range(3)]
    expected = []
    for tokens in prompts:
        expected.append(compute(engine, 0, tokens, chunk=64))
        engine.forget(0)
    order = [2, 0, 1]  # not that of the slots; a fourth prompt is not due
    engine.batch.clear()
    for number in order:
        engine.batch.add(number, prompts[number], 0, due=True)
    engine.batch.add(3, prompt(9, 20), 0, due=False)
    engine.decode()
    rows = engine.logits()
    assert rows.shape == (3, engine.facts.vocabulary)
    for row, number in zip(rows, order, strict=True):
        np.testing.assert_allclose(row, expected[number], atol=2e-2)
        assert row.argmax() == expected[number].argmax()


@pytest.mark.parametrize(("kv_type", "kv_layout"), LAYOUTS)
def test_a_truncated_slot_goes_on_as_if_its_end_had_never_been(
    tiny_model: Path, kv_type: str, kv_layout: str
) -> None:
    engine = LlamaEngine(load(tiny_model, kv_type=kv_type, kv_layout=kv_layout, batch=64))
    begin, end = prompt(1, 20), prompt(2, 9)
    expected = alone(engine, begin + end, 12, slot=2)
    compute(engine, 2, begin + prompt(3, 30), chunk=64)
    compute(engine, 1, prompt(4, 30), chunk=64)  # a neighbour that must not be touched
    engine.truncate(2, len(begin))
    engine.batch.clear()
    engine.batch.add(2, end, len(begin), due=True)
    engine.decode()
    made = [int(engine.logits()[0].argmax())]
    while len(made) < len(expected):
        engine.batch.clear()
        engine.batch.add(2, made[-1:], len(begin) + len(end) + len(made) - 1, due=True)
        engine.decode()
        made.append(int(engine.logits()[0].argmax()))
    assert made == expected


@pytest.mark.parametrize("kv_layout", ["split", "unified"])
def test_a_forgotten_slot_starts_afresh_and_leaves_the_others_alone(
    tiny_model: Path, kv_layout: str
) -> None:
    engine = LlamaEngine(load(tiny_model, kv_layout=kv_layout))
    first, second = prompt(1, 30), prompt(2, 30)
    expected = alone(engine, first, 12), alone(engine, second, 12, slot=1)
    kept = compute(engine, 1, second, 128)
    for _ in range(3):  # a neighbour comes and goes
        assert alone(engine, first, 12) == expected[0]
    made = [int(kept.argmax())]
    for _ in range(11):
        engine.batch.clear()
        engine.batch.add(1, made[-1:], len(second) + len(made) - 1, due=True)
        engine.decode()
        made.append(int(engine.logits()[0].argmax()))
    assert made == expected[1]


@pytest.mark.parametrize("kv_layout", ["split", "unified"])
def test_every_slot_holds_a_whole_context_at_once(tiny_model: Path, kv_layout: str) -> None:
    engine = LlamaEngine(load(tiny_model, kv_layout=kv_layout, context=200, batch=50))
    for slot in range(4):
        compute(engine, slot, prompt(slot, 200), chunk=50)


def test_logits_may_be_written_to(tiny_model: Path) -> None:
    engine = LlamaEngine(load(tiny_model))
    engine.batch.clear()
    engine.batch.add(0, [1, 2], 0, due=True)
    engine.decode()
    engine.logits()[0, 5] = 1e9
    assert engine.logits()[0].argmax() == 5


def test_a_file_that_does_not_say_its_precision_has_the_one_it_has(tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "tiny.gguf", file_type=None)
    assert LlamaEngine(load(path)).facts.quantization == "all F32"


def test_the_facts_are_those_of_the_file_and_the_context(tiny_model: Path) -> None:
    facts = LlamaEngine(load(tiny_model, context=100, concurrency=3, batch=32)).facts
    assert (facts.architecture, facts.quantization) == ("llama", "all F32")
    assert (facts.context, facts.train_context) == (100, 512)
    assert (facts.vocabulary, facts.concurrency, facts.batch) == (len(vocabulary()), 3, 32)
    assert facts.parameters * 4 == facts.size_bytes
    assert facts.chat


def test_a_batch_beyond_its_capacity_is_refused_and_left_as_it_was(tiny_model: Path) -> None:
    batch = LlamaEngine(load(tiny_model, batch=8)).batch
    batch.add(0, [1] * 6, 0, due=False)
    with pytest.raises(ValueError, match="9 tokens in a batch of 8"):
        batch.add(1, [1] * 3, 0, due=True)
    assert (batch.size, batch.outputs) == (6, 0)


# Text.


@settings(deadline=None)
@given(st.text(max_size=60))
@example("hello world \u00e9 \U0001f600 \x00\r\n\t  ")
@example("the <|im_end")
def test_text_survives_tokens_and_back(codec: LlamaCodec, text: str) -> None:
    tokens = codec.text(text)
    assert b"".join(codec.piece(token) for token in tokens) == text.encode()


def test_a_lone_surrogate_becomes_a_question_mark(codec: LlamaCodec) -> None:
    assert b"".join(map(codec.piece, codec.text("a\ud800b"))) == b"a?b"


def test_a_long_text_is_tokenized(codec: LlamaCodec) -> None:
    text = "hello world " * 200  # one that no context could hold is refused unread
    assert b"".join(map(codec.piece, codec.text(text))) == text.encode()


def test_no_text_is_no_tokens(codec: LlamaCodec) -> None:
    assert codec.text("") == []


def test_control_tokens_are_read_from_text_and_have_no_text(codec: LlamaCodec) -> None:
    assert codec.text("<|im_start|>a<|im_end|>")[::2] == [TURN, END]
    assert [codec.piece(token) for token in (BOS, TURN, END)] == [b"", b"", b""]


def test_a_turn_ends_with_the_end_token_only(codec: LlamaCodec) -> None:
    assert codec.ends(END)
    assert not any(codec.ends(token) for token in (0, 5, TURN, TEXT_TOKENS - 1))


def test_a_chat_is_rendered_and_tokenized(codec: LlamaCodec) -> None:
    assert codec.has_chat
    tokens = codec.chat(({"role": "user", "content": "hello"},))
    assert tokens == codec.text("<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n")
    assert (tokens[0], tokens.count(TURN), tokens.count(END)) == (TURN, 2, 1)


def test_a_model_that_leads_with_a_token_gets_it_once(tmp_path: Path) -> None:
    codec = LlamaEngine(load(write_tiny_llama(tmp_path / "m", add_bos=True))).codec
    assert codec.text("hello")[0] == BOS
    tokens = codec.chat(({"role": "user", "content": "hello"},))
    assert tokens[:2] == [BOS, TURN]


def test_a_template_that_writes_the_leading_token_itself_does_not_get_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.support.tiny_gguf.CHATML", "{{ bos_token }}hello")
    codec = LlamaEngine(load(write_tiny_llama(tmp_path / "m", add_bos=True))).codec
    assert codec.chat(()) == codec.text("hello")


def test_a_model_without_a_template_does_not_chat(tmp_path: Path) -> None:
    engine = LlamaEngine(load(write_tiny_llama(tmp_path / "m", chat=False)))
    assert not engine.facts.chat
    with pytest.raises(PromptError, match="no chat template") as caught:
        engine.codec.chat(({"role": "user", "content": "hello"},))
    assert caught.value.code == "chat_template_missing"


def test_a_model_with_a_broken_template_completes_but_does_not_chat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.support.tiny_gguf.CHATML", "{% for %}")
    codec = LlamaEngine(load(write_tiny_llama(tmp_path / "m"))).codec
    for _ in range(2):
        with pytest.raises(PromptError, match="does not compile"):
            codec.chat(({"role": "user", "content": "hello"},))
    assert codec.text("hello")


# Files that cannot be served.


def not_there(path: Path) -> Path:
    return path


def empty(path: Path) -> Path:
    path.write_bytes(b"")
    return path


def no_gguf(path: Path) -> Path:
    path.write_bytes(b"<!DOCTYPE html>" * 100)
    return path


def without_its_last_tensor(path: Path) -> Path:
    whole = write_tiny_llama(path).read_bytes()
    path.write_bytes(whole[:-20_000])
    return path


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (not_there, "No such file"),
        (empty, "magic"),
        (no_gguf, "magic"),
        (write_broken_gguf, "key-value"),
        (without_its_last_tensor, "not within"),
    ],
)
def test_a_file_that_is_no_model_is_a_load_error_that_says_why(
    write: Callable[[Path], Path], reason: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "model.gguf")
    for _ in range(2):  # the second reason is not the first one's
        with pytest.raises(LoadError, match=reason):
            LlamaEngine(load(path))


def test_a_context_that_cannot_be_had_is_a_load_error(tiny_model: Path) -> None:
    with pytest.raises(LoadError):
        LlamaEngine(load(tiny_model, concurrency=100_000, context=1))


def test_weights_that_are_no_numbers_are_a_load_error(tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "model.gguf")
    (norm,) = (t for t in gguf.GGUFReader(path).tensors if t.name == "output_norm.weight")
    with path.open("r+b") as file:
        file.seek(int(norm.data_offset))
        file.write(np.full(norm.n_elements, np.nan, np.float32).tobytes())
    with pytest.raises(LoadError, match="broken"):
        LlamaEngine(load(path))


def test_a_model_that_does_not_generate_text_is_a_load_error(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="'bert' does not generate text"):
        LlamaEngine(load(write_tiny_bert(tmp_path / "bert.gguf")))


def test_a_resized_engine_computes_as_one_that_was_loaded_so(tiny_model: Path) -> None:
    small = load(tiny_model, context=96, concurrency=2, kv_layout="split", batch=32)
    large = load(tiny_model, context=256, concurrency=4, kv_layout="split")
    tokens = prompt(1, 60)
    expected = alone(LlamaEngine(small), tokens, 8)
    engine = LlamaEngine(large)
    compute(engine, 3, tokens[:-1], 64)
    kept = engine.snapshot(3)
    assert engine.resize(small)
    facts = (engine.facts.context, engine.facts.concurrency, engine.facts.batch)
    assert facts == (96, 2, engine.batch.capacity) == (96, 2, 32)
    engine.restore(1, kept)
    engine.batch.clear()
    engine.batch.add(1, tokens[-1:], len(tokens) - 1, due=True)
    engine.decode()
    assert int(engine.logits()[0].argmax()) == expected[0]
    engine.forget(1)
    assert alone(engine, tokens, 8) == expected


def test_another_number_of_threads_needs_no_other_context(tiny_model: Path) -> None:
    tokens = prompt(1, 20)
    usual = load(tiny_model)
    expected = alone(LlamaEngine(usual), tokens, 4)
    engine = LlamaEngine(usual)
    compute(engine, 0, tokens[:-1], 64)
    assert engine.retune(load(tiny_model, threads=usual.threads + 1, snapshot_bytes=1 << 20))
    engine.batch.clear()
    engine.batch.add(0, tokens[-1:], len(tokens) - 1, due=True)
    engine.decode()
    assert int(engine.logits()[0].argmax()) == expected[0]
    assert not engine.retune(load(tiny_model, context=usual.context // 2))


def test_snapshots_do_not_outlive_another_kv_type(tiny_model: Path) -> None:
    engine = LlamaEngine(load(tiny_model, kv_type="f16"))
    assert not engine.resize(load(tiny_model, kv_type="q8_0"))
    assert engine.resize(load(tiny_model, kv_type="q8_0", concurrency=2))


def test_a_context_that_cannot_be_had_leaves_the_one_before(tiny_model: Path) -> None:
    usual = load(tiny_model)
    engine = LlamaEngine(usual)
    expected = alone(engine, prompt(1, 20), 4)
    with pytest.raises(LoadError):
        engine.resize(load(tiny_model, context=8, concurrency=300))  # llama.cpp has 256 at most
    assert engine.facts.context == usual.context
    assert alone(engine, prompt(1, 20), 4) == expected
