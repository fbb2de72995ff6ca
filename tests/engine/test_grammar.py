"""Constraints: compiled or refused, whatever they are; masks let only what matches pass."""

import json
import re
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from rayhost.engine.codec import LlamaCodec
from rayhost.engine.grammar import MAX_FORCED, STACK, Grammar, GrammarError, Matcher
from rayhost.engine.grammar_check import MAX_RULES, Invalid, Unfinished
from rayhost.engine.grammar_checker import Checker
from rayhost.engine.grammar_compiler import MAX_SOURCE, Grammars, tokenizer_of
from rayhost.engine.llama import LlamaEngine
from rayhost.ipc.messages import Constraint
from rayhost.worker.constraints import FIRST_S, LONGEST_S
from tests.worker.process import load_of

T = TypeVar("T")
Compile = Callable[[str, Any], Grammar]


def with_stack(work: Callable[[], T]) -> T:
    """Run on a thread with the stack that a worker compiles with."""
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except GrammarError as error:
            done.set_exception(error)

    usual = threading.stack_size(STACK)
    try:
        threading.Thread(target=run, daemon=True).start()
    finally:
        threading.stack_size(usual)
    return done.result(60)


@pytest.fixture(scope="module")
def codec(tiny_model: Path) -> LlamaCodec:
    return LlamaEngine(load_of(tiny_model)).codec


@pytest.fixture(scope="module")
def compiled(codec: LlamaCodec) -> Compile:
    grammars = Grammars(lambda: tokenizer_of(codec.words()))

    def compile_(kind: Any, source: Any) -> Grammar:
        text = source if isinstance(source, str) else json.dumps(source)
        return with_stack(lambda: grammars.compile(Constraint(kind, text), LONGEST_S))

    return compile_


def allowed(matcher: Matcher, codec: LlamaCodec, *, ends: bool = True) -> list[int]:
    row = np.zeros(codec.vocabulary, np.float32)
    matcher.restrict(row, ends=ends)
    found: list[int] = np.flatnonzero(row == 0).tolist()
    return found


def walk(grammar: Grammar, codec: LlamaCodec, text: str) -> Matcher:
    """Accept a text, each token of which the mask before it must let pass."""
    matcher = grammar.matcher()
    for token in codec.tokenize(text, add_special=False, parse_special=False):
        assert token in allowed(matcher, codec)
        matcher.accept([token])
    return matcher


@pytest.mark.parametrize(
    ("kind", "source", "text"),
    [
        ("json_object", "", '{"a":[1,{"b":null}]}'),
        ("json_schema", {"type": "object", "properties": {"a": {"enum": [1]}}}, '{"a":1}'),
        ("json_schema", {"type": "string", "pattern": "^h+$"}, '"hhh"'),
        ("json_schema", "true", '"h"'),
        ("regex", "(hello|bye) world", "hello world"),
        ("gbnf", 'root ::= "a" more\nmore ::= [b-d]+ ("\\n" | "x")', "abd\n"),
        ("gbnf", 'root ::= ("a"{2}){2} (("b"+)?){1,2} [d]', "aaaabbd"),
        ("gbnf", 'root ::= (("a"{2}){2}){1} "b"', "aaaab"),
        ("gbnf", r'root ::= "\u0061\U00000062" [\u0063-\u0065] "!"', "abd!"),
        ("gbnf", r'root ::= [\u005d\u005e\u005c] "\u0022\u005c\u000a" [^\u0061] "."', ']"\\\nb.'),
        ("gbnf", r'root ::= "\u00e9" [\u00e0-\u00ff] "\U0001F600" "\\u00e9"', "éü😀\\u00e9"),
        ("lark", 'start: "a" %json {"type":"object"}', "a{}"),
    ],
)
def test_what_matches_passes_and_then_only_its_end(
    compiled: Compile, codec: LlamaCodec, kind: str, source: Any, text: str
) -> None:
    matcher = walk(compiled(kind, source), codec, text)
    assert matcher.finished
    assert allowed(matcher, codec) == codec.end_tokens().tolist()
    assert allowed(matcher, codec, ends=False) == []


def test_the_end_may_come_only_where_the_text_matches(compiled: Compile, codec: LlamaCodec) -> None:
    end = codec.end_tokens().tolist()[0]
    matcher = compiled("regex", "ab(cd)?").matcher()
    for text, may_end in (("a", False), ("b", False), ("c", True), ("d", False)):
        assert (end in allowed(matcher, codec)) is may_end
        assert end not in allowed(matcher, codec, ends=False)
        matcher.accept(codec.tokenize(text, add_special=False, parse_special=False))
    assert matcher.finished


def test_an_answer_to_a_schema_has_no_white_space_to_get_lost_in(
    compiled: Compile, codec: LlamaCodec
) -> None:
    schema = {"type": "object", "additionalProperties": {"type": "object"}}
    matcher = walk(compiled("json_schema", schema), codec, '{"a":')
    pieces = [codec.piece(token) for token in allowed(matcher, codec)]
    assert pieces
    assert not [piece for piece in pieces if piece.strip() != piece]


@pytest.mark.parametrize(
    ("schema", "is_closed"),
    [
        ({"properties": {"a": {}}}, True),
        ({"properties": {"a": {}}, "required": ["a"]}, True),
        ({"properties": {"a": {}}, "required": ["b"]}, False),
        ({"properties": {"a": {}}, "additionalProperties": {"type": "null"}}, False),
        ({"type": "object"}, False),
        ({"properties": {"a": {}}, "required": ["a"], "minProperties": 2}, False),
        ({"allOf": [{"properties": {"a": {}}}, {"properties": {"c": {}}}]}, False),
        ({"properties": {"a": {}}, "anyOf": [{"properties": {"c": {}}}]}, False),
        ({"anyOf": [{"type": "null"}, {"properties": {"a": {}}}]}, True),
        ({"$ref": "#/$defs/x", "$defs": {"x": {"properties": {"a": {}}}}}, True),
        (
            {"$ref": "#/$defs/x", "$defs": {"x": {"properties": {"a": {}}}}, "properties": {}},
            False,
        ),
    ],
)
def test_an_object_has_the_properties_that_are_named_unless_more_is_said(
    compiled: Compile, codec: LlamaCodec, schema: dict[str, Any], is_closed: bool
) -> None:
    matcher = compiled("json_schema", {"type": "object", **schema}).matcher()
    named = '{"a":0,"' if schema.get("required") == ["a"] and not is_closed else '{"'
    for token in codec.tokenize(named, add_special=False, parse_special=False):
        matcher.accept([token])
    (b,) = codec.tokenize("b", add_special=False, parse_special=False)
    assert (b not in allowed(matcher, codec)) is is_closed


def test_words_of_the_answer_are_not_taken_for_those_of_a_schema(compiled: Compile) -> None:
    properties = {"properties": {"type": "string"}, "required": {"type": "null"}}
    assert compiled("json_schema", {"type": "object", "properties": properties})
    assert compiled("json_schema", {"enum": [{"properties": {"a": 1}}]})


def test_any_object_has_some_but_not_without_end(compiled: Compile, codec: LlamaCodec) -> None:
    grammar = compiled("json_object", "")
    walk(grammar, codec, '{"a": 1}')
    matcher = walk(grammar, codec, "{\n" + " " * 20)
    assert {codec.piece(token)[:1] for token in allowed(matcher, codec)} == {b'"', b"}"}


def test_a_schema_cannot_loosen_what_is_promised(compiled: Compile) -> None:
    with pytest.raises(GrammarError, match="uniqueItems"):
        compiled(
            "json_schema",
            {"x-guidance": {"lenient": True}, "type": "array", "uniqueItems": True},
        )


@pytest.mark.parametrize(
    "options",
    [{"whitespace_pattern": "#+"}, {"whitespace_flexible": True}, {"item_separator": "#,"}, 7],
)
def test_a_schema_cannot_change_what_is_white_space(
    compiled: Compile, codec: LlamaCodec, options: object
) -> None:
    pair = {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 2}
    inner = {**pair, "x-guidance": options}
    outer = {"type": "array", "items": inner, "minItems": 1}
    for schema, begun in ((inner, "["), (inner, "[false"), (outer, "[[false")):
        matcher = compiled("json_schema", schema).matcher()
        matcher.accept(codec.tokenize(begun, add_special=False, parse_special=False))
        next_ = {codec.piece(token)[:1] for token in allowed(matcher, codec)}
        assert next_ <= {b"t", b"f", b","}


def test_control_tokens_never_pass_for_text(compiled: Compile, codec: LlamaCodec) -> None:
    matcher = compiled("regex", r"[<|a-z_>]{5,40}").matcher()
    names = [codec.name(token) for token in allowed(matcher, codec)]
    assert b"<" in names
    assert not [name for name in names if name.startswith(b"<|im")]


def test_what_must_follow_is_given_at_once(compiled: Compile, codec: LlamaCodec) -> None:
    matcher = walk(compiled("regex", "(x|y) hello world"), codec, "y")
    forced = matcher.forced()
    assert b"".join(map(codec.piece, forced)) == b" hello world"
    assert matcher.finished
    assert matcher.forced() == []


def test_no_more_than_some_must_follow_at_once(compiled: Compile, codec: LlamaCodec) -> None:
    matcher = walk(compiled("regex", "(x|y)" + "qz" * 60), codec, "y")
    assert len(matcher.forced()) == len(matcher.forced()) == MAX_FORCED


def test_two_matchers_of_one_grammar_know_nothing_of_each_other(
    compiled: Compile, codec: LlamaCodec
) -> None:
    grammar = compiled("regex", "ab|cd")
    first, second = grammar.matcher(), grammar.matcher()
    before = allowed(second, codec)
    first.accept(codec.tokenize("a", add_special=False, parse_special=False))
    assert allowed(first, codec) != before == allowed(second, codec)


def test_a_token_that_does_not_match_is_an_error(compiled: Compile, codec: LlamaCodec) -> None:
    matcher = compiled("regex", "ab|cd").matcher()
    with pytest.raises(GrammarError) as caught:
        matcher.accept(codec.tokenize("b", add_special=False, parse_special=False))
    assert caught.value.code == "grammar_too_complex"


def deep(levels: int) -> str:
    return '{"type":"array","items":' * levels + "{}" + "}" * levels


def chain(levels: int, link: str) -> str:
    defs = ",".join(f'"{i}":{link % (i + 1)}' for i in range(levels))
    return f'{{"$defs":{{{defs},"{levels}":{{}}}},"$ref":"#/$defs/0"}}'


def patterns(count: int) -> dict[str, Any]:
    return {"allOf": [{"type": "string", "pattern": f"a[ab]{{{i + 5}}}"} for i in range(count)]}


REFUSED: list[tuple[str, Any, str, str]] = [
    ("json_schema", "{", "invalid_json_schema", "no JSON"),
    ("json_schema", "[1]", "invalid_json_schema", "object"),
    ("json_schema", "null", "invalid_json_schema", "object"),
    ("json_schema", "false", "invalid_json_schema", "no text can match it"),
    ("json_schema", {"type": "strin"}, "invalid_json_schema", "strin"),
    ("json_schema", {"not": {}}, "invalid_json_schema", '"not"'),
    ("json_schema", {"type": "string", "format": "x"}, "invalid_json_schema", "format: x"),
    ("json_schema", {"$ref": "#/$defs/x"}, "invalid_json_schema", "does not exist"),
    ("json_schema", {"$ref": "http://localhost/"}, "invalid_json_schema", "does not fetch"),
    ("json_schema", {"$ref": "#"}, "invalid_json_schema", "no text can match"),
    ("json_schema", {"allOf": [{"const": 1}, {"const": 2}]}, "invalid_json_schema", ""),
    ("json_schema", deep(500), "invalid_json_schema", "too deeply"),
    ("json_schema", deep(20_000), "invalid_json_schema", "bytes"),
    ("json_schema", patterns(40), "invalid_json_schema", "too complex"),
    ("calls", json.dumps(["start:", patterns(40), {}]), "invalid_function_parameters", "complex"),
    ("calls", json.dumps("x" * 2**18), "invalid_function_parameters", "bytes"),
    ("json_schema", {"enum": ["x" * 2**20]}, "invalid_json_schema", "bytes"),
    ("json_schema", {"type": "integer", "multipleOf": 999999937}, "invalid_json_schema", "fuel"),
    ("json_schema", {"const": 2**53 + 1}, "invalid_json_schema", "const: 9007199254740993 cannot"),
    ("json_schema", {"const": -(2**63)}, "invalid_json_schema", "const: -9223372036854775808"),
    ("regex", "(", "invalid_regex", "unclosed"),
    ("regex", "(?=a)b", "invalid_regex", "look-around"),
    ("regex", r"[^\s\S]", "invalid_regex", "no text can match"),
    ("regex", "(" * 20_000 + "a" + ")" * 20_000, "invalid_regex", "regex"),
    ("gbnf", "root ::= a", "invalid_grammar", "'a' not found"),
    ("gbnf", "a ::= b", "invalid_grammar", "not found"),
    ("gbnf", "root = b", "invalid_grammar", "::="),
    ("gbnf", r'root ::= "\ud800"', "invalid_grammar", r"\ud800 is no character"),
    ("gbnf", r"root ::= [\u00]", "invalid_grammar", "escape"),
    ("gbnf", "root ::= root", "invalid_grammar", "no text can match"),
    ("gbnf", "root ::= " + "(" * 5000 + '"a"' + ")" * 5000, "invalid_grammar", "too deeply"),
    ("gbnf", "\n".join(f"r{i} ::= r{i + 1}" for i in range(MAX_RULES + 1)), "invalid_grammar", ""),
    ("lark", "start: " + "(" * 500 + '"a"' + ")" * 500, "invalid_grammar", "deeply nested"),
]


@pytest.mark.parametrize(("kind", "source", "code", "says"), REFUSED)
def test_what_cannot_be_followed_is_refused_with_the_reason(
    compiled: Compile, kind: str, source: Any, code: str, says: str
) -> None:
    with pytest.raises(GrammarError) as caught:
        compiled(kind, source)
    assert caught.value.code == code
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


LARGE: list[tuple[str, Any]] = [
    ("json_schema", {"enum": [f"value {i * 7919 % 10007}" for i in range(6000)]}),
    ("json_schema", {"properties": {f"p{i}": {"type": "string"} for i in range(240)}}),
    ("json_schema", {"properties": {f"p{i}": {} for i in range(900)}, "required": []}),
    ("json_schema", chain(2700, '{"items":{"$ref":"#/$defs/%d"}}')),
    ("json_schema", chain(2700, '{"properties":{"x":{"$ref":"#/$defs/%d"}}}')),
    ("json_schema", chain(2700, '{"anyOf":[{"$ref":"#/$defs/%d"}]}')),
    ("json_schema", {"type": "string", "maxLength": 10**6}),
    ("json_schema", {"type": "array", "minItems": 10**5, "items": {"type": "integer"}}),
    ("json_schema", {"type": "string", "pattern": "^(a|a)*$"}),
    ("json_schema", {"type": "string", "pattern": "^[ab]*a[ab]{40}$"}),
    ("json_schema", {"$defs": {"t": {"items": {"$ref": "#/$defs/t"}}}, "$ref": "#/$defs/t"}),
    ("regex", "((((a{1,1000}){1,1000}){1,1000}){1,1000})"),
    ("regex", "(.*a.*b.*c.*d.*e.*f.*){30}"),
    ("regex", r"(\w{1,500}\W{1,500}){1,50}"),
    ("lark", 'start: start start | "a" | '),
    ("lark", 'start: x\nx: x x | x x x | "a" | "b" | '),
    (
        "lark",
        "start: r0\n" + "\n".join(f'r{i}: r{i + 1} "b"' for i in range(6000)) + '\nr6000: "c"',
    ),
    ("lark", "start: (A|B)*\nA: /[a-z]*a[a-z]{30}/\nB: /[a-z]*b[a-z]{31}/"),
]


@pytest.mark.parametrize(("kind", "source"), LARGE)
def test_what_is_large_or_ambiguous_works_or_ends_with_a_reason(
    compiled: Compile, codec: LlamaCodec, kind: str, source: Any
) -> None:
    random = np.random.default_rng(1)
    try:
        matcher = compiled(kind, source).matcher()
        for _ in range(120):
            tokens = [t for t in allowed(matcher, codec) if not codec.ends(t)]
            if not tokens or matcher.finished:
                return
            matcher.accept([int(random.choice(tokens))])
            matcher.forced()
    except GrammarError as error:
        ended = error
    else:
        return
    assert ended.code in ("grammar_too_complex", "invalid_json_schema")


def test_a_child_that_had_nothing_to_do_is_replaced(compiled: Compile) -> None:
    checker = Checker(idle_s=0.0)
    for _ in range(2):
        assert json.loads(checker.check(Constraint("regex", "a"), LONGEST_S))


def test_time_that_was_too_short_is_told_from_what_cannot_be_compiled() -> None:
    checker = Checker()
    with pytest.raises(Unfinished, match=f"{FIRST_S:g} s"):
        checker.check(Constraint("json_schema", json.dumps(patterns(40))), FIRST_S)
    with pytest.raises(Invalid) as caught:
        checker.check(Constraint("json_schema", json.dumps({"not": {}})), FIRST_S)
    assert not isinstance(caught.value, Unfinished)
    for _ in range(3):  # what one source has used is not the next one's
        assert checker.check(Constraint("regex", "a"), FIRST_S)


def test_the_next_source_is_not_harmed_by_one_that_was_too_much(compiled: Compile) -> None:
    with pytest.raises(GrammarError, match="too complex"):
        compiled("json_schema", patterns(40))
    assert compiled("regex", "a").matcher()


def test_a_source_as_long_as_is_allowed_is_not_too_long(compiled: Compile) -> None:
    assert compiled("regex", "a" * MAX_SOURCE)
    with pytest.raises(GrammarError, match=re.escape(str(MAX_SOURCE))):
        compiled("regex", "\u00e9" * (MAX_SOURCE // 2 + 1))
