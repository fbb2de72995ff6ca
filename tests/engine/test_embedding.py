"""Vectors by llama.cpp: of a text alone or beside others, pooled and scaled as the file says."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import PoolingType as Pooling

from rayhost.engine.base import LoadError, PromptError, Vector
from rayhost.engine.embedding import LlamaEmbedder
from rayhost.engine.llama import LlamaEngine
from rayhost.engine.native import open_model, task_of
from rayhost.engine.pairs import PairCodec
from tests.engine.tiny_bert import (
    BEGIN,
    CONTEXT,
    END,
    SIZE,
    TOKENS,
    UNKNOWN,
    WORDS,
    weights,
    write_tiny_bert,
)
from tests.support.tiny_gguf import write_tiny_llama
from tests.worker.process import load_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def embedder(path: Path, **changes: Any) -> LlamaEmbedder:
    load = load_of(path, **changes)
    return LlamaEmbedder(load, open_model(load))


def bert(folder: Path, pooling: Pooling = Pooling.MEAN, **changes: Any) -> LlamaEmbedder:
    return embedder(write_tiny_bert(folder / f"{pooling}.gguf", pooling, **changes))


def vectors(model: LlamaEmbedder, *prompts: list[int]) -> list[Vector]:
    model.batch.clear()
    for slot, prompt in enumerate(prompts):
        model.batch.put(slot, prompt)
    model.encode()
    return [model.vector(slot) for slot in range(len(prompts))]


def cosine(one: Vector, other: Vector) -> float:
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))


@pytest.mark.parametrize(
    ("pooling", "task"),
    [
        (Pooling.MEAN, "embed"),
        (Pooling.CLS, "embed"),
        (Pooling.LAST, "embed"),
        (Pooling.RANK, "rank"),
        (Pooling.NONE, "generate"),
        (None, "generate"),
    ],
)
def test_a_model_s_pooling_says_what_it_is_for(
    folder: Path, pooling: Pooling | None, task: str
) -> None:
    load = load_of(write_tiny_bert(folder / "bert.gguf", pooling))
    assert task_of(open_model(load)) == task


def test_what_a_model_of_vectors_is(folder: Path) -> None:
    facts = bert(folder).facts
    assert (facts.task, facts.architecture, facts.dimensions) == ("embed", "bert", SIZE)
    assert (facts.context, facts.train_context, facts.vocabulary) == (CONTEXT, CONTEXT, TOKENS)
    assert (facts.concurrency, facts.batch, facts.chat) == (4, 128, False)


def test_a_vector_is_normalised_unless_the_file_says_otherwise(folder: Path) -> None:
    prompt = [BEGIN, 5, 6, END]
    (unit,) = vectors(bert(folder), prompt)
    (same,) = vectors(bert(folder, normalize=True), prompt)
    (raw,) = vectors(bert(folder, normalize=False), prompt)
    assert np.linalg.norm(unit) == pytest.approx(1)
    assert unit.tolist() == same.tolist()
    assert np.linalg.norm(raw) > 1.5
    assert cosine(unit, raw) == pytest.approx(1)


def test_tokens_are_pooled_as_the_file_says(folder: Path) -> None:
    prompt = [BEGIN, 5, 6, END]
    made = {
        pooling: vectors(bert(folder, pooling, normalize=False), prompt)[0]
        for pooling in (Pooling.MEAN, Pooling.CLS, Pooling.LAST)
    }
    assert cosine(made[Pooling.CLS], made[Pooling.LAST]) < 0.99
    assert cosine(made[Pooling.MEAN], made[Pooling.CLS]) < 0.99


@pytest.mark.parametrize("pooling", [Pooling.MEAN, Pooling.CLS, Pooling.LAST])
def test_a_vector_does_not_depend_on_what_is_beside_it(folder: Path, pooling: Pooling) -> None:
    model = bert(folder, pooling)
    prompts = [[BEGIN, *range(5, 5 + length), END] for length in (1, 9, 40, 3)]
    together = vectors(model, *prompts)
    for prompt, beside in zip(prompts, together, strict=True):
        (alone,) = vectors(model, prompt)
        assert cosine(alone, beside) > 0.9999
    assert cosine(together[0], together[1]) < 0.999


def test_a_generating_architecture_embeds_where_its_file_says_so(folder: Path) -> None:
    path = write_tiny_llama(folder / "llama.gguf", pooling=Pooling.LAST)
    model = embedder(path, kv_layout="split")
    assert model.facts.task == "embed"
    prompts = [[*range(length, 3 * length)] for length in (4, 30, 2)]
    together = vectors(model, *prompts)
    for prompt, beside in zip(prompts, together, strict=True):
        (alone,) = vectors(model, prompt)  # nothing of the batch before is left
        assert cosine(alone, beside) > 0.9999
    assert cosine(together[0], together[2]) < 0.999


def test_the_longest_prompt_fits_and_no_context_is_longer_than_what_was_trained(
    folder: Path,
) -> None:
    model = embedder(write_tiny_bert(folder / "b.gguf", Pooling.MEAN), batch=16, context=4096)
    assert (model.facts.context, model.facts.batch) == (CONTEXT, CONTEXT)
    (vector,) = vectors(model, [BEGIN, *[7] * (CONTEXT - 2), END])
    assert np.isfinite(vector).all()
    with pytest.raises(ValueError, match=f"{CONTEXT + 1} tokens in a batch of {CONTEXT}"):
        vectors(model, [7] * (CONTEXT + 1))


def test_other_sizes_are_taken_while_it_lives(folder: Path) -> None:
    path = write_tiny_bert(folder / "b.gguf", Pooling.MEAN)
    model = embedder(path)
    (before,) = vectors(model, [BEGIN, 5, END])
    model.resize(load_of(path, context=32, concurrency=2, batch=8))
    assert (model.facts.context, model.facts.concurrency, model.facts.batch) == (32, 2, 32)
    assert model.codec.context == 32
    (after,) = vectors(model, [BEGIN, 5, END])
    assert cosine(before, after) > 0.9999


def test_weights_that_are_no_numbers_are_a_load_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = weights()
    broken["token_embd.weight"][:] = np.nan
    monkeypatch.setattr("tests.engine.tiny_bert.weights", lambda _seed: broken)
    with pytest.raises(LoadError, match="weights are broken"):
        bert(folder)


def test_a_model_of_vectors_is_none_that_generates(folder: Path) -> None:
    with pytest.raises(LoadError, match="embeddings or for ranking"):
        LlamaEngine(load_of(write_tiny_bert(folder / "b.gguf", Pooling.MEAN)))


# Ranking


def test_a_score_is_what_the_head_makes_of_the_first_token(folder: Path) -> None:
    ranks = bert(folder, Pooling.RANK)
    assert (ranks.facts.task, ranks.facts.dimensions) == ("rank", 1)
    pair = ranks.codec.pair("who?", "me.")
    (score,) = vectors(ranks, pair)
    (first,) = vectors(bert(folder, Pooling.CLS, normalize=False), pair)
    head = weights()
    hidden = np.tanh(head["cls.weight"] @ first + head["cls.bias"])
    expected = head["cls.output.weight"] @ hidden + head["cls.output.bias"]
    assert score == pytest.approx(expected, abs=1e-3)


def test_scores_do_not_depend_on_what_is_beside_them(folder: Path) -> None:
    model = bert(folder, Pooling.RANK)
    pairs = [model.codec.pair("who", document) for document in ("a", "bcd", "e f g h")]
    together = [float(score[0]) for score in vectors(model, *pairs)]
    alone = [float(vectors(model, pair)[0][0]) for pair in pairs]
    assert together == pytest.approx(alone, abs=1e-3)
    assert len(set(together)) == 3


# Text


def spelled(codec: PairCodec, tokens: list[int]) -> str:
    return " ".join(WORDS[token] for token in tokens)


def test_a_text_has_the_model_s_tokens_around_it(folder: Path) -> None:
    codec = bert(folder).codec
    assert spelled(codec, codec.text("Ab c!")) == "[CLS] ▁a b ▁c ▁! [SEP]"
    assert spelled(codec, codec.text("")) == "[CLS] [SEP]"
    assert codec.text("☃") == [BEGIN, UNKNOWN, END]


def test_a_long_text_is_ended_once_though_it_is_read_in_blocks(folder: Path) -> None:
    codec = bert(folder).codec
    codec.context = 100_000
    tokens = codec.text("[SEP]ab c " * 1000)
    assert tokens[0] == BEGIN
    assert tokens.count(BEGIN) == 1
    assert tokens.count(END) == 1001
    assert spelled(codec, tokens[-5:]) == "[SEP] ▁a b ▁c [SEP]"


def test_a_pair_is_written_as_llama_cpp_writes_it(folder: Path) -> None:
    codec = bert(folder, Pooling.RANK).codec
    assert spelled(codec, codec.pair("a?", "b c")) == "[CLS] ▁a ▁? [SEP] ▁b ▁c [SEP]"


def test_a_pair_goes_into_the_model_s_own_form_once(folder: Path) -> None:
    path = write_tiny_bert(
        folder / "b.gguf", Pooling.RANK, rerank_template="[CLS]q {query} d {document}[SEP]"
    )
    codec = embedder(path).codec
    assert spelled(codec, codec.pair("a", "b")) == "[CLS] ▁q ▁a ▁d ▁b [SEP]"
    # What a client writes is no place of the form.
    assert codec.pair("{document}", "b").count(WORDS.index("▁b")) == 1


def test_a_model_that_does_not_rank_takes_no_pair(folder: Path) -> None:
    with pytest.raises(PromptError, match="does not rank") as refused:
        bert(folder).codec.pair("a", "b")
    assert refused.value.code == "model_not_supported"
