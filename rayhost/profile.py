"""The profile: what one host serves, as typed and bounded fields of a JSON file. A leaf.

Invariant: a `Profile` that came from `load` or `parse` is valid as a whole, and a `ProfileError`
names every mistake of the file, each with its JSON path, the value, and what would be valid.
"""

from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from rayhost import strict_json
from rayhost.errors import RayhostError

MAX_BYTES = 1 << 20
MAX_LISTED = 100


def _text(pattern: str, wanted: str) -> Meta:
    # Python's "$" also matches before a final newline; the lookahead is in ECMA's regexes too,
    # which editors use.
    return Meta(pattern=f"^{pattern}(?!\\n)$", extra={"wanted": wanted})


Name = Annotated[
    str,
    _text(
        "[A-Za-z0-9][A-Za-z0-9._-]{0,63}",
        "1 to 64 letters, digits, '.', '_' or '-', the first a letter or a digit",
    ),
]
Alias = Annotated[
    str,
    _text(
        "[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}",
        "1 to 128 letters, digits, '.', '_', ':', '/' or '-', the first a letter or a digit",
    ),
]
Source = Annotated[
    str, _text(r"[^\x00-\x1f\x7f]{1,4096}", "a catalog name, or a pypi:, hf: or file: source")
]
Sha256 = Annotated[str, _text("[0-9a-f]{64}", "64 lower-case hex digits")]
Host = Annotated[str, _text(r"[^\x00-\x20\x7f]{1,255}", "an IP address or a host name")]
FilePath = Annotated[str, _text(r"[^\x00-\x1f\x7f]{1,4096}", "a path")]
Origin = Annotated[
    str,
    _text(r"(\*|https?://[^\x00-\x20\x7f/]{1,255})", "an origin like https://example.org, or *"),
]
Cpu = Annotated[int, Meta(ge=0, le=4095)]
Argument = Annotated[str, _text(r"[^\x00]{0,4096}", "a text without NUL")]
Command = tuple[Argument, ...]


class ProfileError(RayhostError):
    """A profile that cannot be used. `problems` has one line for each mistake; so has the text."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of every object in a profile."""


class Listen(Section, frozen=True):
    """Where the HTTP server listens."""

    host: Annotated[Host, Meta(description="Address to bind; 0.0.0.0 for all of IPv4.")] = (
        "127.0.0.1"
    )
    port: Annotated[
        int, Meta(ge=0, le=65535, description="TCP port; 0 takes any free one and prints it.")
    ] = 8080
    open: Annotated[
        bool,
        Meta(description="Serve other machines without API keys, whoever they are."),
    ] = False
    origins: Annotated[
        tuple[Origin, ...],
        Meta(max_length=64, description="Origins whose web pages may call (CORS); * for any."),
    ] = ()
    admin_socket: Annotated[
        FilePath | None,
        Meta(
            description="Unix socket of `rayhost top` and other admin calls, from the profile's "
            "folder on; null: PORT.sock in the runtime folder of systemd or of the session, else "
            "in one in /tmp."
        ),
    ] = None


class Limits(Section, frozen=True):
    """Bounds beyond which a request is refused or a shutdown stops waiting."""

    body_bytes: Annotated[
        int,
        Meta(ge=1024, le=16 << 20, description="Largest request body, in bytes; above it: 413."),
    ] = 1 << 20
    queue: Annotated[
        int,
        Meta(ge=0, le=100_000, description="Requests waiting per model; above it: 429 or 503."),
    ] = 128
    queue_tokens: Annotated[
        int,
        Meta(ge=1, le=1 << 30, description="Prompt tokens of all requests waiting for a model."),
    ] = 1 << 18
    queue_wait_s: Annotated[
        float,
        Meta(gt=0, le=86_400, description="Longest expected wait, in seconds; above it: 503."),
    ] = 120.0
    connections: Annotated[
        int, Meta(ge=1, le=100_000, description="Open client connections; above it: 503.")
    ] = 1000
    head_s: Annotated[
        float,
        Meta(gt=0, le=3600, description="Seconds a client has for a request's head; then 408."),
    ] = 10.0
    body_s: Annotated[
        float,
        Meta(gt=0, le=3600, description="Seconds it has from there for the body; then 408."),
    ] = 60.0
    reader_s: Annotated[
        float,
        Meta(
            gt=0,
            le=86_400,
            description="Seconds without reading anything of what is ready for it, after which a "
            "client is disconnected.",
        ),
    ] = 60.0
    drain_s: Annotated[
        float,
        Meta(ge=0, le=3600, description="Seconds that running requests get after SIGTERM."),
    ] = 30.0


class Kv(Section, frozen=True):
    """How the KV cache is held."""

    type: Annotated[
        Literal["auto", "f16", "q8_0"],
        Meta(
            description="Precision of a cell; q8_0 takes half the memory and prefills slower; "
            "auto: as tuned, else f16."
        ),
    ] = "auto"
    layout: Annotated[
        Literal["auto", "split", "unified"],
        Meta(
            description="One stream per sequence (split), or one shared by all (unified); "
            "auto: as tuned, else split."
        ),
    ] = "auto"


class Snapshots(Section, frozen=True):
    """Copies of KV cells that outlive their slot, so that a conversation is not computed again."""

    ram_mb: Annotated[
        int,
        Meta(ge=0, le=1 << 20, description="Memory for them, in MiB; 0: none is kept."),
    ] = 128
    disk_mb: Annotated[
        int,
        Meta(
            ge=0,
            le=1 << 20,
            description="Disk for those that a restart should find again, in MiB. They hold what "
            "users wrote. 0: none is written.",
        ),
    ] = 0


class ModelProfile(Section, frozen=True):
    """One model, served by one worker process."""

    name: Annotated[Name, Meta(description="What requests call the model.")]
    source: Annotated[
        Source | None,
        Meta(
            description="A catalog name, or a pypi:, hf: or file: source; "
            "null: the catalog entry called `name`."
        ),
    ] = None
    sha256: Annotated[
        Sha256 | None,
        Meta(
            description="Digest the model file must have, in lower-case hex; "
            "then no tuned file is served in its place."
        ),
    ] = None
    aliases: Annotated[
        tuple[Alias, ...], Meta(max_length=64, description="Other names the model answers to.")
    ] = ()
    context: Annotated[
        int,
        Meta(ge=64, le=1 << 20, description="Tokens of one request, prompt and answer together."),
    ] = 2048
    concurrency: Annotated[
        int, Meta(ge=1, le=64, description="Sequences decoded together; each has its own context.")
    ] = 8
    batch: Annotated[
        int, Meta(ge=1, le=8192, description="Most tokens in one step; at least `concurrency`.")
    ] = 512
    threads: Annotated[
        Annotated[int, Meta(ge=1, le=512)] | Literal["auto"],
        Meta(description="Compute threads; auto: as tuned, else one for each of its cores."),
    ] = "auto"
    cpus: Annotated[
        Annotated[tuple[Cpu, ...], Meta(min_length=1, max_length=512)] | Literal["auto"],
        Meta(description="CPU numbers the worker is pinned to; auto: chosen at start."),
    ] = "auto"
    kv: Annotated[Kv, Meta(description="How the KV cache is held.")] = Kv()
    inter_token_ms: Annotated[
        int,
        Meta(
            ge=1,
            le=60_000,
            description="Longest step, in milliseconds, while requests are receiving tokens: "
            "prefill of others gets what decoding leaves of it. Up to 8 times that, once, for a "
            "burst of short prompts that is twice as many.",
        ),
    ] = 150
    snapshots: Annotated[
        Snapshots, Meta(description="What is kept of the KV cells of past requests.")
    ] = Snapshots()
    preload: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=1 << 20)], ...],
        Meta(
            max_length=16,
            description="System prompts whose KV cells are ready before the first request: texts, "
            "or file:PATH, relative to this file. For a model without a chat template: beginnings "
            "of prompts.",
        ),
    ] = ()
    reproducible: Annotated[
        bool,
        Meta(
            description="The same request with the same seed gets the same bytes, alone or beside "
            "others, from a warm cache or resumed; takes a q8_0 cache and the split layout."
        ),
    ] = False
    share: Annotated[
        Literal["reproducible", "all", "none"],
        Meta(
            description="Identical requests that get one answer, from the cache or while it is "
            "computed: those with temperature 0 or a seed of their own, all, or none."
        ),
    ] = "reproducible"


class Cache(Section, frozen=True):
    """Answers that are kept, so that the same request is not computed again."""

    bytes: Annotated[
        int, Meta(ge=0, le=1 << 40, description="Most memory that answers take; 0 keeps none.")
    ] = 16 << 20
    ttl_s: Annotated[
        float, Meta(gt=0, le=31_536_000, description="Seconds after which an answer is forgotten.")
    ] = 3600.0


class Hooks(Section, frozen=True):
    """Commands run beside serving, without a shell; RAYHOST_URL and RAYHOST_MODEL are set."""

    on_ready: Annotated[
        Command,
        Meta(
            max_length=256,
            description="Program and arguments, run once when every model that can be is loaded.",
        ),
    ] = ()
    on_model_loaded: Annotated[
        Command,
        Meta(
            max_length=256,
            description="Program and arguments, run whenever a worker has loaded its model.",
        ),
    ] = ()


class Profile(Section, frozen=True):
    """What one rayhost serves."""

    models: Annotated[
        tuple[ModelProfile, ...],
        Meta(min_length=1, max_length=64, description="One worker process for each entry."),
    ]
    listen: Annotated[Listen, Meta(description="Where the HTTP server listens.")] = Listen()
    limits: Annotated[Limits, Meta(description="Bounds on requests and on shutdown.")] = Limits()
    cache: Annotated[Cache, Meta(description="Answers kept for identical requests.")] = Cache()
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
    schema_: Annotated[
        str | None, Meta(description="For editors: where this file's JSON Schema lies.")
    ] = msgspec.field(name="$schema", default=None)


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
    found = chain(strict_json.mistakes(value, Profile), _clashes(value))
    problems = [f"{origin}: {problem}" for problem in islice(found, MAX_LISTED + 1)]
    if len(problems) > MAX_LISTED:
        problems[MAX_LISTED] = f"{origin}: and more"
    if problems:
        raise ProfileError(tuple(problems))
    return msgspec.convert(value, Profile)


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


def _clashes(value: Any) -> Iterator[str]:
    """Yield what is wrong between fields. The value may have any shape: each part is looked at."""
    models = value.get("models") if isinstance(value, dict) else None
    taken: dict[str, str] = {}
    for index, model in enumerate(models if isinstance(models, list) else ()):
        if isinstance(model, dict):
            yield from _name_clashes(model, f"models[{index}]", taken)
            yield from _batch_clash(model, f"models[{index}]")
            yield from _reproducible_clash(model, f"models[{index}]")


def _name_clashes(model: dict[str, Any], path: str, taken: dict[str, str]) -> Iterator[str]:
    aliases = model.get("aliases")
    names = [(f"{path}.name", model.get("name"))]
    for index, alias in enumerate(aliases if isinstance(aliases, list) else ()):
        names.append((f"{path}.aliases[{index}]", alias))
    for here, name in names:
        if isinstance(name, str) and taken.setdefault(name, here) != here:
            yield (
                f"{here}: {strict_json.shown(name)} is already {taken[name]}; "
                "expected a name of its own"
            )


def _reproducible_clash(model: dict[str, Any], path: str) -> Iterator[str]:
    kv = model.get("kv")
    if model.get("reproducible") is not True or not isinstance(kv, dict):
        return
    for field, needed in (("type", "q8_0"), ("layout", "split")):
        given = kv.get(field, "auto")
        if given not in ("auto", needed):
            yield (
                f"{path}.kv.{field}: {strict_json.shown(given)} is not reproducible; "
                f'expected "{needed}" or "auto"'
            )


def _batch_clash(model: dict[str, Any], path: str) -> Iterator[str]:
    # Every sequence being decoded needs a place in the step.
    field = {field.name: field for field in msgspec.structs.fields(ModelProfile)}
    batch = model.get("batch", field["batch"].default)
    concurrency = model.get("concurrency", field["concurrency"].default)
    if isinstance(batch, int) and isinstance(concurrency, int) and 1 <= batch < concurrency <= 64:
        yield (
            f"{path}.batch: {strict_json.shown(batch)} is not valid; "
            f"expected at least the concurrency, {concurrency}"
        )
