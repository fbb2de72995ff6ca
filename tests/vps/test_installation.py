"""install.sh on a bare Debian: to an answer over TLS, again without a change, and away again."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.waiting import eventually
from tests.vps import tls
from tests.vps.box import Box
from tests.vps.clients import Service
from tests.vps.conftest import PROFILE, WHEELHOUSE, key_in

INSTALL = ("sh", f"{WHEELHOUSE}/install.sh")

# What the system itself and nginx write while they run.
PASSING = (
    "dev", "proc", "run", "sys", "tmp", "var/log", "var/tmp", "var/lib/systemd", "var/lib/nginx",
    "root",
)  # fmt: skip


def files(machine: Box) -> dict[str, bytes]:
    """Every file of the machine that lasts, with what is in it where that is small."""
    found: dict[str, bytes] = {}
    for folder, below, names in os.walk(machine.root):
        here = Path(folder).relative_to(machine.root)
        below[:] = [one for one in below if str(here / one) not in PASSING]
        found[f"{here}/"] = b""
        for name in names:
            path = Path(folder, name)
            # The first are what useradd keeps of the files it changed.
            if path.name.endswith("-") or path.name == ".pwd.lock":
                continue
            small = not path.is_symlink() and path.stat().st_size < 10_000
            found[str(here / name)] = path.read_bytes() if small else b""
    return found


def test_it_comes_in_one_command_stays_as_it_is_and_leaves_nothing(
    bare: Box, measured: Callable[[str], None]
) -> None:
    tls.make_certificate(bare)
    options = ("--profile", PROFILE, "--proxy", "nginx", *tls.OPTIONS)
    before = files(bare)

    planned = bare.run(*INSTALL, "--dry-run", *options).stdout.splitlines()
    assert files(bare) == before
    assert all(line.startswith("install: would ") for line in planned)

    began = time.monotonic()
    done = bare.run(*INSTALL, *options).stdout
    service = Service(bare, key_in(done))
    assert tls.answer(bare, service.key).rstrip().endswith("data: [DONE]")
    took_s = time.monotonic() - began
    measured(f"install.sh --proxy nginx, to the end of an answer streamed over TLS: {took_s:.1f} s")
    changes = [line for line in done.splitlines() if "API key, shown" not in line][:-1]
    assert changes == [line.replace("would ", "", 1) for line in planned]

    installed, invocation = files(bare), bare.show("rayhost.service", "InvocationID")
    assert bare.run(*INSTALL).stdout == "install: nothing to change\n"
    assert bare.run(*INSTALL, "--dry-run").stdout == "install: nothing to change\n"
    assert files(bare) == installed
    assert bare.show("rayhost.service", "InvocationID") == invocation

    kept = ("etc/rayhost/keys.json", "etc/rayhost/profile.json")
    bare.run(*INSTALL, "--uninstall", "--keep-data")
    assert not (bare.root / "opt/rayhost").exists()
    assert "first API key" not in bare.run(*INSTALL).stdout
    for name in kept:
        assert (bare.root / name).read_bytes() == installed[name]
    service.answer(1)

    bare.run("tar", "-C", "/", "-czf", "/root/backup.tar.gz", "etc/rayhost")
    with service.clients(4) as tally:
        eventually(lambda: tally.whole, "the clients")
        gone = bare.run(*INSTALL, "--uninstall").stdout
    assert "remove the user rayhost" in gone
    assert "rayhost" not in bare.run("ls", "/run").stdout.split()
    assert files(bare) == before
    known = ("systemctl", "list-units", "--all", "--no-legend", "rayhost*")
    # systemd forgets a unit that has no file any more when it next has nothing else to do.
    eventually(lambda: not bare.run(*known).stdout, "systemd to forget the units")
    assert bare.run("getent", "passwd", "rayhost", check=False).returncode == 2
    assert bare.run(*INSTALL, "--uninstall").stdout == "install: nothing to change\n"

    # Another machine, where the group of the service has another number.
    bare.run("groupadd", "--system", "somebody")
    bare.run("tar", "-C", "/", "-xzf", "/root/backup.tar.gz")
    bare.run(*INSTALL)
    service.answer(1)  # with the key of before
    assert tls.answer(bare, service.key).rstrip().endswith("data: [DONE]")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--offline", "/nowhere"), "/nowhere: no wheelhouse"),
        (("--nonsense",), "unknown option --nonsense"),
        (("--offline",), "--offline needs a value"),
        (("--rollback",), "no release to go back to"),
        (("--profile", "/nowhere.json"), "/nowhere.json: no such profile"),
        (("--cpus", "all"), "'all' are no CPUs"),
        (("--cpus", "3-1"), "'3-1' are no CPUs"),
        (("--proxy", "nginx"), "'' is no domain"),
        (("--proxy", "nginx", "--domain", "a.org"), "no certificate /etc/letsencrypt/live/a.org/"),
    ],
)
def test_what_is_asked_wrongly_is_told_before_anything_is_done(
    options: tuple[str, ...], why: str, shared: Box
) -> None:
    before = files(shared)
    result = shared.run(*INSTALL, *options, check=False)
    assert result.returncode == 1
    assert why in result.stderr
    assert files(shared) == before
