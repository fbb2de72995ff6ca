"""Clients that read or send as slowly as they can: do the others notice, and does memory grow?

    python -m bench.slow [--readers 200] [--senders 200] [--rounds 6]

Eight clients ask their questions, first alone, then beside readers that take a byte of a long known
answer now and then and senders that never finish a body, then alone again, and so on.
"""

import asyncio
import contextlib
import json
import socket
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import psutil
import typer

from bench import machine, traffic
from bench.compare import DEFAULT_MODEL, default_model
from bench.load import Load, Plan
from bench.measure import PATIENCE_S, generate
from bench.servers import Settings, rayhost, running
from bench.stats import percentile

CLIENTS = 8
KNOWN_TOKENS = 1500
BYTE_EVERY_S = 0.5
SETTLE_S = 2.0


def main(
    *,
    readers: Annotated[int, typer.Option(min=0, help="Slow readers.")] = 200,
    senders: Annotated[int, typer.Option(min=0, help="Slow senders.")] = 200,
    rounds: Annotated[int, typer.Option(min=1, help="Questions of each normal client.")] = 6,
    pairs: Annotated[int, typer.Option(min=1, help="Times alone and times beside them.")] = 3,
) -> None:
    """Print a line for each phase."""
    settings = Settings(
        model=str(default_model()),
        name=DEFAULT_MODEL,
        context=2048,
        slots=CLIENTS,
        threads=machine.physical_cores(),
        kv_layout="split",
    )
    with tempfile.TemporaryDirectory(prefix="rayhost-bench-") as temporary:
        folder = Path(temporary)
        with running(rayhost(settings, folder), folder / "log") as server:
            front = psutil.Process(server.pid)
            asyncio.run(
                _phases(
                    server.url,
                    front,
                    readers=readers,
                    senders=senders,
                    rounds=rounds,
                    pairs=pairs,
                )
            )


async def _phases(
    url: str, front: psutil.Process, *, readers: int, senders: int, rounds: int, pairs: int
) -> None:
    body = _body()
    await _known(url, body)
    for pair in range(pairs):
        load = await asyncio.to_thread(_ask, url, rounds, f"{pair} alone")
        typer.echo(_line("alone", load, front))
        async with _slow(url, body, readers, senders):
            load = await asyncio.to_thread(_ask, url, rounds, f"{pair} beside")
            typer.echo(_line(f"beside {readers} readers and {senders} senders", load, front))


def _ask(url: str, rounds: int, seed: str) -> Load:
    sent = traffic.make("unique", CLIENTS, rounds, seed)
    return generate(Plan(url, DEFAULT_MODEL, sent, PATIENCE_S))


def _line(phase: str, load: Load, front: psutil.Process) -> str:
    failed = sum(bool(one.error) for one in load.outcomes)
    ttfts = [one.ttft_s for one in load.outcomes if one.ttft_s is not None]
    latencies = [one.latency_s for one in load.outcomes]
    ttft, latency = (percentile(values, 0.99) or 0.0 for values in (ttfts, latencies))
    return (
        f"{phase:<40} TTFT p99 {ttft * 1000:>5.0f} ms, latency p99 {latency * 1000:>5.0f} ms, "
        f"{len(load.outcomes) / load.wall_s:.2f} answers/s, {failed} failed; "
        f"front {front.memory_info().rss / 2**20:.1f} MiB"
    )


def _body() -> bytes:
    """Return a request whose answer is long, and kept."""
    message = {"role": "user", "content": "Write a very long story about the sea and the wind."}
    asked = {
        "model": DEFAULT_MODEL,
        "messages": [message],
        "max_tokens": KNOWN_TOKENS,
        "temperature": 0,
        "stream": True,
    }
    return json.dumps(asked).encode()


def _head(length: int) -> bytes:
    return (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


async def _known(url: str, body: bytes) -> None:
    """Have the long answer computed once."""
    reader, writer = await _connect(url)
    writer.write(_head(len(body)) + body)
    await reader.readuntil(b"[DONE]")
    writer.close()


async def _connect(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    parts = urlsplit(url)
    return await asyncio.open_connection(parts.hostname, parts.port, limit=1 << 20)


@contextlib.asynccontextmanager
async def _slow(url: str, body: bytes, readers: int, senders: int) -> AsyncIterator[None]:
    """Hold the slow clients connected; one that was cut off comes again, as real ones do."""
    tasks = [asyncio.create_task(_read_slowly(url, body)) for _ in range(readers)]
    tasks += [asyncio.create_task(_send_slowly(url, body)) for _ in range(senders)]
    await asyncio.sleep(SETTLE_S)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _read_slowly(url: str, body: bytes) -> None:
    parts = urlsplit(url)
    loop = asyncio.get_running_loop()
    while True:
        with contextlib.suppress(OSError), socket.socket() as own:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # the kernel's least
            own.setblocking(False)
            await loop.sock_connect(own, (parts.hostname, parts.port))
            await loop.sock_sendall(own, _head(len(body)) + body)
            while True:
                if not await loop.sock_recv(own, 1):
                    break
                await asyncio.sleep(BYTE_EVERY_S)


async def _send_slowly(url: str, body: bytes) -> None:
    while True:
        with contextlib.suppress(OSError):
            _, writer = await _connect(url)
            writer.write(_head(len(body)))
            for at in range(len(body)):
                writer.write(body[at : at + 1])
                await writer.drain()
                await asyncio.sleep(BYTE_EVERY_S)
            writer.close()


if __name__ == "__main__":
    typer.run(main)
