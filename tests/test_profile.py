"""Profiles: what a file may say, and that every mistake in one is named at once."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayhost import profile
from rayhost.profile import Kv, ProfileError

PROFILES = Path(__file__).parent.parent / "profiles"


def problems(value: Any) -> list[str]:
    text = value if isinstance(value, str) else json.dumps(value)
    with pytest.raises(ProfileError) as caught:
        profile.parse(text.encode(), "p.json")
    lines = list(caught.value.problems)
    assert str(caught.value).splitlines() == lines
    assert all(line.startswith("p.json: ") for line in lines)
    return [line.removeprefix("p.json: ") for line in lines]


def one_model(**fields: Any) -> dict[str, Any]:
    return {"models": [{"name": "a", **fields}]}


def test_a_name_is_enough() -> None:
    loaded = profile.parse(b'{"models": [{"name": "a"}]}', "p.json")
    model = loaded.models[0]
    assert (model.context, model.concurrency, model.batch) == ("auto", "auto", "auto")
    assert (model.threads, model.cpus, model.kv) == ("auto", "auto", Kv("auto", "auto"))
    assert (loaded.listen.host, loaded.listen.port) == ("127.0.0.1", 8080)
    assert (loaded.limits.body_bytes, loaded.limits.queue, loaded.limits.drain_s) == (
        1 << 20,
        128,
        30,
    )


def test_every_field_can_be_given() -> None:
    value = {
        "$schema": "schema.json",
        "listen": {"host": "0.0.0.0", "port": 0},
        "limits": {"body_bytes": 2048, "queue": 0, "drain_s": 1.5},
        "models": [
            {
                "name": "a",
                "source": "hf:owner/repo/file.gguf",
                "sha256": "0" * 64,
                "aliases": ["gpt-4o-mini", "owner/a:latest"],
                "context": 64,
                "concurrency": 1,
                "batch": 1,
                "threads": 2,
                "cpus": [0, 1],
                "kv": {"type": "q8_0", "layout": "unified"},
                "inter_token_ms": 50,
            }
        ],
    }
    model = profile.parse(json.dumps(value).encode(), "p.json").models[0]
    assert model.cpus == (0, 1)
    assert model.aliases == ("gpt-4o-mini", "owner/a:latest")
    assert model.kv.type == "q8_0"


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ([], "the file: a list of 0 is not valid; expected an object"),
        ({}, "models: missing; expected a list of 1 to 64 items, each an object"),
        (
            {"models": []},
            "models: a list of 0 is not valid; expected a list of 1 to 64 items, each an object",
        ),
        ({"models": [7]}, "models[0]: 7 is not valid; expected an object"),
        (
            one_model(contxt=5),
            'models[0].contxt: unknown key; did you mean "context"?',
        ),
        (
            {**one_model(), "zzz": 5},
            "zzz: unknown key; known are models, listen, limits, cache, governor, cpus, traces, "
            "keys, hooks, goal, $schema",
        ),
        (
            one_model(context=63),
            'models[0].context: 63 is not valid; expected an integer from 64 to 1048576 or "auto"',
        ),
        (
            one_model(context="big"),
            'models[0].context: "big" is not valid; '
            'expected an integer from 64 to 1048576 or "auto"',
        ),
        (
            one_model(concurrency=True),
            'models[0].concurrency: true is not valid; expected an integer from 1 to 64 or "auto"',
        ),
        (
            one_model(threads="atuo"),
            'models[0].threads: "atuo" is not valid; expected an integer from 1 to 512 or "auto"',
        ),
        (
            one_model(cpus=[0, -1]),
            "models[0].cpus[1]: -1 is not valid; expected an integer from 0 to 4095",
        ),
        (
            one_model(kv={"type": "q4"}),
            'models[0].kv.type: "q4" is not valid; expected "auto" or "f16" or "q8_0"',
        ),
        (
            one_model(kv=None),
            "models[0].kv: null is not valid; expected an object",
        ),
        (
            one_model(sha256="AB"),
            'models[0].sha256: "AB" is not valid; expected 64 lower-case hex digits or null',
        ),
        (
            one_model(batch=4, concurrency=8),
            "models[0].batch: 4 is not valid; expected at least the concurrency, 8",
        ),
        (
            one_model(reproducible=True, kv={"type": "f16"}),
            'models[0].kv.type: "f16" is not reproducible; expected "q8_0" or "auto"',
        ),
        (
            {**one_model(), "limits": {"drain_s": -1}},
            "limits.drain_s: -1 is not valid; expected a number from 0 to 3600",
        ),
        (
            {**one_model(), "a\nb": 1},
            '["a\\nb"]: unknown key; known are models, listen, limits, cache, governor, cpus, '
            "traces, keys, hooks, goal, $schema",
        ),
        (
            {**one_model(), "hooks": {"on_ready": ["sh", "a\0b"]}},
            'hooks.on_ready[1]: "a\\u0000b" is not valid; expected a text without NUL',
        ),
        (
            {**one_model(), "hooks": {"on_ready": "reboot"}},
            'hooks.on_ready: "reboot" is not valid; expected a list of 0 to 256 items, '
            "each a text without NUL",
        ),
        (
            one_model(source="x\ud800"),
            'models[0].source: "x\\ud800" is not valid; '
            "expected a catalog name, or a pypi:, hf: or file: source or null",
        ),
    ],
)
def test_a_mistake_is_named_with_its_path_its_value_and_what_is_valid(
    value: Any, problem: str
) -> None:
    assert problems(value) == [problem]


@pytest.mark.parametrize("name", ["", "a b", "-a", "a\n", "a" * 65, "a/b", "\u00e9"])
def test_a_model_name_is_plain(name: str) -> None:
    (problem,) = problems(one_model(name=name))
    assert problem.startswith(f"models[0].name: {json.dumps(name)[:50]}")


def test_every_mistake_is_named_at_once() -> None:
    value = {
        "models": [
            {"name": "a", "contxt": 1, "context": 1, "aliases": ["ok", "not ok"]},
            {"concurrency": 0},
            {"name": "a"},
        ],
        "listen": {"port": 65536},
        "limit": {},
    }
    assert [line.split(": ")[0] for line in problems(value)] == [
        "models[0].contxt",
        "models[0].context",
        "models[0].aliases[1]",
        "models[1].concurrency",
        "models[1].name",
        "listen.port",
        "limit",
        "models[2].name",
    ]


@pytest.mark.parametrize(
    ("models", "problem"),
    [
        ([{"name": "a"}, {"name": "a"}], 'models[1].name: "a" is already models[0].name'),
        (
            [{"name": "a", "aliases": ["b"]}, {"name": "b"}],
            'models[1].name: "b" is already models[0].aliases[0]',
        ),
        (
            [{"name": "a", "aliases": ["b", "b"]}],
            'models[0].aliases[1]: "b" is already models[0].aliases[0]',
        ),
        ([{"name": "a", "aliases": ["a"]}], 'models[0].aliases[0]: "a" is already models[0].name'),
    ],
)
def test_a_name_or_alias_means_one_model(models: list[Any], problem: str) -> None:
    assert problems({"models": models}) == [f"{problem}; expected a name of its own"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"models": [\n  {"name": "a",}]}', "line 2 column 1"),
        ("", "line 1 column 1: malformed JSON"),
        ('{"a": NaN}', "malformed JSON: NaN is not a JSON number"),
        ('{"a": 1' + "0" * 5000 + "}", "malformed JSON: Exceeds the limit"),
        ("[" * 200_000, "malformed JSON: nested too deeply"),
        (
            '{"models": [{"name": "a"}], "listen": {"port": 1, "port": 2}}',
            "listen.port: given more",
        ),
    ],
)
def test_text_that_is_not_one_json_value_is_refused(text: str, problem: str) -> None:
    (line,) = problems(text)
    assert line.startswith(problem)


def test_text_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(ProfileError, match=r"p.json: not UTF-8 text \(byte 2\)"):
        profile.parse(b'{"\xff": 1}', "p.json")


def test_a_byte_order_mark_is_harmless() -> None:
    loaded = profile.parse(b'\xef\xbb\xbf{"models": [{"name": "a"}]}', "p.json")
    assert loaded.models[0].name == "a"


def test_a_file_with_thousands_of_mistakes_gives_a_bounded_list() -> None:
    lines = problems({**one_model(), **{f"key{n}": n for n in range(5000)}})
    assert len(lines) == profile.MAX_LISTED + 1
    assert lines[-1] == "and more"


def test_load_names_the_file_it_cannot_use(tmp_path: Path) -> None:
    missing, huge = tmp_path / "missing.json", tmp_path / "huge.json"
    huge.write_bytes(b" " * (profile.MAX_BYTES + 1))
    for path, reason in [
        (missing, "no such file"),
        (tmp_path, "is a directory"),
        (huge, "larger than 1048576 bytes"),
        (huge / "below", "cannot be read: .*Not a directory"),
        (Path("nul\0"), "cannot be read: .*null byte"),
    ]:
        with pytest.raises(ProfileError, match=reason) as caught:
            profile.load(path)
        assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("path", sorted(PROFILES.glob("*-*.json")), ids=lambda path: path.name)
def test_shipped_profiles_are_valid(path: Path) -> None:
    assert profile.load(path).schema_ == "schema.json"


def test_the_default_profile_serves_its_namesake() -> None:
    loaded = profile.load(PROFILES / "smollm2-135m.json")
    assert [model.name for model in loaded.models] == ["smollm2-135m"]


def test_the_schema_file_is_current() -> None:
    # `make schema` writes it.
    assert json.loads((PROFILES / "schema.json").read_text()) == profile.json_schema()


def test_the_schema_explains_every_field() -> None:
    for name, struct in profile.json_schema()["$defs"].items():
        for key, field in struct["properties"].items():
            assert field.get("description"), f"{name}.{key}"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@st.composite
def near_profiles(draw: st.DrawFn) -> Any:
    """Objects with a profile's own keys, so that the search gets past the first level."""

    def section(*keys: str, **inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        fields = dict.fromkeys(keys, json_values) | inner
        return st.fixed_dictionaries({}, optional=fields) | json_values

    names = st.sampled_from(["a", "b"]) | json_values
    small = st.integers(0, 100) | st.sampled_from(["auto"]) | json_values
    model = section(
        "source",
        "sha256",
        "contxt",
        name=names,
        aliases=st.lists(names),
        context=small,
        concurrency=small,
        batch=small,
        threads=small,
        cpus=st.lists(small) | small,
        kv=section("type", "layout"),
    )
    return draw(
        section(
            "$schema",
            models=st.lists(model, max_size=3) | json_values,
            listen=section("host", port=small),
            limits=section("body_bytes", "queue", "drain_s"),
        )
    )


@given(json_values | near_profiles())
def test_any_json_is_a_profile_or_a_profile_error(value: Any) -> None:
    raw = json.dumps(value).encode()
    try:
        said = [model.name for model in profile.parse(raw, "p.json").models]
    except ProfileError as error:
        said = list(error.problems)
    assert said
    assert all(line.isprintable() and line.isascii() for line in said)


@given(st.binary(max_size=64))
def test_any_bytes_are_a_profile_or_a_profile_error(raw: bytes) -> None:
    with pytest.raises(ProfileError):
        profile.parse(raw, "p.json")
