"""Bounds that are too large for a double: what is answered lies inside of them all the same."""

import json
from typing import Any

import pytest
from llguidance import LLMatcher

from rayhost.engine.grammar_check import check
from rayhost.engine.schema_numbers import EXACT, FARTHEST, InexactNumber, followable
from tests.engine.test_tools import TOKENIZER


def allows(schema: dict[str, Any], value: int) -> bool:
    grammar, error = check("json_schema", json.dumps(schema))
    assert not error, (schema, error)
    matcher = LLMatcher(TOKENIZER, grammar, log_level=0)
    ids = list(str(value).encode())
    return bool(matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting())


INT64 = (-(2**63), 2**63 - 1)
BOUNDS = [
    {"minimum": 0, "maximum": 10**18},
    {"minimum": -(10**18), "maximum": 10**18},
    {"maximum": 10**18},
    {"minimum": 10**18},
    {"maximum": -(10**18)},
    {"minimum": INT64[0], "maximum": INT64[1]},
    {"minimum": 0, "maximum": 2**64 - 1},
    {"minimum": 0, "maximum": 1e300},
    {"minimum": 0, "maximum": 2**53 + 1},
    {"minimum": 2**53 + 1},
    {"exclusiveMinimum": 5, "maximum": 10**18},
    {"exclusiveMinimum": -(10**18), "exclusiveMaximum": 10**18},
    {"exclusiveMaximum": 2**60, "maximum": 2**59},
    {"minimum": 2**62, "exclusiveMinimum": 2**61},
]


@pytest.mark.parametrize("bounds", BOUNDS)
@pytest.mark.parametrize("kind", ["integer", "number"])
def test_large_bounds_are_kept_and_never_passed(kind: str, bounds: dict[str, Any]) -> None:
    schema = {"type": kind, **bounds}
    low = max(bounds.get("minimum", -(10**30)), bounds.get("exclusiveMinimum", -(10**30)) + 1)
    high = min(bounds.get("maximum", 10**30), bounds.get("exclusiveMaximum", 10**30) - 1)
    for value in (low - 1, low - 2, high + 1, high + 2):
        assert low <= value <= high or abs(value) > 10**29 or not allows(schema, int(value))
    # What is lost at an end is what lies between doubles, and what is farther than any bound.
    near = [max(int(low), -FARTHEST) + 4096, min(int(high), FARTHEST) - 4096]
    assert all(allows(schema, value) for value in near if abs(value) <= FARTHEST)


def test_small_numbers_stay_what_they_are() -> None:
    schema = {
        "type": "integer",
        "exclusiveMinimum": -EXACT,
        "maximum": EXACT,
        "const": EXACT,
        "minimum": None,
        "enum": [1, 2.5, "x", {"a": [None]}],
    }
    assert followable(schema) == schema
    assert followable(True) is True


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"const": EXACT + 1}, "const: 9007199254740993"),
        ({"properties": {"a": {"enum": [1, 2**64]}}}, "properties.a.enum.1: 18446744073709551616"),
        ({"items": {"const": {"a": [-EXACT - 1]}}}, "items.const.a.0: -9007199254740993"),
        ({"properties": {"a": {"minimum": 2**63}}}, "properties.a.minimum: 9223372036854775808"),
        ({"exclusiveMaximum": -(10**400)}, "exclusiveMaximum: -1000"),
        ({"anyOf": [{"minimum": 1e20}]}, "anyOf.0.minimum: 1e+20"),
    ],
)
def test_what_cannot_be_followed_is_named_with_its_place(
    schema: dict[str, Any], place: str
) -> None:
    with pytest.raises(InexactNumber) as caught:
        followable(schema)
    assert place in str(caught.value)
    assert "between -9" in str(caught.value)


def test_a_value_that_is_a_double_can_be_told() -> None:
    assert allows({"const": 2**60}, 2**60)
    assert not allows({"enum": [2**60, 1]}, 2**60 + 1)
