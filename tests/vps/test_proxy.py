"""The installed service behind the box's nginx over TLS, and the doctor's opinion of it all."""

import json
import subprocess
import time
from collections.abc import Callable

from tests.vps.clients import Service

CERTIFICATE, KEY = "/etc/ssl/box.pem", "/etc/ssl/box.key"
ASK = json.dumps(
    {
        "model": "smollm2-135m", "stream": True, "max_tokens": 8, "temperature": 1,
        "messages": [{"role": "user", "content": "Tell me a story."}],
    }
)  # fmt: skip


def start_nginx(service: Service) -> None:
    run = service.machine.run
    run(
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
        "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext",
        "subjectAltName=DNS:localhost", "-keyout", KEY, "-out", CERTIFICATE,
    )  # fmt: skip
    run(
        "rayhost", "deploy", "render", "--out", "/root/proxy", "--proxy", "nginx", "--domain",
        "localhost", "--profile", "/etc/rayhost/profile.json", "--certificate", CERTIFICATE,
        "--certificate-key", KEY,
    )  # fmt: skip
    run("cp", "/root/proxy/proxy/nginx.conf", "/etc/nginx/conf.d/rayhost.conf")
    run("nginx", "-t", "-q")
    run("systemctl", "start", "nginx")


def curl(service: Service, path: str, *options: str) -> "subprocess.CompletedProcess[str]":
    return service.machine.run(
        "curl", "-sS", "--cacert", CERTIFICATE, f"https://localhost{path}", *options, check=False
    )


def answer(service: Service) -> str:
    key = f"Authorization: Bearer {service.key}"
    json_body = "Content-Type: application/json"
    asked = curl(service, "/v1/chat/completions", "-N", "-H", key, "-H", json_body, "-d", ASK)
    return asked.stdout + asked.stderr


def findings(service: Service, *options: str) -> list[dict[str, str]]:
    said = service.machine.run("rayhost", "doctor", "--json", *options, check=False)
    found: list[dict[str, str]] = json.loads(said.stdout)
    return found


def test_it_streams_through_nginx_over_tls_also_while_it_is_restarted(
    service: Service, measured: Callable[[str], None]
) -> None:
    start_nginx(service)
    assert answer(service).rstrip().endswith("data: [DONE]")
    assert curl(service, "/metrics", "-o", "/dev/null", "-w", "%{http_code}").stdout == "404"
    status = curl(service, "/health", "-o", "/dev/null", "-w", "%{http_code} %{http_version}")
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


def test_the_doctor_finds_nothing_wrong_and_then_what_is(service: Service) -> None:
    service.answer(1)
    # The clock, the kernel and the swap are of the machine around the box.
    theirs = {"clock", "swap", "huge pages"}
    assert [one for one in findings(service) if one["check"] not in theirs] == []
    profile = service.machine.root / "etc/rayhost/profile.json"
    good = profile.read_text()
    unit = service.machine.root / "etc/systemd/system/rayhost.slice"
    keys = service.machine.root / "etc/rayhost/keys.json"
    text = unit.read_text()
    try:
        unit.write_text(text.replace("CPUWeight=80", "CPUWeight=100"))
        keys.chmod(0o666)
        profile.write_text(good.replace("{", '{"cache": {"bytes": 1}, ', 1))
        checks = {one["check"]: one["fix"] for one in findings(service)}
    finally:
        unit.write_text(text)
        keys.chmod(0o640)
        profile.write_text(good)
    assert checks.keys() - theirs == {"units", "permissions", "drift"}
    assert checks["drift"] == "rayhost reload"
    assert checks["permissions"] == "chmod 0640 /etc/rayhost/keys.json"
