"""What a reload changes: two states of a profile compared. Pure.

Invariant: a setting of which nobody said that a running host can take it in is named as one that
needs a restart, so that one added later is never dropped in silence.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import msgspec

from rayhost.cli.access import Access
from rayhost.errors import RayhostError
from rayhost.ipc.messages import Load
from rayhost.profile import ModelProfile, Profile
from rayhost.supervisor.governed import Budget

Planned = tuple[ModelProfile, Load | RayhostError]

# Of a model: settings that its worker gets at its start, and those that only the front knows.
_LOADED = frozenset({
    "source", "sha256", "context", "concurrency", "batch", "threads", "cpus", "kv",
    "inter_token_ms", "snapshots", "preload", "chat_template", "reproducible",
})  # fmt: skip
_FRONT = frozenset({"aliases", "share"})
# Of the host: what is read again, by section, or as section.field.
_LIVE = frozenset({
    "limits", "hooks", "keys", "listen.open", "listen.origins", "governor", "cpus", "cache",
})  # fmt: skip
_APART = frozenset({"models", "schema_", "goal"})  # compared one by one; of no meaning to a host


@dataclass(frozen=True, slots=True)
class Setup:
    """What a host is to be: a valid profile, who may enter, what each worker loads and may have."""

    profile: Profile
    access: Access
    planned: Sequence[Planned]
    budget: Budget
    front_cpus: Sequence[int] = ()  # none: wherever it runs


class Reloaded(msgspec.Struct, frozen=True):
    """What a reload did. Models by name, settings by their path in the profile."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    replaced: tuple[str, ...]  # a worker with other settings took over
    settings: tuple[str, ...]  # that are in force now, the models' apart
    need_restart: tuple[str, ...]  # that are not
    failed: tuple[str, ...] = ()  # models that failed before, and failed again

    def told(self) -> Iterator[str]:
        """Yield it in lines for people."""
        for what in ("added", "removed", "replaced", "settings"):
            if names := getattr(self, what):
                yield f"{what}: {', '.join(names)}"
        if self.failed:
            yield f"failed again: {', '.join(self.failed)}"
        if self.need_restart:
            yield f"in force only after a restart: {', '.join(self.need_restart)}"


def compare(
    old: Setup, new: Setup, failed: Collection[str], started: Profile | None = None
) -> Reloaded:
    """Return what is to be done; a model that `failed` is loaded again.

    `started` is the profile that the process began with, if not `old`: what takes a restart is
    compared with that, so that it is named by every reload until there was one.
    """
    before = {model.name: (model, load) for model, load in old.planned}
    after = {model.name: (model, load) for model, load in new.planned}
    both = [name for name in after if name in before]
    live, _ = _settings(old.profile, new.profile)
    _, restart = _settings(started or old.profile, new.profile)
    for name in both:
        for field in _differing(before[name][0], after[name][0]):
            if field not in _LOADED:
                (live if field in _FRONT else restart).append(f"models.{name}.{field}")
    return Reloaded(
        added=tuple(name for name in after if name not in before),
        removed=tuple(name for name in before if name not in after),
        replaced=tuple(
            name for name in both if name in failed or before[name][1] != after[name][1]
        ),
        settings=tuple(live),
        need_restart=tuple(restart),
    )


def retried(old: Setup, new: Setup, failed: Collection[str]) -> frozenset[str]:
    """Return the `failed` models that nobody changed: tried again, but no cause to refuse."""
    before = {model.name: model for model, _ in old.planned}
    return frozenset(
        model.name
        for model, _ in new.planned
        if model.name in failed and before.get(model.name) == model
    )


def after_trying(changed: Reloaded, failed: Collection[str]) -> Reloaded:
    """Return what was done, where these of the models to be loaded again have `failed` again."""
    return msgspec.structs.replace(
        changed,
        replaced=tuple(name for name in changed.replaced if name not in failed),
        failed=tuple(name for name in changed.replaced if name in failed),
    )


def _settings(old: Profile, new: Profile) -> tuple[list[str], list[str]]:
    live: list[str] = []
    restart: list[str] = []
    for section in _differing(old, new):
        if section in _APART:
            continue
        was, now = getattr(old, section), getattr(new, section)
        nested = isinstance(was, msgspec.Struct) and isinstance(now, msgspec.Struct)
        paths = [f"{section}.{field}" for field in _differing(was, now)] if nested else [section]
        for path in paths:
            (live if section in _LIVE or path in _LIVE else restart).append(path)
    return live, restart


def _differing(old: msgspec.Struct, new: msgspec.Struct) -> Iterator[str]:
    for field in old.__struct_fields__:
        if getattr(old, field) != getattr(new, field):
            yield field
