"""What do masks cost a token, and a grammar to build: llguidance beside llama.cpp's own sampler?

    python -m bench.grammar [--model FILE]

Both follow the same text, which the grammar allows, one token after another, and say for each which
tokens of the vocabulary could come next. llama.cpp does so for all of them (`mask`), or as its
server does for the one that was chosen, and for all only where that one is refused (`one`).
"""

import argparse
import ctypes
import json
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from statistics import mean, median
from typing import Any, NamedTuple

import numpy as np
from llama_cpp import llama_cpp as llama

from bench.compare import default_model
from rayhost.engine.codec import LlamaCodec
from rayhost.engine.grammar import STACK, Grammar
from rayhost.engine.grammar_compiler import Grammars, tokenizer_of
from rayhost.ipc.messages import Constraint
from rayhost.worker.constraints import LONGEST_S

GBNF = r"""root ::= object
value ::= object | array | string | number | "true" | "false" | "null"
object ::= "{" (string ":" value ("," string ":" value)*)? "}"
array ::= "[" (value ("," value)*)? "]"
string ::= "\"" ([^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}))* "\""
number ::= "-"? ([0-9] | [1-9] [0-9]{1,15}) ("." [0-9]+)? ([eE] [-+]? [0-9]{1,15})?
"""
TEXT = {
    "name": "Ada Lovelace",
    "born": 1815,
    "tags": ["mathematics", "poetry", "engines"],
    "address": {"street": "12 St James's Square", "city": "London"},
    "ratio": -1.25e3,
    "note": "She wrote what is often called the first program.",
}


class Row(NamedTuple):
    """Times in milliseconds; of a mask: median, mean and worst."""

    what: str
    build: float
    masks: list[float]

    def __str__(self) -> str:
        return (
            f"{self.what:44s} {self.build:8.2f} "
            f"{median(self.masks):8.3f} {mean(self.masks):8.3f} {max(self.masks):8.2f}"
        )


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, default=None)
    options = parser.parse_args()
    model, codec = load(options.model or default_model())
    text = json.dumps(TEXT, separators=(",", ":"))
    tokens = codec.tokenize(text, add_special=False, parse_special=False)
    began = time.perf_counter()
    words = codec.words()
    tokenizer = tokenizer_of(words)
    say(f"vocabulary {codec.vocabulary}, {len(tokens)} tokens of text")
    say(f"llguidance's tokenizer: {ms(began):.0f} ms, once\n")
    say(f"{'':44s} {'build':>8s} {'median':>8s} {'mean':>8s} {'worst':>8s}  ms")
    grammars = Grammars(lambda: tokenizer)
    deep(lambda: grammars.compile(Constraint("regex", "a"), LONGEST_S))  # starts the child
    properties = {key: shape(value) for key, value in TEXT.items()}
    schema = {"type": "object", "properties": properties}
    wide = {"type": "object", "properties": {**properties, **filler(200)}}
    cases = {
        "schema of 6 properties": Constraint("json_schema", json.dumps(schema)),
        "schema of 206 properties": Constraint("json_schema", json.dumps(wide)),
        "any object": Constraint("json_object", ""),
        "GBNF of JSON": Constraint("gbnf", GBNF),
    }
    for name, constraint in cases.items():
        say(ours(name, grammars, constraint, tokens, codec))
    for how in ("mask", "one"):
        say(theirs(f"GBNF of JSON, llama.cpp, {how}", words.vocab, tokens, codec, how == "mask"))
    llama.llama_model_free(model)
    del codec


def load(path: Path) -> tuple[Any, LlamaCodec]:
    """Return a model without its weights, and its vocabulary."""
    llama.llama_log_set(_SILENT, ctypes.c_void_p(0))
    llama.llama_backend_init()
    options = llama.llama_model_default_params()
    options.vocab_only = True
    model = llama.llama_model_load_from_file(os.fsencode(path), options)
    if not model:
        raise SystemExit(f"{path} cannot be read")
    return model, LlamaCodec(model, llama.llama_model_get_vocab(model), 4096)


_SILENT = llama.llama_log_callback(lambda *_: None)


def shape(value: object) -> dict[str, Any]:
    """Return a schema that a value matches."""
    match value:
        case dict():
            return {"type": "object", "properties": {k: shape(v) for k, v in value.items()}}
        case list():
            return {"type": "array", "items": shape(value[0])}
        case str():
            return {"type": "string"}
    return {"type": "number"}


def filler(count: int) -> dict[str, Any]:
    """Return properties that the text does not have."""
    return {f"other_{i}": {"type": ("string", "integer")[i % 2]} for i in range(count)}


def ours(
    name: str, grammars: Grammars, constraint: Constraint, tokens: list[int], codec: LlamaCodec
) -> Row:
    """Follow the text through llguidance, as the worker does."""
    began = time.perf_counter()
    grammar = deep(lambda: grammars.compile(constraint, LONGEST_S))
    built = ms(began)
    matcher = grammar.matcher()
    row = np.zeros(codec.vocabulary, np.float32)
    times = []
    for token in tokens:
        row[:] = 0
        began = time.perf_counter()
        matcher.restrict(row)
        matcher.accept([token])
        times.append(ms(began))
        if np.isinf(row[token]):
            raise SystemExit(f"{name} does not allow the text")
    return Row(f"{name}, ours", built, times)


def theirs(name: str, vocab: Any, tokens: list[int], codec: LlamaCodec, whole: bool) -> Row:
    """Follow the text through llama.cpp's grammar sampler."""
    began = time.perf_counter()
    sampler = llama.llama_sampler_init_grammar(vocab, GBNF.encode(), b"root")
    built = ms(began)
    every = (llama.llama_token_data * codec.vocabulary)()
    times = []
    for token in tokens:
        size = codec.vocabulary if whole else 1
        for i in range(size):
            every[i].id, every[i].logit = (i if whole else token), 1.0
        candidates = llama.llama_token_data_array(every, size, -1, False)
        began = time.perf_counter()
        llama.llama_sampler_apply(sampler, ctypes.byref(candidates))
        llama.llama_sampler_accept(sampler, token)
        times.append(ms(began))
        if np.isinf(every[token if whole else 0].logit):
            raise SystemExit(f"{name} does not allow the text")
    llama.llama_sampler_free(sampler)
    return Row(name, built, times)


def deep(work: Callable[[], Grammar]) -> Grammar:
    """Run on a thread with the stack that a worker compiles with."""
    done: Future[Grammar] = Future()
    usual = threading.stack_size(STACK)
    threading.Thread(target=lambda: done.set_result(work()), daemon=True).start()
    threading.stack_size(usual)
    return done.result(60)


def ms(began: float) -> float:
    """Return the milliseconds since."""
    return (time.perf_counter() - began) * 1e3


def say(line: object) -> None:
    """Print a line."""
    os.write(1, f"{line}\n".encode())


if __name__ == "__main__":
    main()
