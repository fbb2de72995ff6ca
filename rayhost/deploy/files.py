"""The files of a deployment: templates of this package with the settings in them."""

import re
from collections.abc import Iterator, Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from rayhost.deploy.proxy import FILES, Proxy
from rayhost.deploy.settings import Settings
from rayhost.errors import RayhostError

GROUPS = ("systemd", "container", "examples")


_NAME = re.compile(r"@\{(\w+)\}")  # systemd has the percent sign, shells and compose the dollar


def render(settings: Settings, only: str | None = None) -> dict[str, str]:
    """Return every file by its path below the folder that is asked for."""
    values = settings.values()
    root = resources.files("rayhost.deploy") / "templates"
    groups = GROUPS if only is None else (only,)
    return {
        f"{group}/{template.name}": _filled(template, values)
        for group in groups
        for template in sorted((root / group).iterdir(), key=lambda one: one.name)
    }


def render_proxy(kind: str, proxy: Proxy) -> dict[str, str]:
    """Return the configuration of a proxy of one of `proxy.KINDS`, by its path."""
    template = resources.files("rayhost.deploy") / "templates" / "proxy" / FILES[kind]
    return {f"proxy/{template.name}": _filled(template, proxy.values())}


def write(files: Mapping[str, str], folder: Path) -> Iterator[Path]:
    """Write files and yield their paths. Raises RayhostError where that cannot be done."""
    for name, text in files.items():
        path = folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        except OSError as error:
            raise RayhostError(f"{path}: cannot be written: {error.strerror}") from None
        yield path


def _filled(template: Traversable, values: Mapping[str, str]) -> str:
    return _NAME.sub(lambda found: values[found[1]], template.read_text())
