"""Checks of the doctor by themselves: what is a fault, and what only looks like one."""

from pathlib import Path

import pytest

from rayhost.cli.doctor import text
from rayhost.deploy.files import render_proxy
from rayhost.deploy.proxy import Proxy
from rayhost.doctor import build, clock, ports, proxy
from rayhost.doctor.build import Build
from rayhost.doctor.clock import Clock
from rayhost.doctor.finding import Finding, Severity, exit_status, worst_first
from rayhost.doctor.ports import Holder
from rayhost.doctor.proxy import Configuration
from tests.doctor.machine import GENERIC, NATIVE, NGINX

CPU = ("AVX2", "FMA", "F16C", "AVX-512", "AVX-512 VNNI", "AMX INT8")


def finding(severity: Severity) -> Finding:
    return Finding("x", severity, "what", "why", "fix")


@pytest.mark.parametrize(
    ("severities", "status"),
    [((), 0), (("note",), 0), (("note", "warning"), 1), (("error", "warning"), 2)],
)
def test_the_worst_finding_is_the_exit_status(
    severities: tuple[Severity, ...], status: int
) -> None:
    found = [finding(one) for one in severities]
    assert exit_status(found) == status


def test_the_worst_is_told_first_with_its_fix() -> None:
    told = text(worst_first([finding("note"), finding("error"), finding("warning")])).splitlines()
    assert [line.partition(":")[0] for line in told if line[0] != " "][:3] == [
        "error", "warning", "note",
    ]  # fmt: skip
    assert told[1:3] == ["    why: why", "    fix: fix"]
    assert told[-1] == "1 errors, 1 warnings, 1 notes"


@pytest.mark.parametrize(
    ("info", "flags", "severities"),
    [
        (NATIVE, CPU, []),
        (GENERIC, (), []),
        (GENERIC, CPU, ["error"]),
        ("CPU : AVX2 = 1 | F16C = 1 | FMA = 1 | ", CPU, ["warning"]),
        (NATIVE + "AMX_INT8 = 1 | ", CPU, ["warning"]),
        ("CPU : NEON = 1 | ", ("NEON", "NEON dot product"), ["warning"]),
        ("CPU : NEON = 1 | DOTPROD = 1 | ", ("NEON", "NEON dot product"), []),
    ],
)
def test_a_build_is_held_against_the_cpu(
    info: str, flags: tuple[str, ...], severities: list[str]
) -> None:
    assert [one.severity for one in build.check(Build(info), flags)] == severities


def test_a_build_that_does_not_run_says_why() -> None:
    (found,) = build.check(Build("", 1, "ModuleNotFoundError: llama_cpp"), CPU)
    assert found.severity == "error"
    assert "ModuleNotFoundError: llama_cpp" in found.what


def test_the_build_of_this_environment_can_be_asked() -> None:
    asked = build.read()
    assert asked.status == 0, asked.said
    assert "CPU" in asked.info


@pytest.mark.parametrize(
    ("inodes", "holders", "severities"),
    [
        ((), [], []),
        (("4",), [Holder(1, "systemd", "/sbin/init")], []),
        (("4",), [Holder(1, "systemd", "/sbin/init"), Holder(9, "python", "rayhost serve")], []),
        (("4",), [Holder(9, "nginx", "nginx: master")], ["error"]),
        (("4",), [], ["note"]),
    ],
)
def test_a_port_is_ours_systemds_or_a_strangers(
    inodes: tuple[str, ...], holders: list[Holder], severities: list[str]
) -> None:
    found = ports.check(8080, frozenset(inodes), holders)
    assert [one.severity for one in found] == severities


@pytest.mark.parametrize(
    ("arrivals_s", "lump"),
    [
        ((0.1, 0.5, 1.0), False),
        ((0.99, 0.995, 1.0), True),
        ((0.09, 0.095, 0.1), False),  # too short to tell
        ((1.0,), False),
        ((), False),
    ],
)
def test_events_that_come_together_at_the_end_are_a_lump(
    arrivals_s: tuple[float, ...], lump: bool
) -> None:
    assert bool(list(proxy.check_arrivals("https://a.org", arrivals_s))) is lump


@pytest.mark.parametrize(
    ("line", "by", "severities"),
    [
        ("proxy_buffering off", "proxy_buffering off", []),
        ("proxy_buffering off", "proxy_buffering on", ["warning"]),
        ("proxy_read_timeout 1h", "keepalive_timeout 9s", ["warning"]),
    ],
)
def test_an_nginx_that_would_spoil_answers_is_told(
    line: str, by: str, severities: list[str]
) -> None:
    assert [one.severity for one in nginx(NGINX.replace(line, by))] == severities


OURS = "proxy_pass http://127.0.0.1:8080;"
GOOD = "proxy_buffering off; proxy_read_timeout 1h;"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("upstream a { server 127.0.0.1:8080; }", []),
        ("server { location / { proxy_pass http://127.0.0.1:80801; } }", []),
        ("# server { location / { proxy_pass http://127.0.0.1:8080; } }\nlisten 8080;", []),
        ("server { %(good)s location /v1/ { %(ours)s } }", []),
        ("server { %(good)s location /metrics { %(ours)s } }", ["metrics"]),
        ("server { %(good)s location /metrics { %(ours)s allow 10.0.0.0/8; deny all; } }", []),
        ("server { %(good)s location / { %(ours)s } location = /metrics { return 404; } }", []),
        ("server { %(good)s location / { %(ours)s } location /met { root /srv; } }", []),
        ("server { %(good)s location / { %(ours)s } location ~ metric { return 404; } }", []),
        (
            "server { %(good)s location ^~ /m { %(ours)s } location ~ metric { return 404; } }",
            ["metrics"],
        ),
        ("server { %(good)s location = / { %(ours)s } }", []),
        (
            "server { %(good)s location / { try_files $uri @app; } location @app { %(ours)s } }",
            ["metrics"],
        ),
        (
            "server { %(good)s location /v1 { %(ours)s } }"
            "server { location /metrics { root /srv; } location /v1 { %(ours)s } }",
            ["buffering", "read_timeout"],
        ),
        (
            "server { location /a { %(good)s root /srv; } location /v1 { %(ours)s } }",
            ["buffering", "read_timeout"],
        ),
        ("%(good)s server { location /v1 { %(ours)s } }", []),
    ],
)
def test_each_server_of_nginx_is_judged_by_its_own_locations(text: str, words: list[str]) -> None:
    found = nginx(text % {"ours": OURS, "good": GOOD})
    assert len(found) == len(words), found
    assert all(word in one.what for word, one in zip(words, found, strict=True))


def nginx(text: str) -> list[Finding]:
    one = Configuration(Path("/etc/nginx/conf.d/a.conf"), text)
    return list(proxy.check([one], 8080, None))


@pytest.mark.parametrize(
    ("text", "open_metrics"),
    [
        ("a.org {\n reverse_proxy :8080\n}", True),
        ("a.org\nreverse_proxy localhost:8080", True),
        ("a.org {\n reverse_proxy {\n to 127.0.0.1:8080\n }\n}", True),
        ("a.org {\n reverse_proxy :80801\n}", False),
        ("a.org {\n reverse_proxy /v1/* :8080\n}", False),
        ("a.org {\n reverse_proxy /metrics* :8080\n}", True),
        ("a.org {\n respond /metrics* 404\n reverse_proxy :8080\n}", False),
        ("a.org {\n # respond /metrics* 404\n reverse_proxy :8080\n}", True),
        ("a.org {\n basic_auth {\n me x\n }\n reverse_proxy :8080\n}", False),
        ("a.org {\n @me remote_ip 10.0.0.0/8\n reverse_proxy @me :8080\n}", False),
        ("a.org {\n @rest not path /metrics\n reverse_proxy @rest :8080\n}", False),
        ("a.org {\n @rest {\n not path /v1\n }\n reverse_proxy @rest :8080\n}", True),
    ],
)
def test_each_site_of_caddy_is_judged_by_its_own_directives(text: str, open_metrics: bool) -> None:
    one = Configuration(Path("/etc/caddy/Caddyfile"), text)
    assert bool(list(proxy.check([one], 8080, None))) is open_metrics


@pytest.mark.parametrize("kind", ["nginx", "caddy"])
def test_our_own_proxies_have_nothing(kind: str) -> None:
    front = Proxy("llm.example.org", "127.0.0.1:8080")
    (text,) = render_proxy(kind, front).values()
    one = Configuration(Path(f"/etc/{kind}/conf.d/rayhost"), text)
    assert list(proxy.check([one], 8080, None)) == []


def test_what_nginx_includes_and_inherits_counts(tmp_path: Path) -> None:
    for name, written in {
        "nginx.conf": "http { proxy_read_timeout 1h; include conf.d/*.conf; }",
        "conf.d/up.conf": "upstream up { server 127.0.0.1:8080; }",
        "sites-enabled/ours": "server { include snippets/us; location /metrics { deny all; } }",
        "snippets/us": "location / { proxy_pass http://up; include buffers; }",
        "buffers": "proxy_buffering off;",
    }.items():
        path = tmp_path / "etc/nginx" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(written)
    assert list(proxy.check(proxy.read_configurations(tmp_path), 8080, None)) == []
    (tmp_path / "etc/nginx/buffers").write_text("")
    (found,) = proxy.check(proxy.read_configurations(tmp_path), 8080, None)
    assert found.what.endswith("sites-enabled/ours has no `proxy_buffering off`")


def test_the_fix_of_a_proxy_puts_our_configuration_in_place() -> None:
    text = "server { server_name a.org; ssl_certificate /c; ssl_certificate_key /k; %s }"
    ours = text % f"location /v1 {{ {OURS} proxy_buffering off; }}"
    one = Configuration(Path("/etc/nginx/conf.d/a.conf"), ours)
    (found,) = proxy.check([one], 8080, Path("/etc/rayhost/profile.json"))
    assert found.fix == (
        "rayhost deploy render --out /root/proxy --proxy nginx "
        "--profile /etc/rayhost/profile.json --domain a.org --certificate /c --certificate-key /k "
        "&& cp /root/proxy/proxy/nginx.conf /etc/nginx/conf.d/a.conf "
        "&& nginx -t && systemctl reload nginx"
    )
    assert found.advice == ""
    (beside_others,) = proxy.check([one._replace(text=ours + text % "")], 8080, None)
    assert (" cp " in beside_others.fix, "diff" in beside_others.fix) == (False, True)


@pytest.mark.parametrize(
    ("reading", "count"),
    [
        (Clock(True, 1000.0, 900.0), 0),
        (Clock(None, 1000.0, 1100.0), 0),
        (Clock(False, 1000.0, 900.0), 1),
        (Clock(False, 1000.0, 1400.0), 2),
    ],
)
def test_a_clock_is_wrong_that_is_free_or_was_set_back(reading: Clock, count: int) -> None:
    assert len(list(clock.check(reading))) == count
