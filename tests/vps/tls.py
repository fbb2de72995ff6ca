"""The box's reverse proxy over TLS: a self-made certificate, and clients that believe it."""

import json
import subprocess

from tests.vps.box import Box

CERTIFICATE, KEY = "/etc/ssl/box.pem", "/etc/ssl/box.key"
OPTIONS = ("--domain", "localhost", "--certificate", CERTIFICATE, "--certificate-key", KEY)
ASK = json.dumps(
    {
        "model": "smollm2-135m", "stream": True, "max_tokens": 8, "temperature": 1,
        "messages": [{"role": "user", "content": "Tell me a story."}],
    }
)  # fmt: skip


def make_certificate(machine: Box) -> None:
    """Make what an operator brings."""
    machine.run(
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
        "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext",
        "subjectAltName=DNS:localhost", "-keyout", KEY, "-out", CERTIFICATE,
    )  # fmt: skip
    machine.run("chgrp", "caddy", KEY)  # nginx reads it as root
    machine.run("chmod", "640", KEY)


def curl(machine: Box, path: str, *options: str) -> "subprocess.CompletedProcess[str]":
    """Ask for a path through the proxy."""
    return machine.run(
        "curl", "-sS", "--cacert", CERTIFICATE, f"https://localhost{path}", *options, check=False
    )


def answer(machine: Box, api_key: str) -> str:
    """Return a streamed answer as it came, or what curl says instead."""
    key = f"Authorization: Bearer {api_key}"
    json_body = "Content-Type: application/json"
    asked = curl(machine, "/v1/chat/completions", "-N", "-H", key, "-H", json_body, "-d", ASK)
    return asked.stdout + asked.stderr
