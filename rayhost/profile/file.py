"""A profile's file: read, checked as a whole, and its JSON Schema."""

import hashlib
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from rayhost import strict_json
from rayhost.errors import RayhostError
from rayhost.profile.clashes import clashes
from rayhost.profile.fields import Section, Source
from rayhost.profile.governor import Governor
from rayhost.profile.host import Cache, Cpus, Hooks, Limits, Listen
from rayhost.profile.model import ModelProfile

MAX_BYTES = 1 << 20
MAX_LISTED = 100


class ProfileError(RayhostError):
    """A profile that cannot be used. `problems` has one line for each mistake; so has the text."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Profile(Section, frozen=True):
    """What one rayhost serves."""

    models: Annotated[
        tuple[ModelProfile, ...],
        Meta(min_length=1, max_length=64, description="One worker process for each entry."),
    ]
    listen: Annotated[Listen, Meta(description="Where the HTTP server listens.")] = Listen()
    limits: Annotated[Limits, Meta(description="Bounds on requests and on shutdown.")] = Limits()
    cache: Annotated[Cache, Meta(description="Answers kept for identical requests.")] = Cache()
    governor: Annotated[
        Governor, Meta(description="What is given up when memory gets short, and when.")
    ] = Governor()
    cpus: Annotated[Cpus, Meta(description="Where front and workers run.")] = Cpus()
    traces: Annotated[
        bool,
        Meta(description="Send OpenTelemetry spans, as OTEL_* variables say; needs rayhost[otel]."),
    ] = False
    keys: Annotated[
        Source | None,
        Meta(
            description="The file of API keys (see `rayhost key`), from the profile's folder on; "
            "null: keys.json in the model store."
        ),
    ] = None
    hooks: Annotated[
        Hooks, Meta(description="What to run when something happened; killed after a minute.")
    ] = Hooks()
    goal: Annotated[
        Literal["memory", "speed", "latency"] | None,
        Meta(
            description="What the profile is made for: least memory, most tokens a second, or the "
            "shortest wait. Said to people; it changes nothing."
        ),
    ] = None
    schema_: Annotated[
        str | None, Meta(description="For editors: where this file's JSON Schema lies.")
    ] = msgspec.field(name="$schema", default=None)


# `models` are told one by one; the others mean nothing to a host.
_TOLD = tuple(
    name for name in Profile.__struct_fields__ if name not in ("models", "goal", "schema_")
)


def load(path: Path) -> Profile:
    """Read and check a profile file. Raises ProfileError."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ProfileError((f"{path}: no such file",)) from None
    except IsADirectoryError:
        raise ProfileError((f"{path}: is a directory; expected a JSON file",)) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise ProfileError((f"{path}: cannot be read: {error}",)) from None
    return parse(raw, str(path))


def parse(raw: bytes, origin: str) -> Profile:
    """Check the bytes of a profile; `origin` opens each line of the error. Raises ProfileError."""
    if len(raw) > MAX_BYTES:
        raise ProfileError((f"{origin}: larger than {MAX_BYTES} bytes, so not a profile",))
    try:
        value = strict_json.decode(raw)
    except ValueError as error:
        raise ProfileError((f"{origin}: {error}",)) from None
    found = chain(strict_json.mistakes(value, Profile), clashes(value))
    problems = [f"{origin}: {problem}" for problem in islice(found, MAX_LISTED + 1)]
    if len(problems) > MAX_LISTED:
        problems[MAX_LISTED] = f"{origin}: and more"
    if problems:
        raise ProfileError(tuple(problems))
    return msgspec.convert(value, Profile)


def digests(profile: Profile) -> dict[str, str]:
    """Return a digest of each section and of each model (`models.NAME`): equal where they are.

    Of what a profile means, so layout and defaults that are written out make no difference.
    """
    parts: dict[str, object] = {f"models.{model.name}": model for model in profile.models}
    parts |= {name: getattr(profile, name) for name in _TOLD}
    return {
        name: hashlib.sha256(msgspec.json.encode(part)).hexdigest()[:16]
        for name, part in parts.items()
    }


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a profile, with the fields' help for editors."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "rayhost profile",
        **msgspec.json.schema(Profile),
    }
    # Through JSON, so that defaults which are tuples compare equal to what a file holds.
    decoded: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(schema))
    return decoded
