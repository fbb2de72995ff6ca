"""The installed service behind the box's nginx over TLS."""

import time
from collections.abc import Callable

from tests.vps import tls
from tests.vps.clients import Service
from tests.vps.conftest import WHEELHOUSE

INSTALL = ("sh", f"{WHEELHOUSE}/install.sh")


def install(service: Service, *options: str) -> str:
    return service.machine.run(*INSTALL, *options).stdout


def answer(service: Service) -> str:
    return tls.answer(service.machine, service.key)


def test_it_streams_through_nginx_over_tls_also_while_it_is_restarted(
    service: Service, measured: Callable[[str], None]
) -> None:
    tls.make_certificate(service.machine)
    install(service, "--proxy", "nginx", *tls.OPTIONS)
    assert answer(service).rstrip().endswith("data: [DONE]")
    code, version = "%{http_code}", "%{http_version}"
    hidden = tls.curl(service.machine, "/metrics", "-o", "/dev/null", "-w", code)
    assert hidden.stdout == "404"
    status = tls.curl(service.machine, "/health", "-o", "/dev/null", "-w", f"{code} {version}")
    assert status.stdout == "204 2"
    began, slowest = time.monotonic(), 0.0
    for _ in range(3):
        service.machine.run("systemctl", "restart", "--no-block", "rayhost.service")
        for _ in range(4):
            asked = time.monotonic()
            assert answer(service).rstrip().endswith("data: [DONE]")
            slowest = max(slowest, time.monotonic() - asked)
    measured(
        f"through nginx, 3 restarts in {time.monotonic() - began:.0f} s: 12 whole answers, "
        f"slowest {slowest:.1f} s"
    )


def test_caddy_takes_the_place_of_nginx_and_leaves_as_it_came(service: Service) -> None:
    root = service.machine.root
    before = (root / "etc/caddy/Caddyfile").read_text()
    # The certificate is remembered; so is the domain.
    install(service, "--proxy", "caddy")
    assert not (root / "etc/nginx/conf.d/rayhost.conf").exists()
    assert service.machine.show("nginx.service", "ActiveState") == "inactive"
    assert answer(service).rstrip().endswith("data: [DONE]")
    assert install(service) == "install: nothing to change\n"

    # What somebody adds to it is not taken away.
    ours = (root / "etc/caddy/Caddyfile").read_text()
    (root / "etc/caddy/Caddyfile").write_text(f"{ours}\n# mine\n")
    refused = service.machine.run(*INSTALL, check=False)
    assert "/etc/caddy/Caddyfile is somebody's own" in refused.stderr
    (root / "etc/caddy/Caddyfile").write_text(ours)

    install(service, "--proxy", "")
    assert (root / "etc/caddy/Caddyfile").read_text() == before
    assert service.machine.show("caddy.service", "ActiveState") == "inactive"
    assert install(service) == "install: nothing to change\n"


def test_a_caddyfile_of_somebody_is_not_replaced(service: Service) -> None:
    caddyfile = service.machine.root / "etc/caddy/Caddyfile"
    before = caddyfile.read_text()
    caddyfile.write_text(f"{before}\n# mine\n")
    try:
        options = ("--proxy", "caddy", *tls.OPTIONS)
        refused = service.machine.run(*INSTALL, *options, check=False)
        assert caddyfile.read_text() == f"{before}\n# mine\n"
    finally:
        caddyfile.write_text(before)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "/etc/caddy/Caddyfile is somebody's own" in refused.stderr
