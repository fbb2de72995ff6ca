"""Does a stream come token by token through nginx and Caddy? The gaps between its events.

    python -m bench.through_proxy [--tokens 256] [--rounds 3]

One host with SmolLM2-135M; each round asks it directly, through nginx and through Caddy, both over
TLS with what `rayhost deploy render` writes for them. A gap is between two events with text, as the
client has them. An event that comes in the same instant as the one before it (0.1 ms) was held up.
"""

import contextlib
import http.client
import itertools
import json
import ssl
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from bench import machine
from bench.compare import DEFAULT_MODEL, default_model
from bench.servers import Settings, rayhost, running
from bench.stats import percentile
from rayhost.deploy.proxy import KINDS
from tests.support import proxies

TOGETHER_S = 1e-4
TIMEOUT_S = 120

Connect = Callable[[], http.client.HTTPConnection]


def main(
    *,
    tokens: Annotated[int, typer.Option(min=2, help="Of each answer.")] = 256,
    rounds: Annotated[int, typer.Option(min=1, help="Answers of each way.")] = 3,
) -> None:
    """Print a line for each way."""
    settings = Settings(
        model=str(default_model()),
        name=DEFAULT_MODEL,
        context=2048,
        slots=1,
        threads=machine.physical_cores(),
        kv_layout="split",
    )
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rayhost-bench-")))
        server = stack.enter_context(running(rayhost(settings, folder), folder / "log"))
        upstream = urlsplit(server.url).netloc
        ways: dict[str, Connect] = {
            "direct": lambda: http.client.HTTPConnection(upstream, timeout=TIMEOUT_S)
        }
        for kind in KINDS:
            (own := folder / kind).mkdir()
            proxy = stack.enter_context(proxies.running(kind, upstream, own))
            ways[kind] = _over_tls(proxy)
        arrived: dict[str, list[list[float]]] = {name: [] for name in ways}
        for number in range(rounds + 1):
            for name, connect in ways.items():
                stamps = _stamps(connect, tokens, number)
                if number:  # the first warms up
                    arrived[name].append(stamps)
    for name, answers in arrived.items():
        typer.echo(f"{name}: {_line(answers)}")


def _over_tls(proxy: proxies.Running) -> Connect:
    parts = urlsplit(proxy.url)
    context = ssl.create_default_context(cafile=proxy.certificate)
    return lambda: http.client.HTTPSConnection(
        proxies.DOMAIN, parts.port, timeout=TIMEOUT_S, context=context
    )


def _stamps(connect: Connect, tokens: int, seed: int) -> list[float]:
    """Ask for an answer; return when it was asked for, and when each event with text came."""
    body = {
        "model": DEFAULT_MODEL,
        "prompt": "Once upon a time",
        "max_tokens": tokens,
        "ignore_eos": True,
        "temperature": 1,
        "seed": seed,
        "stream": True,
    }
    headers = {"Content-Type": "application/json", "Cache-Control": "no-store, no-cache"}
    with contextlib.closing(connect()) as connection:
        connection.connect()
        stamps = [time.perf_counter()]
        connection.request("POST", "/v1/completions", json.dumps(body), headers)
        response = connection.getresponse()
        if response.status != 200:
            raise SystemExit(f"{response.status}: {response.read(1000)!r}")
        while line := response.readline():
            now = time.perf_counter()
            if line.startswith(b"data: {") and json.loads(line[6:])["choices"][0]["text"]:
                stamps.append(now)
    return stamps


def _line(answers: list[list[float]]) -> str:
    gaps = [b - a for stamps in answers for a, b in itertools.pairwise(stamps[1:])]
    first = percentile([stamps[1] - stamps[0] for stamps in answers], 0.5) or 0.0
    together = sum(gap < TOGETHER_S for gap in gaps)
    p50, p99 = (percentile(gaps, share) or 0.0 for share in (0.5, 0.99))
    return (
        f"{len(gaps)} gaps, p50 {p50 * 1e3:.2f} ms, p99 {p99 * 1e3:.2f} ms, longest "
        f"{max(gaps) * 1e3:.2f} ms, {together} below {TOGETHER_S * 1e3:g} ms; first event after "
        f"{first * 1e3:.1f} ms"
    )


if __name__ == "__main__":
    typer.run(main)
