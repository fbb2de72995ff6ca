"""The sections of a profile about one model and its worker."""

from typing import Annotated, Literal

from msgspec import Meta

from rayhost.profile.fields import Alias, CpuList, Name, Section, Sha256, Source


class Kv(Section, frozen=True):
    """How the KV cache is held."""

    type: Annotated[
        Literal["auto", "f16", "q8_0"],
        Meta(
            description="Precision of a cell; q8_0 takes half the memory and prefills slower; "
            "auto: as tuned, else f16 where memory allows."
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
        Annotated[int, Meta(ge=64, le=1 << 20)] | Literal["auto"],
        Meta(
            description="Tokens of one request, prompt and answer together; auto: 2048, less "
            "where memory is short."
        ),
    ] = "auto"
    concurrency: Annotated[
        Annotated[int, Meta(ge=1, le=64)] | Literal["auto"],
        Meta(
            description="Sequences decoded together, each with its own context; auto: 8, fewer "
            "where memory is short."
        ),
    ] = "auto"
    batch: Annotated[
        Annotated[int, Meta(ge=1, le=8192)] | Literal["auto"],
        Meta(
            description="Most tokens in one step, at least `concurrency`; auto: 512, fewer where "
            "memory is short."
        ),
    ] = "auto"
    threads: Annotated[
        Annotated[int, Meta(ge=1, le=512)] | Literal["auto"],
        Meta(
            description="Compute threads, at most as many as a CPU quota lets run; auto: as tuned, "
            "else one for each of its cores."
        ),
    ] = "auto"
    cpus: Annotated[
        CpuList | Literal["auto"],
        Meta(
            description="CPU numbers the worker is pinned to; auto: those of `cpus.workers` that "
            "are of one NUMA node."
        ),
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
    chat_template: Annotated[
        Annotated[str, Meta(min_length=1, max_length=1 << 20)] | None,
        Meta(
            description="A chat template in Jinja for a model whose file has none, or instead of "
            "it: a text, or file:PATH, relative to this file."
        ),
    ] = None
    fallback: Annotated[
        Name | None,
        Meta(
            description="Another model of this profile, smaller and for the same task, that "
            "answers in its place while there is no memory for both."
        ),
    ] = None
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
