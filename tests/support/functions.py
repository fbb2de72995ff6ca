"""Twenty functions as clients offer them, each with a request that it is for."""

from typing import Any


def _function(name: str, description: str, *required: str, **properties: Any) -> dict[str, Any]:
    return {
        "name": name,
        "description": description,
        "parameters": {
            "type": "object",
            "properties": properties,
            "required": list(required),
            "additionalProperties": False,
        },
    }


def _text(longest: int, **more: Any) -> dict[str, Any]:
    return {"type": "string", "maxLength": longest, **more}


_CITY = _text(30, description="A city.")
_DAY = {"type": "string", "format": "date"}
_NUMBER = {"type": "number", "minimum": -1000, "maximum": 1000}

FUNCTIONS: list[tuple[str, dict[str, Any]]] = [
    (
        "What is the weather in Paris?",
        _function("get_weather", "The weather of a city.", "city", city=_CITY),
    ),
    (
        "What time is it in Tokyo?",
        _function("get_time", "The time in a zone.", "zone", zone={"enum": ["UTC", "CET", "JST"]}),
    ),
    ("Stop the music.", {"name": "stop_music", "description": "Stops it."}),
    (
        "Add 3 and 4.",
        _function("add", "The sum of two numbers.", "a", "b", a=_NUMBER, b=_NUMBER),
    ),
    (
        "Convert 20 euros to dollars.",
        _function(
            "convert",
            "Converts money.",
            "amount",
            "from",
            "to",
            **{"amount": _NUMBER, "from": {"enum": ["EUR", "USD"]}, "to": {"enum": ["EUR", "USD"]}},
        ),
    ),
    (
        "Set an alarm for 7 o'clock.",
        _function("set_alarm", "Sets one.", "at", at=_text(5, pattern="^[0-2][0-9]:[0-5][0-9]$")),
    ),
    (
        "Turn on the lamp in the kitchen.",
        _function(
            "switch-lamp",
            "Turns a lamp on or off.",
            "room",
            "on",
            room={"enum": ["kitchen", "bedroom"]},
            on={"type": "boolean"},
        ),
    ),
    (
        "Remind Ann and Bob of the party.",
        _function(
            "remind",
            "Reminds people of something.",
            "people",
            "of",
            people={"type": "array", "items": _text(12), "minItems": 1, "maxItems": 3},
            of=_text(30),
        ),
    ),
    (
        "Book a flight from Rome to Oslo tomorrow.",
        _function(
            "book_flight",
            "Books a flight.",
            "route",
            route={
                "type": "object",
                "properties": {"from": _CITY, "to": _CITY},
                "required": ["from", "to"],
            },
            day=_DAY,
        ),
    ),
    (
        "How many days until Christmas?",
        _function("days_until", "Days until a date.", "day", day=_DAY),
    ),
    (
        "Search for cheap shoes.",
        _function(
            "search",
            "Searches the shop.",
            "words",
            words=_text(40),
            limit={"type": "integer", "minimum": 1, "maximum": 50},
        ),
    ),
    (
        "Rate this film with four stars.",
        _function("rate", "Rates a film.", "stars", stars={"enum": [1, 2, 3, 4, 5, None]}),
    ),
    (
        "Draw a red point at 3, 5.",
        _function(
            "draw_point",
            "Draws a point.",
            "at",
            "color",
            at={"type": "array", "prefixItems": [_NUMBER, _NUMBER], "items": False, "minItems": 2},
            color=_text(7, pattern="^#[0-9a-f]{6}$"),
        ),
    ),
    (
        "Tell me about the ticket 4711.",
        _function("get_ticket", "A ticket.", "id", id={"$ref": "#/$defs/id"}),
    ),
    (
        "Play a song of the Beatles.",
        _function(
            "play",
            "Plays a song or an artist.",
            "what",
            what={
                "anyOf": [
                    {
                        "type": "object",
                        "properties": {"song": _text(20)},
                        "required": ["song"],
                        "additionalProperties": False,
                    },
                    {
                        "type": "object",
                        "properties": {"artist": _text(20)},
                        "required": ["artist"],
                        "additionalProperties": False,
                    },
                ]
            },
        ),
    ),
    (
        "Translate 'good morning' into French.",
        _function(
            "translate",
            "Translates a text.",
            "text",
            "language",
            text=_text(40),
            language={"type": "string", "enum": ["fr", "de", "é"]},
        ),
    ),
    (
        "Make a list with milk and bread.",
        _function(
            "make_list",
            "Makes a list.",
            "items",
            items={
                "type": "array",
                "maxItems": 3,
                "items": {
                    "type": "object",
                    "properties": {"name": _text(12), "count": {"type": ["integer", "null"]}},
                    "required": ["name"],
                    "additionalProperties": False,
                },
            },
        ),
    ),
    (
        "Who is the user 12?",
        _function("get_user", "A user.", "id", id={"type": "integer", "minimum": 1, "maximum": 99}),
    ),
    (
        "Save my temperature of 37.5.",
        _function(
            "log_value",
            "Keeps a value.",
            "value",
            "unit",
            value=_NUMBER,
            unit={"const": "celsius"},
        ),
    ),
    (
        "Send a mail to Ann that says hello.",
        _function(
            "send_mail",
            "Sends a mail.",
            "to",
            "text",
            to=_text(30),
            text=_text(60),
            urgent={"type": "boolean"},
        ),
    ),
]
_TICKET = next(one for _, one in FUNCTIONS if one["name"] == "get_ticket")
_TICKET["parameters"]["$defs"] = {"id": {"type": "integer", "minimum": 0, "maximum": 99999}}


def schema_of(function: dict[str, Any]) -> dict[str, Any]:
    """What its arguments have to match; a function without parameters has none."""
    none = {"type": "object", "properties": {}, "additionalProperties": False}
    schema: dict[str, Any] = function.get("parameters", none)
    return schema
