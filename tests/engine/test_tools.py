"""The grammars of calls: what they let a model write, with a vocabulary of bytes."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from rayhost.engine import grammar_check
from rayhost.engine.base import PromptError
from rayhost.engine.tools import MARKS, MAX_CALLS, Syntax, fault, grammar
from rayhost.http.tool_calls import Call, split_calls
from rayhost.ipc.messages import Constraint, Tools
from tests.http.test_tool_calls import written
from tests.support.hostile_schemas import deep

END = 256
SPECIAL = {mark: 257 + i for i, mark in enumerate(MARKS)}
SYNTAXES: list[Syntax] = ["hermes", "mistral", "llama"]


class Bytes:
    """A vocabulary of the 256 bytes, one token that ends a text, and the marks."""

    eos_token_id = END
    bos_token_id = None

    def __init__(self) -> None:
        marks = [mark.encode() for mark in MARKS]
        self.tokens = [*(bytes([byte]) for byte in range(256)), b"<end>", *marks]
        self.special_token_ids = list(range(END, len(self.tokens)))

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


VOCABULARY = Bytes()
TOKENIZER = LLTokenizer(TokenizerWrapper(VOCABULARY))


def function(name: str = "get_weather", **schema: Any) -> dict[str, Any]:
    default = {"properties": {"city": {"type": "string"}}, "required": ["city"]}
    return {"name": name, "parameters": {"type": "object", **(schema or default)}}


TIME = function("get_time", properties={"zone": {"enum": ["UTC", "CET"]}})
BOTH = (function(), TIME)
PARIS = Call("get_weather", '{"city": "Paris"}')
UTC = Call("get_time", '{"zone": "UTC"}')


def matcher(source: str) -> LLMatcher:
    made = LLMatcher(TOKENIZER, grammar_check.grammar_of("calls", source), log_level=0)
    assert not made.is_error(), made.get_error()
    return made


def tokens(text: str, special: bool) -> list[int]:
    """The text's bytes, or with `special` the marks in it as one token each."""
    if special:
        for mark, token in SPECIAL.items():
            before, found, after = text.partition(mark)
            if found:
                return [*tokens(before, True), token, *tokens(after, True)]
    return list(text.encode())


def allows(source: str, text: str, special: bool = False) -> bool:
    """Whether a text may be the whole answer."""
    made, ids = matcher(source), tokens(text, special)
    return bool(made.try_consume_tokens(ids) == len(ids) and made.is_accepting())


def allows_so_far(source: str, text: str, special: bool = False) -> bool:
    ids = tokens(text, special)
    return bool(matcher(source).try_consume_tokens(ids) == len(ids))


def grammar_of(syntax: Syntax, special: bool, *functions: dict[str, Any], **choice: Any) -> str:
    answer = choice.pop("answer", None)
    return grammar(Tools(functions or BOTH, **choice), syntax, SPECIAL if special else {}, answer)


every_form = pytest.mark.parametrize("special", [False, True], ids=["text", "tokens"])
every_syntax = pytest.mark.parametrize("syntax", SYNTAXES)


@every_form
@every_syntax
def test_required_is_calls_and_nothing_else(syntax: Syntax, special: bool) -> None:
    source = grammar_of(syntax, special, choice="required")
    for calls in ([PARIS], [UTC], [PARIS, UTC], [PARIS] * MAX_CALLS):
        text = written(syntax, *calls)
        assert allows(source, text, special)
        assert split_calls(text, syntax) == (None, calls)
    for text in ("", "Hello", "{}", f"Well, {written(syntax, PARIS)}", written(syntax, PARIS)[:-1]):
        assert not allows(source, text, special)
    assert not allows(source, written(syntax, *[PARIS] * (MAX_CALLS + 1)), special)
    assert not allows(source, written(syntax, PARIS) + "\nHello", special)


@every_form
@every_syntax
def test_a_named_function_is_called_once(syntax: Syntax, special: bool) -> None:
    source = grammar_of(syntax, special, choice="required", only="get_time")
    assert allows(source, written(syntax, UTC), special)
    assert not allows(source, written(syntax, PARIS), special)
    assert not allows(source, written(syntax, UTC, UTC), special)
    stopped = matcher(source)
    stopped.consume_tokens(tokens(written(syntax, UTC), special))
    assert stopped.is_stopped(), "it may only end"


@every_form
@every_syntax
def test_auto_is_text_or_calls_or_text_and_then_calls(syntax: Syntax, special: bool) -> None:
    source = grammar_of(syntax, special)
    for text in ("", "Hello, é <tool> {x} [TOOL] world\n\n", "x" * 3000):
        assert allows(source, text, special)
    mark = "<|python_tag|>" if syntax == "llama" else ""
    for calls in ([PARIS], [PARIS, UTC]):
        assert allows(source, written(syntax, *calls), special)
        assert allows(source, f"I look.\n{mark}{written(syntax, *calls)}", special)
        assert not allows(source, f"{written(syntax, *calls)} Done", special)


@every_form
@every_syntax
def test_without_parallel_there_is_one_call_at_most(syntax: Syntax, special: bool) -> None:
    for choice in ("auto", "required"):
        source = grammar_of(syntax, special, choice=choice, parallel=False)
        assert allows(source, written(syntax, PARIS), special)
        assert not allows(source, written(syntax, PARIS, UTC), special)


BEGUN = {
    "hermes": '<tool_call>\n{"name": "',
    "mistral": '[TOOL_CALLS][{"name": "',
    "llama": '{"name": "',
}
KEY = {"hermes": "arguments", "mistral": "arguments", "llama": "parameters"}


@every_form
@every_syntax
@pytest.mark.parametrize("choice", ["auto", "required"])
def test_a_call_that_is_begun_is_bound(syntax: Syntax, special: bool, choice: str) -> None:
    source = grammar_of(syntax, special, choice=choice)
    begun = BEGUN[syntax]
    head = f'{begun}get_weather", "{KEY[syntax]}": '
    for good in (begun, head, f'{head}{{"city": "Par', f'{head}{{"city": "Paris"}}}}'):
        assert allows_so_far(source, good, special)
        assert allows(source, good, special) == (syntax == "llama" and good.endswith("}}"))
    for bad in (
        begun.replace("name", "type"),
        f"{begun}get_wind",
        f'{begun}get_time", "{KEY[syntax]}": {{"city"',
        f'{begun}get_time", "{KEY[syntax]}": {{"zone": "X',
        f"{head}null",
        f"{head}{{}}",
        f'{head}{{"city": 7',
        f'{head}{{"town": ',
        f'{head}{{"city": "Paris", ',
        f'{head}{{"city": "a\nb',
        f'{head}{{"city": "Paris"}}, ',
    ):
        if bad.startswith('{"type') and choice == "auto":
            continue  # text, to a model that writes calls as bare objects
        assert not allows_so_far(source, bad, special), bad


def test_a_mark_that_is_a_token_may_also_be_spelled() -> None:
    source = grammar_of("hermes", True)
    assert not allows_so_far(source, "<tool_call>Hello", special=False)
    assert allows_so_far(source, "<tool_call>Hello"[:11], special=False)


def test_a_bare_object_that_is_no_call_is_text() -> None:
    source = grammar_of("llama", False)
    for text in ('{"city": "Paris"}', "{}", ' {"nam": 1}', '{"names": []}', "{", '{ "'):
        assert allows(source, text)
    assert not allows_so_far(source, '\n{ "name"')


@every_form
@pytest.mark.parametrize("syntax", ["hermes", "mistral"])
def test_an_answer_matches_its_schema_or_is_calls(syntax: Syntax, special: bool) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    answer = Constraint("json_schema", json.dumps(schema))
    source = grammar_of(syntax, special, answer=answer)
    assert allows(source, '{"n":7}', special)
    assert allows(source, written(syntax, PARIS, UTC), special)
    for bad in ("", "Hello", '{"n":"x"}', f"Well, {written(syntax, PARIS)}"):
        assert not allows(source, bad, special)
    anything = grammar_of(syntax, special, answer=Constraint("json_object", ""))
    assert allows(anything, '{"a":[1,{"b":null}]}', special)
    assert not allows(anything, "[]", special)
    forced = grammar_of(syntax, special, answer=answer, choice="required")
    assert not allows(forced, '{"n":7}', special)


@pytest.mark.parametrize(
    ("syntax", "answer"),
    [
        ("llama", Constraint("json_object", "")),
        ("hermes", Constraint("regex", "a")),
        ("hermes", Constraint("gbnf", 'root ::= "a"')),
        ("hermes", Constraint("json_schema", "{")),
    ],
)
def test_what_cannot_be_told_from_calls_is_refused(syntax: Syntax, answer: Constraint) -> None:
    with pytest.raises(PromptError):
        grammar_of(syntax, False, answer=answer)
    if syntax == "llama":
        assert grammar_of(syntax, False, answer=answer, choice="required")


def test_a_function_that_is_not_there_is_refused() -> None:
    with pytest.raises(PromptError, match="'f'"):
        grammar_of("hermes", False, choice="required", only="f")


def test_objects_have_only_the_properties_that_are_named() -> None:
    inner = {"type": "object", "properties": {"x": {"type": "null"}}}
    nested = function(properties={"a": {"type": "array", "items": inner}, "b": {"type": "null"}})
    source = grammar_of("hermes", False, nested, choice="required")
    head = '<tool_call>\n{"name": "get_weather", "arguments": '
    assert allows_so_far(source, head + '{"a": [{"x": null}, {}], "b": null}')
    assert not allows_so_far(source, head + '{"c')
    assert not allows_so_far(source, head + '{"a": [{"y')


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {}, "additionalProperties": {"type": "null"}},
        {"properties": {"a": {}}, "required": ["x"]},
        {"properties": {"a": {}}, "required": [["x"]]},
        {"properties": {"a": {}}, "minProperties": 1},
        {"allOf": [{"properties": {"x": {"type": "null"}}}]},
        {"minProperties": 1},
    ],
)
def test_what_a_schema_says_of_other_properties_stays(schema: dict[str, Any]) -> None:
    source = grammar_of("hermes", False, function(**schema), choice="required")
    made = LLMatcher(TOKENIZER, grammar_check.grammar_of("calls", source), log_level=0)
    text = '<tool_call>\n{"name": "get_weather", "arguments": {"x": null}'
    assert made.is_error() or made.try_consume_tokens(list(text.encode())) == len(text)


def test_a_schema_that_cannot_be_followed_is_no_grammar_unless_it_need_not_be() -> None:
    picky = function(properties={"a": {"type": "array", "uniqueItems": True}})
    strictly = grammar_of("hermes", False, picky)
    _, error = grammar_check.check("calls", strictly)
    refused = fault(strictly, f"the grammar cannot be used: {error}")
    assert (refused.code, refused.param) == ("invalid_function_parameters", "tools")
    assert refused.message.startswith("Invalid schema for function 'get_weather': ")
    assert "uniqueItems" in refused.message
    assert fault(strictly, "it is too complex").message == (
        "the tools cannot be used: it is too complex"
    )
    loosely = grammar_of("hermes", False, {**picky, "strict": False})
    assert grammar_check.check("calls", loosely)[1] == ""


BAD: Sequence[tuple[object, str]] = (
    ({"type": "object", "properties": {"a": {"const": 2**53 + 1}}}, "properties.a.const: 90071"),
    ({"type": "array", "uniqueItems": True}, "uniqueItems"),
    (False, "no text can match it"),
    ([], "JSON object"),
    (deep(500), "too deeply"),
)


@pytest.mark.parametrize(("schema", "says"), BAD)
def test_what_is_wrong_is_told_of_the_schema_that_it_is_in(schema: object, says: str) -> None:
    function_ = {"name": "f", "parameters": schema}
    if schema != BAD[-1][0]:  # a body is not that deep, a schema in a text may be
        source = grammar_of("hermes", False, TIME, function_)
        refused = fault(source, grammar_check.check("calls", source)[1])
        assert (refused.code, refused.param) == ("invalid_function_parameters", "tools")
        assert refused.message.startswith("Invalid schema for function 'f': ")
        assert says in refused.message
    answer = Constraint("json_schema", json.dumps(schema))
    source = grammar_of("hermes", False, answer=answer)
    refused = fault(source, grammar_check.check("calls", source)[1])
    assert (refused.code, refused.param) == ("invalid_json_schema", None)
    assert says in refused.message


def test_schemas_are_written_down_and_not_looked_into() -> None:
    """The text thread, which everybody waits for, has no more to do with them."""
    parameters = {"oneOf": [{"type": "string"}] * 2, "properties": {"a": {"const": 2**60 + 1}}}
    answer = Constraint("json_schema", json.dumps(parameters))
    source = grammar_of("hermes", False, {"name": "f", "parameters": parameters}, answer=answer)
    rules = [json.loads(line) for line in source.split("\n")]
    assert [rule[1] for rule in rules if isinstance(rule, list)] == [parameters, parameters]


def test_a_schema_cannot_change_how_json_is_written() -> None:
    free = function(properties={})
    free["parameters"]["x-guidance"] = {"whitespace_flexible": True}
    source = grammar_of("hermes", False, free, choice="required")
    assert not allows_so_far(source, '<tool_call>\n{"name": "get_weather", "arguments": { ')


SCHEMAS: Sequence[dict[str, Any]] = (
    {"properties": {"a": {"type": "integer", "minimum": 3, "maximum": 70}}, "required": ["a"]},
    {"properties": {"a": {"enum": ["x", 7, None]}, "b": {"type": "boolean"}}},
    {"properties": {"a": {"type": "string", "pattern": "^[a-c]{2,5}$"}}, "required": ["a"]},
    {"properties": {"a": {"type": "array", "items": {"type": "number"}, "maxItems": 3}}},
    {"properties": {"a": {"$ref": "#/$defs/t"}}, "$defs": {"t": {"type": ["null", "boolean"]}}},
)


@given(st.sampled_from(SYNTAXES), st.sampled_from(SCHEMAS), st.booleans(), st.randoms())
def test_whatever_a_model_picks_is_a_call_that_is_valid(
    syntax: Syntax, schema: dict[str, Any], special: bool, random: Any
) -> None:
    made = matcher(grammar_of(syntax, special, function(**schema), choice="required"))
    ids: list[int] = []
    while not made.is_stopped() and len(ids) < 2000:
        mask = made.compute_logit_bias()
        ids.append(random.choice([i for i, allowed in enumerate(mask) if allowed]))
        assert made.consume_token(ids[-1])
    text = b"".join(VOCABULARY.tokens[token] for token in ids if token != END).decode()
    content, calls = split_calls(text, syntax)
    if made.is_stopped():
        assert content is None
        for name, arguments in calls:
            assert name == "get_weather"
            Draft202012Validator({"type": "object", **schema}).validate(json.loads(arguments))


@pytest.mark.parametrize("required", [None, 5, True, "a", {}])
def test_a_required_that_is_no_list_is_no_crash(required: object) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": required}
    inner = {"type": "object", "properties": {"b": schema}}
    for parameters in (schema, inner):
        tools = Tools(({"name": "f", "parameters": parameters},), "required")
        assert "f" in grammar(tools, "hermes", SPECIAL)
