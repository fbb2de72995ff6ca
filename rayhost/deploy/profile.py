"""A profile as the deployment reads it: JSON, of the right types where files are made from it.

`rayhost check` says everything that is wrong with a profile; that takes msgspec, and this runs
before anything is installed. So a wrong type is one line here, too, and the rest is for `check`.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rayhost.errors import RayhostError

_SECTIONS = {"listen": dict, "limits": dict, "cpus": dict, "models": list}
_NUMBERS = ("drain_s", "body_bytes", "head_s", "body_s", "reader_s")
# ProtectHome and PrivateTmp hide them from the service; `~` is its own home.
_CLOSED = ("/root", "/home", "/run/user", "/tmp", "/var/tmp")


def read_profile(path: Path | None) -> dict[str, Any]:
    """Return a profile as JSON; empty for none. Raises RayhostError, naming the wrong type."""
    if path is None:
        return {}
    try:
        given = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise RayhostError(f"{path}: cannot be read: {error}") from None
    if mistake := next(_mistakes(given), ""):
        raise RayhostError(f"{path}: {mistake}")
    profile: dict[str, Any] = given
    return profile


def _mistakes(given: object) -> Iterator[str]:
    """Yield what has another type than the files of a deployment need; the first one counts."""
    if not isinstance(given, dict):
        yield "expected an object, with the keys of a profile"
        return
    for name, kind in _SECTIONS.items():
        if not isinstance(given.get(name, kind()), kind):
            yield f"{name}: expected {'an object' if kind is dict else 'a list'}"
    for name in _NUMBERS:
        if not _is_number(given.get("limits", {}).get(name, 0)):
            yield f"limits.{name}: expected a number"
    for at, model in enumerate(given.get("models", ())):
        if not isinstance(model, dict):
            yield f"models[{at}]: expected an object"
        elif not _are_cpus(model.get("cpus", "auto")):
            yield f'models[{at}].cpus: expected "auto" or a list of numbers'
    for name in ("front", "workers"):
        if not _are_cpus(given.get("cpus", {}).get(name, "auto")):
            yield f'cpus.{name}: expected "auto" or a list of numbers'
    if not isinstance(given.get("listen", {}).get("admin_socket"), str | None):
        yield "listen.admin_socket: expected a path or null"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _are_cpus(value: object) -> bool:
    return value == "auto" or (
        isinstance(value, list) and all(type(cpu) is int and cpu >= 0 for cpu in value)
    )


def files(profile: dict[str, Any]) -> list[str]:
    """Return the paths that a profile names as file:PATH, as written."""
    texts: list[object] = []
    for model in profile.get("models", ()):
        preload = model.get("preload", ())
        texts += [model.get("source"), model.get("chat_template")]
        texts += preload if isinstance(preload, list) else []
    named = [text for text in texts if isinstance(text, str) and text.startswith("file:")]
    return [text.removeprefix("file:") for text in dict.fromkeys(named)]


def unreachable(profile: dict[str, Any], path: Path, folder: Path) -> str:
    """Return which file the service will not find once the profile at `path` is in `folder`.

    With what mends it; nothing if it will find all.
    """
    for name in files(profile):
        if not name.startswith(("/", "~")):
            if not (folder / name).exists():
                source, goal = path.absolute().parent / name, folder / name
                return (
                    f"it names {name!r}, and there is no {goal}; to mend it: "
                    f"install -D -m 644 {source} {goal}"
                )
        elif any(Path(name).is_relative_to(closed) for closed in _CLOSED):
            return f"it names {name!r}, in a folder that the service cannot see; move it to /srv"
    return ""
