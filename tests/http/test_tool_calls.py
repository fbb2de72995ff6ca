"""Calls in an answer's text are found in whatever pieces it comes, and no character is lost."""

import json
from collections.abc import Iterable, Sequence
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rayhost.http.json_objects import ObjectEnd
from rayhost.http.tool_calls import (
    Call,
    CallBegin,
    CallDelta,
    ContentDelta,
    Event,
    ToolStream,
    collected,
    split_calls,
)

SYNTAXES = ["hermes", "mistral", "llama"]
PARIS = Call("get_weather", '{"city": "Paris"}')
ROME = Call("get_weather", '{"city": "Rome", "days": [1, {"a": "}]"}]}')


def written(syntax: str, *calls: Call) -> str:
    """What a model writes."""
    key = "parameters" if syntax == "llama" else "arguments"
    objects = [f'{{"name": "{one.name}", "{key}": {one.arguments}}}' for one in calls]
    match syntax:
        case "hermes":
            return "\n".join(f"<tool_call>\n{one}\n</tool_call>" for one in objects)
        case "mistral":
            return f"[TOOL_CALLS][{', '.join(objects)}]"
        case _:
            return "; ".join(objects)


def events(syntax: str, pieces: Iterable[str]) -> list[Event]:
    stream = ToolStream(syntax)
    told = [event for piece in pieces for event in stream.push(piece)]
    return told + stream.close()


def merged(told: Sequence[Event]) -> list[Event]:
    """The same events, neighbours of a kind as one."""
    whole: list[Event] = []
    for event in told:
        match whole, event:
            case [*_, ContentDelta(before)], ContentDelta(text):
                whole[-1] = ContentDelta(before + text)
            case [*_, CallDelta(index, before)], CallDelta(_, text):
                whole[-1] = CallDelta(index, before + text)
            case _:
                whole.append(event)
    return whole


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("calls", [[PARIS], [PARIS, ROME], [ROME, PARIS, Call("no-op.1", "{}")]])
def test_calls_are_calls_and_nothing_else(syntax: str, calls: list[Call]) -> None:
    assert split_calls(written(syntax, *calls), syntax) == (None, calls)
    assert split_calls(f"\n{written(syntax, *calls)}\n", syntax) == (None, calls)


@pytest.mark.parametrize("syntax", ["hermes", "mistral"])
def test_text_before_and_behind_calls_is_content(syntax: str) -> None:
    text = f"Let me see.\n\n{written(syntax, PARIS)}"
    assert split_calls(text, syntax) == ("Let me see.", [PARIS])
    assert split_calls(f"{text}\nThat's it.", syntax) == ("Let me see.\nThat's it.", [PARIS])


def test_llama_may_call_behind_its_tag() -> None:
    text = f"Well:\n<|python_tag|>{written('llama', PARIS)}"
    assert split_calls(text, "llama") == ("Well:", [PARIS])


@pytest.mark.parametrize(
    ("syntax", "text"),
    [
        ("hermes", '<tool_call>{"name":"get_weather","arguments":{"city": "Paris"}}</tool_call>'),
        (
            "hermes",
            '<tool_call>\n{"arguments": {"city": "Paris"}, "name": "get_weather"}\n</tool_call>',
        ),
        (
            "hermes",
            '<tool_call>[{"name": "get_weather", "arguments": {"city": "Paris"}}]</tool_call>',
        ),
        (
            "hermes",
            '<tool_call>{"name": "get_weather", "arguments": "{\\"city\\": \\"Paris\\"}"}'
            "</tool_call>",
        ),
        (
            "hermes",
            '<tool_call>{"type": "function", "function": {"name": "get_weather", "arguments": '
            '{"city": "Paris"}}}</tool_call>',
        ),
        (
            "mistral",
            '[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Paris"}, "id": "x}"}]',
        ),
        (
            "llama",
            '{"type": "function", "name": "get_weather", "parameters": {"city": "Paris"}}',
        ),
        ("llama", '\n{ "name" : "get_weather",\n "arguments" : {"city": "Paris"} }'),
    ],
)
def test_variants_that_models_write(syntax: str, text: str) -> None:
    assert split_calls(text, syntax) == (None, [PARIS])


GARBAGE = [
    # Arguments that an answer could not have; they are read where they stand before the name.
    '<tool_call>{"arguments": {"a": "\\ud800"}, "name": "f"}</tool_call>',
    "a < b and <tool> <tool_cal l> [TOOL_] <|python",
    "<tool_call>print(1)</tool_call>",
    '<tool_call>{"city": "Paris"}</tool_call>',
    '<tool_call>{"name": 7, "arguments": {}}</tool_call>',
    '<tool_call>{"name": "f", "arguments": 7}</tool_call>',
    '<tool_call>{"name": "f"}</tool_call>',
    "[TOOL_CALLS]get_weather{}",
    "[TOOL_CALLS][]",
    '[TOOL_CALLS]["a", {"name": "f"}]',
    "[TOOL_CALLS] [1]",
    "<|python_tag|>print({})",
    '{"city": "Paris"}',
    "{}",
    "{",
    "  {not JSON",
    '{"name": "Paris", "size": 7}',
    '{"na\\"me": {}}',
]


@pytest.mark.parametrize("text", GARBAGE)
@pytest.mark.parametrize("syntax", ["", *SYNTAXES])
def test_what_is_no_call_is_content_to_the_last_character(syntax: str, text: str) -> None:
    for whole in (text, f"so\n {text} \n"):
        assert collected(events(syntax, whole)) == (whole, [])


def test_a_key_without_end_is_not_held_back() -> None:
    stream = ToolStream("llama")
    assert stream.push('{"' + "n" * 64) == []
    assert stream.push("n") == [ContentDelta('{"' + "n" * 65)]


def test_what_looked_like_a_call_does_not_hide_the_next() -> None:
    text = f"<tool_call><tool_call>x {written('hermes', PARIS)}"
    assert split_calls(text, "hermes") == ("<tool_call><tool_call>x", [PARIS])
    assert split_calls(f"{{1}} <|python_tag|>{written('llama', PARIS)}", "llama") == (
        "{1}",
        [PARIS],
    )


def test_an_answer_that_was_cut_off_in_a_call_has_what_came_of_it() -> None:
    text = written("hermes", PARIS, ROME)
    cut = text[: text.index("Rome") + 2]
    assert split_calls(cut, "hermes") == (
        None,
        [PARIS, Call("get_weather", '{"city": "Ro')],
    )
    assert split_calls(text[:-4], "hermes") == (None, [PARIS, ROME])


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_what_was_begun_of_a_frame_behind_a_call_is_dropped(syntax: str) -> None:
    text, first = written(syntax, PARIS, ROME), written(syntax, PARIS).removesuffix("]")
    for end in range(len(first), text.index("Rome") - len(ROME.arguments) + 1):
        assert split_calls(text[:end], syntax)[0] is None
        assert events(syntax, text[:end]) == events(syntax, [*text[:end]])


@pytest.mark.parametrize(
    ("syntax", "begun"),
    [
        ("hermes", "<tool_call>"),
        ("hermes", "<tool_call>\n"),
        ("hermes", '<tool_call>\n{"name":'),
        ("mistral", "[TOOL_CALLS]"),
        ("mistral", '[TOOL_CALLS][{"na'),
        ("llama", '<|python_tag|>{"na'),
    ],
)
def test_a_frame_that_the_answer_ended_in_is_no_content(syntax: str, begun: str) -> None:
    assert split_calls(begun, syntax) == ("", [])
    assert split_calls(f"So: {begun}", syntax) == ("So:", [])
    assert events(syntax, begun) == events(syntax, [begun])


@pytest.mark.parametrize(
    ("syntax", "begun"),
    [("hermes", "<tool_c"), ("mistral", "[TOOL"), ("llama", '{"name": "B'), ("llama", "<|py")],
)
def test_half_a_frame_is_content_unless_calls_are_all_there_may_be(syntax: str, begun: str) -> None:
    assert split_calls(begun, syntax) == (begun, [])
    stream = ToolStream(syntax, required=True)
    assert stream.push(begun) + stream.close() == []


def test_a_stream_knows_whether_it_is_in_arguments() -> None:
    stream = ToolStream("hermes")
    text = written("hermes", PARIS)
    begin = text.index(PARIS.arguments)
    known = []
    for character in text:
        stream.push(character)
        known.append(stream.in_arguments)
    end = begin + len(PARIS.arguments)
    assert known == [begin <= at < end - 1 for at in range(len(text))]


def test_events_come_as_soon_as_they_are_certain() -> None:
    stream = ToolStream("hermes")
    assert stream.push("Hello") == [ContentDelta("Hello")]
    assert stream.push(" wor") == [ContentDelta(" wor")]
    assert stream.push("ld. <tool") == [ContentDelta("ld.")]
    assert stream.push("box> is") == [ContentDelta(" <toolbox> is")]
    assert stream.push('<tool_call>\n{"name": "f", "arguments": ') == []
    assert stream.push('{"ci') == [CallBegin(0, "f"), CallDelta(0, '{"ci')]
    assert stream.push('ty": "') == [CallDelta(0, 'ty": "')]
    assert stream.push('}"}') == [CallDelta(0, '}"}')]
    assert stream.push("}\n</tool_call>\n<tool_c") == []
    assert stream.push('all>{"name": "g", "arguments": {}}') == [
        CallBegin(1, "g"),
        CallDelta(1, "{}"),
    ]
    assert stream.close() == []


def test_an_answer_in_json_is_streamed_beside_calls_of_the_same_form() -> None:
    stream = ToolStream("llama")
    assert stream.push('{"city') == []
    assert stream.push('": "P') == [ContentDelta('{"city": "P')]
    assert stream.push("aris") == [ContentDelta("aris")]


WORDS = [
    *("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "<|python_tag|>", "[", "]", "{", "}", ";"),
    *('"name": "f", "arguments": ', '"parameters": {"a": "\\"}"}', '{"name": "g"', "\\", '"'),
    *("<tool", "_call>", "[TOOL", "\n", " ", "text", ", ", "é", '{"arguments": {}, "name": "h"}'),
    *(written(syntax, PARIS, ROME) for syntax in SYNTAXES),
]
TEXTS = st.lists(st.sampled_from(WORDS), max_size=12).map("".join)


@given(st.sampled_from(SYNTAXES), TEXTS, st.lists(st.integers(0, 400)))
@example("hermes", '<tool_call>{"name": "a</tool_call>", "arguments": {', list(range(60)))
@example("llama", '{"na\\', [5])
def test_any_split_of_a_text_gives_the_same_events(syntax: str, text: str, cuts: list[int]) -> None:
    edges = sorted({0, *(cut for cut in cuts if cut < len(text)), len(text)})
    pieces = [text[start:end] for start, end in pairwise(edges)]
    assert merged(events(syntax, pieces)) == merged(events(syntax, [text]))
    assert merged(events(syntax, text)) == merged(events(syntax, [text]))


@given(
    st.sampled_from(SYNTAXES), st.text(st.sampled_from('{}"[]<>_tool_cal \n|;:é')), st.booleans()
)
@example("hermes", "a < b <tool_call>", False)
@example("hermes", "a < b <tool_call>] c", True)
def test_text_without_a_call_is_content_as_it_came(syntax: str, text: str, whole: bool) -> None:
    content, calls = collected(events(syntax, [text] if whole else text))
    assert content is not None
    assert text.startswith(content)
    left = text.removeprefix(content)  # a frame may be open at the end
    assert not left or left.lstrip().startswith("<tool_call>")
    assert not calls


@given(st.sampled_from(SYNTAXES), TEXTS)
def test_events_are_in_order_and_say_something(syntax: str, text: str) -> None:
    told = events(syntax, text)
    begun = [event.index for event in told if isinstance(event, CallBegin)]
    assert begun == list(range(len(begun)))
    last = -1
    for event in told:
        match event:
            case ContentDelta(piece):
                assert piece
            case CallBegin(index, name):
                last = index
                assert name
            case CallDelta(index, piece):
                assert (index, bool(piece)) == (last, True)


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=3), ANY_JSON), st.booleans(), st.integers(0, 60))
def test_an_object_ends_where_it_ends(value: object, ascii_only: bool, cut: int) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    for behind in ("", "}", ' , {"a": 1}'):
        assert ObjectEnd().find(text + behind) == len(text)
    end = ObjectEnd()
    first = end.find(text[:cut])
    assert first == (len(text) if cut >= len(text) else -1)
    if first < 0:
        assert end.find(text[cut:]) == len(text) - cut


def test_an_unknown_syntax_is_a_mistake() -> None:
    with pytest.raises(KeyError):
        ToolStream("french")
