"""How a source is spelled, and what no spelling can smuggle in."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayhost.errors import RayhostError
from rayhost.models import catalog
from rayhost.models.sources import (
    FileSource,
    HubSource,
    PypiSource,
    check_name,
    default_name,
    parse,
    safe_member,
)


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("pypi:llm-x==0.1.2", PypiSource(("llm-x==0.1.2",))),
        ("pypi:llm-x==0.1.2/a/b.gguf", PypiSource(("llm-x==0.1.2",), "a/b.gguf")),
        ("pypi:a==1,b==1+cpu", PypiSource(("a==1", "b==1+cpu"))),
        ("hf:owner/repo/file.gguf", HubSource("owner/repo", "file.gguf")),
        ("hf:owner/repo/sub/file.gguf", HubSource("owner/repo", "sub/file.gguf")),
        ("file:/m/x.gguf", FileSource("/m/x.gguf")),
        ("file:m/x.gguf", FileSource("m/x.gguf")),
    ],
)
def test_a_spelling_is_read_and_written_back(
    text: str, source: PypiSource | HubSource | FileSource
) -> None:
    assert parse(text) == source
    assert str(source) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "smollm2",
        "http://host/x.gguf",
        "pypi:",
        "pypi:a",
        "pypi:a>=1",
        "pypi:a==1,",
        "pypi:--index-url==1",
        "pypi:a==1 --index-url x",
        "pypi:a==1/x.bin",
        "pypi:a==1/../x.gguf",
        "pypi:a==1//x.gguf",
        "pypi:a==1,b==1/x.gguf",
        "hf:owner/file.gguf",
        "hf:owner/repo/../x.gguf",
        "hf:../repo/x.gguf",
        "hf:owner/repo/x.bin",
        "file:",
        "file:a\nb.gguf",
    ],
)
def test_a_wrong_spelling_is_one_line_that_names_it(text: str) -> None:
    with pytest.raises(RayhostError, match="source") as caught:
        parse(text)
    assert repr(text) in str(caught.value)
    assert "\n" not in str(caught.value)


@given(
    st.text(max_size=60), st.sampled_from(["", "pypi:", "hf:", "file:", "pypi:a==1/", "hf:a/b/"])
)
def test_any_text_is_a_source_that_round_trips_or_an_error(text: str, start: str) -> None:
    try:
        source = parse(start + text)
    except RayhostError:
        return
    assert parse(str(source)) == source


@pytest.mark.parametrize(
    "member",
    ["../x.gguf", "/x.gguf", "a/../x.gguf", "a//x.gguf", "./x.gguf", "a\\x.gguf", "x\0.gguf", "x"],
)
def test_no_member_leads_out_of_its_folder(member: str) -> None:
    assert not safe_member(member)


@pytest.mark.parametrize("name", ["smollm2-135m", "a", "0.5b_q4", "a" * 100])
def test_good_names_pass(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "-x", "A", "a b", "a\n", "a" * 101])
def test_a_name_that_is_no_plain_folder_is_refused(name: str) -> None:
    with pytest.raises(RayhostError, match="bad model name"):
        check_name(name)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("pypi:LLM_x==1,b==1", "llm_x"),
        ("hf:o/r/sub/Qwen2.5-0.5B Q4.gguf", "qwen2.5-0.5b-q4"),
        ("file:/m/My Model.gguf", "my-model"),
    ],
)
def test_a_source_suggests_a_name(text: str, name: str) -> None:
    assert default_name(parse(text)) == name


def test_a_relative_file_is_relative_to_the_given_folder() -> None:
    assert FileSource("m/x.gguf").at(Path("/profiles")) == Path("/profiles/m/x.gguf")
    assert FileSource("/m/x.gguf").at(Path("/profiles")) == Path("/m/x.gguf")
    assert FileSource("~/x.gguf").at(Path("/profiles")) == Path.home() / "x.gguf"


def test_the_catalog_is_well_formed() -> None:
    assert {"smollm2-135m", "gemma3-270m"} <= catalog.BY_NAME.keys()
    for entry in catalog.ENTRIES:
        assert check_name(entry.name) == entry.name
        assert str(parse(entry.source)) == entry.source
        assert len(bytes.fromhex(entry.sha256)) == 32
