"""Which objects of a schema are closed: those that one place alone speaks of."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayhost.engine.schema import closed

Schema = dict[str, Any]


def having(*names: str, **more: Any) -> Schema:
    return {"type": "object", "properties": {name: {"type": "null"} for name in names}, **more}


def tagged(tag: str, name: str, inner: str = "", **more: Any) -> Schema:
    properties: Schema = {"kind": {"const": tag}, name: {"type": "null"}}
    if inner:
        properties["inner"] = {"const": inner}
    required = ["kind", "inner"] if inner else ["kind"]
    return {"type": "object", "properties": properties, "required": required, **more}


def coded(codes: list[str], name: str) -> Schema:
    properties = {"code": {"enum": codes}, name: {"type": "null"}}
    return {"type": "object", "properties": properties, "required": ["code"]}


class Counted(str):
    """A text that counts how often it is looked at for being another's equal, or its key."""

    looked = 0

    def __eq__(self, other: object) -> bool:
        Counted.looked += 1
        return super().__eq__(other)

    def __hash__(self) -> int:
        Counted.looked += 1
        return super().__hash__()


def is_closed(schema: Schema) -> bool:
    return schema.get("additionalProperties") is False


def test_objects_are_closed_wherever_one_place_speaks_of_them() -> None:
    whole = closed(
        {
            "properties": {"a": having("x"), "b": {"type": "array", "items": having("y")}},
            "$defs": {"t": {"anyOf": [having("z"), {"type": "null"}]}},
            "required": ["a"],
        }
    )
    assert is_closed(whole)
    assert is_closed(whole["properties"]["a"])
    assert is_closed(whole["properties"]["b"]["items"])
    assert is_closed(whole["$defs"]["t"]["anyOf"][0])
    assert list(whole) == ["properties", "$defs", "required", "additionalProperties"]


def test_words_that_are_data_or_names_say_nothing() -> None:
    for word in ("allOf", "oneOf", "$ref", "not", "patternProperties"):
        assert is_closed(closed(having(word)))
        assert is_closed(closed(having("a", description=f'a "{word}" is meant')))
        assert is_closed(closed(having("a", default={word: 1}))["properties"] and closed(having()))
    assert closed({"enum": [having("a")]}) == {"enum": [having("a")]}
    assert closed({"const": having("a")}) == {"const": having("a")}


@pytest.mark.parametrize(
    "schema",
    [
        having("a", additionalProperties={"type": "string"}),
        having("a", additionalProperties=True),
        having("a", patternProperties={"^x": {}}),
        having("a", minProperties=2),
        having("a", required=["b"]),
        having("a", required=None),
        having("a", anyOf=[having("b"), having("c")]),
        having("a", **{"$ref": "#/$defs/t"}),
        having("a", allOf=[having("b")]),
        {"allOf": [having("a"), having("b")]},
        {"oneOf": [having("a"), having("b")]},
        {"type": "object", "properties": None},
    ],
)
def test_what_is_put_together_or_open_is_left_as_it_is(schema: Schema) -> None:
    assert closed(schema) == schema
    outer = closed({"properties": {"in": schema, "beside": having("a")}})
    assert outer["properties"]["in"] == schema
    assert is_closed(outer["properties"]["beside"]), "which has nothing to do with it"


def test_what_is_put_together_from_definitions_leaves_those_open() -> None:
    ref = {"$ref": "#/$defs/a%20b"}
    whole = closed(
        {
            "properties": {"x": {"allOf": [ref, having("y")]}, "again": ref},
            "$defs": {
                "a b": having("p", **{"$comment": "of which more refers to"}),
                "alone": having("q"),
                "chain": {"allOf": [{"$ref": "#/$defs/1~1"}, having("y")]},
                "1/": {"properties": {"in": {"$ref": "#/$defs/deep"}}},
                "deep": having("r"),
            },
        }
    )
    definitions = whole["$defs"]
    assert is_closed(definitions["alone"])
    for name in ("a b", "1/", "deep"):
        assert not is_closed(definitions[name])


def test_one_part_of_all_is_closed_as_if_it_stood_there() -> None:
    assert is_closed(closed({"allOf": [having("a")], "title": "as pydantic writes it"})["allOf"][0])


@pytest.mark.parametrize(
    ("parts", "apart"),
    [
        ([tagged("a", "x"), tagged("b", "y")], True),
        ([tagged("a", "x"), tagged("b", "y", required=[])], True),
        ([tagged("a", "x", required=[]), tagged("b", "y", required=[])], False),
        ([tagged("a", "x"), tagged("a", "y")], False),
        ([having("x"), {"type": "string"}], True),
        ([having("x"), {"type": ["object", "null"]}], False),
        ([having("x"), {}], False),
        ([{"$ref": "#/$defs/one"}, {"$ref": "#/$defs/two"}], True),
        ([{"$ref": "#/$defs/one"}, {"$ref": "#/$defs/one"}], False),
        ([{"$ref": "#/$defs/nowhere"}, {"type": "null"}], False),
        ([{"type": "string"}, {"type": ["string", "null"]}], False),
        ([{"type": "integer"}, {"type": "number"}], False),
        ([tagged("a", "x"), tagged("b", "y"), {"type": "null"}], True),
        ([tagged("a", "x"), tagged("b", "y"), {"type": ["null", "object"]}], False),
        ([having("x")], True),
        ([coded(["a", "b"], "x"), coded(["c"], "y"), coded(["d", "e"], "z")], True),
        ([coded(["a", "b"], "x"), coded(["b", "c"], "y")], False),
        ([tagged("a", "x"), tagged("b", "y"), tagged("c", "z", required=[])], True),
        ([tagged("a", "x"), *(tagged(tag, "y", required=[]) for tag in "bc")], False),
        # The second property tells apart what the first one does not.
        ([tagged("a", "x", inner="1"), tagged("a", "y", inner="2"), tagged("b", "z")], True),
        ([tagged("a", "x", inner="1"), tagged("a", "y", inner="1"), tagged("b", "z")], False),
        ([tagged("a", "x"), tagged("b", "y"), having("z")], False),
    ],
)
def test_one_of_several_is_closed_where_they_exclude_each_other(
    parts: list[Schema], apart: bool
) -> None:
    definitions = {"one": tagged("1", "x"), "two": tagged("2", "y"), "other": having("z")}
    for more in ({}, {"discriminator": {"propertyName": "kind"}}):
        whole = closed({"oneOf": parts, "$defs": definitions, **more})
        objects = [*whole["oneOf"], *(whole["$defs"][name] for name in referred_to(parts))]
        found = [is_closed(one) for one in objects if "properties" in one]
        assert found == [apart] * len(found)
        assert is_closed(whole["$defs"]["other"])


def test_what_many_parts_take_grows_with_their_number() -> None:
    looked = []
    for count in (100, 1000):
        Counted.looked = 0
        parts = [tagged(Counted(i), "x") for i in range(count)]
        assert is_closed(closed({"oneOf": parts})["oneOf"][-1])
        looked.append(Counted.looked)
    assert looked[0] > 100
    assert looked[1] < 20 * looked[0], "by their square it would be a hundred times"


def referred_to(parts: list[Schema]) -> list[str]:
    names = [part["$ref"].rpartition("/")[2] for part in parts if "$ref" in part]
    return [name for name in names if name != "nowhere"]


def test_what_refers_to_itself_comes_to_an_end() -> None:
    tree = {"properties": {"sub": {"items": {"$ref": "#"}}}}
    assert is_closed(closed(tree))
    both = {"allOf": [{"$ref": "#"}, {"$ref": "#/allOf/0"}, {"$ref": "#/allOf/x/y"}]}
    assert closed(both) == both
    loop = {"oneOf": [{"$ref": "#/oneOf/0"}, having("a")]}
    assert closed(loop) == loop


WORDS = ("type", "properties", "required", "items", "allOf", "anyOf", "oneOf", "$ref", "$defs")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["object", "#", "#/$defs/a", "a"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from((*WORDS, "a")), inner)
    ),
    max_leaves=12,
)


@given(JSON)
def test_whatever_its_words_are_it_is_the_same_schema_perhaps_closed(schema: Any) -> None:
    def opened(value: Any) -> Any:
        if isinstance(value, list):
            return [opened(one) for one in value]
        if not isinstance(value, dict):
            return value
        return {k: opened(v) for k, v in value.items() if (k, v) != ("additionalProperties", False)}

    assert opened(closed(schema)) == opened(schema)
