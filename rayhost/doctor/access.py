"""Whether the service's user can read what the service is told to: by mode, and in its sandbox."""

import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from rayhost.doctor.finding import Finding
from rayhost.governor.cgroups import read as read_file

Kind = Literal["keys", "profile", "model"]

# What these settings of a unit hide from a service.
_HIDDEN = {"ProtectHome": ("home", "root", "run/user"), "PrivateTmp": ("tmp", "var/tmp")}


class User(NamedTuple):
    """Whom the service runs as, and the folders that it cannot see."""

    name: str
    uid: int
    groups: frozenset[int]
    hidden: tuple[Path, ...] = ()


class Blocked(NamedTuple):
    """A file that the service cannot read, and the file or folder that is the cause."""

    kind: Kind
    path: Path
    at: Path
    hidden: bool


def user_of(root: Path, settings: Mapping[str, str]) -> User | None:
    """Return the user of a unit with these settings; None where the machine has no such user."""
    name = settings.get("User", "")
    rows = (line.split(":") for line in read_file(root / "etc/passwd").splitlines())
    own = next((row for row in rows if row[0] == name and len(row) > 3), None)
    if own is None:
        return None
    groups = (line.split(":") for line in read_file(root / "etc/group").splitlines())
    further = {int(row[2]) for row in groups if len(row) > 3 and name in row[3].split(",")}
    folders = (
        folder
        for setting, folders in _HIDDEN.items()
        if settings.get(setting, "no") not in ("no", "read-only")
        for folder in folders
    )
    hidden = tuple(root / folder for folder in folders)
    return User(name, int(own[2]), frozenset({int(own[3]), *further}), hidden)


def read(places: Iterable[tuple[Kind, Path]], root: Path, user: User) -> Iterator[Blocked]:
    """Yield those of these files that are there and that the user cannot read."""
    for kind, place in places:
        path = place.resolve()
        if any(path.is_relative_to(folder.resolve()) for folder in user.hidden):
            yield Blocked(kind, place, place, hidden=True)
            continue
        above = [one for one in path.parents if one.is_relative_to(root.resolve())]
        for one in (*reversed(above), path):
            try:
                may = _may(one, user, 1 if one.is_dir() else 4)
            except (FileNotFoundError, PermissionError):  # told elsewhere, or closed to us, too
                break
            if not may:
                yield Blocked(kind, place, one, hidden=False)
                break


def check(blocked: Iterable[Blocked], user: User, store: Path) -> Iterator[Finding]:
    """Yield what keeps the service from what it is to serve."""
    why = {
        "keys": "the service does not start, or knows no key",
        "profile": "the service does not start",
        "model": "the model cannot be loaded",
    }
    for one in blocked:
        yield Finding(
            "model" if one.kind == "model" else "permissions",
            "error",
            f"{one.path} ({one.kind}) is in a folder that the service cannot see"
            if one.hidden
            else f"{one.path} ({one.kind}) cannot be read by {user.name}: {one.at} is closed to it",
            why[one.kind],
            *_mending(one, user, store),
        )


def _mending(one: Blocked, user: User, store: Path) -> tuple[str, str]:
    path, at = shlex.quote(str(one.path)), shlex.quote(str(one.at))
    if one.hidden:
        target = store / "files" / one.path.name
        make = f"install -D -o {user.name} -g {user.name} -m 600 {path} {shlex.quote(str(target))}"
        return make, f"then name {target} in the profile, and: systemctl reload rayhost"
    if one.at.resolve().is_relative_to(store.resolve()):
        return f"chown -R {user.name}:{user.name} {shlex.quote(str(store))}", ""
    if one.at.is_dir():
        return f"chmod o+x {at}", ""
    if one.kind == "keys":
        return f"chown root:{user.name} {at} && chmod 0640 {at}", ""
    return f"chmod o+r {at}", ""


def _may(path: Path, user: User, bit: int) -> bool:
    about = path.stat()
    if about.st_uid == user.uid:
        return bool(about.st_mode >> 6 & bit)
    if about.st_gid in user.groups:
        return bool(about.st_mode >> 3 & bit)
    return bool(about.st_mode & bit)
