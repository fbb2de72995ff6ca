"""The profile: what one host serves, as typed and bounded fields of a JSON file. A leaf.

Invariant: a `Profile` that came from `load` or `parse` is valid as a whole, and a `ProfileError`
names every mistake of the file, each with its JSON path, the value, and what would be valid.
"""

from rayhost.profile.file import (
    MAX_BYTES,
    MAX_LISTED,
    Profile,
    ProfileError,
    digests,
    json_schema,
    load,
    parse,
)
from rayhost.profile.governor import LADDER, Governor, Rung
from rayhost.profile.host import Cache, Cpus, Hooks, Limits, Listen
from rayhost.profile.model import Kv, ModelProfile, Snapshots

__all__ = [
    "LADDER",
    "MAX_BYTES",
    "MAX_LISTED",
    "Cache",
    "Cpus",
    "Governor",
    "Hooks",
    "Kv",
    "Limits",
    "Listen",
    "ModelProfile",
    "Profile",
    "ProfileError",
    "Rung",
    "Snapshots",
    "digests",
    "json_schema",
    "load",
    "parse",
]
