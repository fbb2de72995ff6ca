"""The sections of a profile about the host as a whole: address, bounds, cache, hooks."""

from typing import Annotated, Literal

from msgspec import Meta

from rayhost.profile.fields import Command, CpuList, FilePath, Host, Origin, Section


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
        Meta(description="Serve other machines and web pages without API keys, whoever they are."),
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


class Cpus(Section, frozen=True):
    """Which CPUs the front and the workers run on."""

    front: Annotated[
        CpuList | Literal["auto"],
        Meta(
            description="CPU numbers of the process that takes HTTP; auto: what `workers` leaves, "
            "all where that is auto, too."
        ),
    ] = "auto"
    workers: Annotated[
        CpuList | Literal["auto"],
        Meta(
            description="CPU numbers for models whose own `cpus` is auto; auto: the cores that "
            "`front` leaves, all where that is auto, too."
        ),
    ] = "auto"


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
