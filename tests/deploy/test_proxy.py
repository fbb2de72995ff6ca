"""A reverse proxy's configuration: made from the profile, and closed to names that break out."""

import subprocess
from pathlib import Path

import pytest

from rayhost import profile as profiles
from rayhost.deploy.files import render_proxy
from rayhost.deploy.machine import Machine
from rayhost.deploy.proxy import KINDS, Proxy, proxy
from rayhost.deploy.settings import settings
from rayhost.errors import RayhostError
from tests.support.host import command

PLAIN = settings({}, Machine(1 << 30))


def text(kind: str, given: Proxy) -> str:
    (rendered,) = render_proxy(kind, given).values()
    return rendered


def test_the_defaults_are_the_profiles() -> None:
    limits = profiles.Limits()
    given = proxy(PLAIN, {}, "example.org")
    for name in ("body_bytes", "head_s", "body_s", "reader_s"):
        assert getattr(given, name) == getattr(limits, name)


@pytest.mark.parametrize("kind", KINDS)
def test_limits_domain_and_address_are_the_profiles_and_every_name_is_filled(kind: str) -> None:
    limits = {"body_bytes": 4096, "head_s": 2.5, "body_s": 7, "queue": 3}
    made = settings({"listen": {"port": 9000}}, Machine(1 << 30))
    rendered = text(kind, proxy(made, limits, "LLM.example.org"))
    assert "@{" not in rendered
    assert rendered.endswith("\n")
    assert "llm.example.org" in rendered
    assert "127.0.0.1:9000" in rendered
    assert "4096" in rendered
    assert "2500ms" in rendered


@pytest.mark.parametrize(
    ("host", "upstream"),
    [
        ("0.0.0.0", "127.0.0.1:80"),
        ("::", "[::1]:80"),
        ("10.0.0.2", "10.0.0.2:80"),
    ],
)
def test_the_proxy_asks_an_address_that_can_be_connected_to(host: str, upstream: str) -> None:
    made = settings({"listen": {"host": host, "port": 80}}, Machine(1 << 30))
    assert proxy(made, {}, "example.org").upstream == upstream


def test_without_a_certificate_it_is_lets_encrypts() -> None:
    given = proxy(PLAIN, {}, "example.org")
    assert "/etc/letsencrypt/live/example.org/fullchain.pem;" in text("nginx", given)
    assert "tls " not in text("caddy", given)  # it gets one by itself
    given = proxy(PLAIN, {}, "example.org", "/etc/tls/a.pem", "/etc/tls/a.key")
    assert "ssl_certificate_key /etc/tls/a.key;" in text("nginx", given)
    assert "\ttls /etc/tls/a.pem /etc/tls/a.key\n" in text("caddy", given)


@pytest.mark.parametrize(
    "domain",
    ["", "-a.org", "a..org", "a.org;", "a.org {", "a b", "a\n", "*.a.org", "a" * 64, "a_b"],
)
def test_what_is_no_domain_is_told(domain: str) -> None:
    with pytest.raises(RayhostError, match="is no domain"):
        proxy(PLAIN, {}, domain)


@pytest.mark.parametrize(
    ("pair", "why"),
    [
        (("/a.pem", ""), "go together"),
        (("", "/a.key"), "go together"),
        (("a.pem", "/a.key"), "'a.pem' cannot be used"),
        (("/a.pem", "/a.key; evil"), "cannot be used"),
        (("/a.pem\n", "/a.key"), "cannot be used"),
    ],
)
def test_bad_certificates_are_told(pair: tuple[str, str], why: str) -> None:
    with pytest.raises(RayhostError, match=why):
        proxy(PLAIN, {}, "example.org", *pair)


@pytest.mark.parametrize("kind", KINDS)
def test_the_verb_writes_the_proxys_file_and_nothing_else(kind: str, tmp_path: Path) -> None:
    asked = ("deploy", "render", "--out", tmp_path / "out", "--proxy", kind)
    done = subprocess.run(
        command(*asked, "--domain", "example.org"), check=True, capture_output=True, text=True
    )
    (path,) = map(Path, done.stdout.split())
    assert [one for one in (tmp_path / "out").rglob("*") if one.is_file()] == [path]
    assert path.read_text() == text(kind, proxy(PLAIN, {}, "example.org"))
    refused = subprocess.run(command(*asked), check=False, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "'' is no domain" in refused.stderr
