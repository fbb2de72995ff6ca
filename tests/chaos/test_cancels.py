"""Thousands of short requests whose clients leave at any moment: nothing of them stays behind."""

import asyncio
import contextlib
import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.chaos.footprint import back_to, footprint, resident_mb
from tests.end_to_end.ask import complete
from tests.support.host import Host, started, tiny, write_profile
from tests.support.tiny_gguf import write_tiny_llama
from tests.support.waiting import eventually

REQUESTS = 10_000
CLIENTS = 24  # at once: more than are decoded together, so that some leave the queue

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(600)]


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    write_tiny_llama(tmp_path / "tiny.gguf", printable=True)
    profile = write_profile(tmp_path / "cancels.json", [tiny(snapshots={"ram_mb": 1})], queue=100)
    with started(profile, tmp_path / "store") as running:
        yield running


def body(chance: random.Random) -> bytes:
    words = " ".join(chance.choices(["hello", "world", "the", "a", "how"], k=chance.randint(1, 40)))
    asked: dict[str, object] = {
        "model": "tiny",
        "max_tokens": chance.randint(1, 16),
        "stream": chance.random() < 0.7,
    }
    if chance.random() < 0.5:
        asked["prompt"] = words
    else:
        asked["messages"] = [{"role": "user", "content": words}]
    return json.dumps(asked).encode()


async def ask_and_leave(where: tuple[str, int], chance: random.Random) -> str:
    """Send a request, or a part of it, and read some of the answer; return how far it went."""
    reader, writer = await asyncio.open_connection(*where)
    try:
        content = body(chance)
        path = "/v1/chat/completions" if b'"messages"' in content else "/v1/completions"
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n"
        sent = f"{head}Connection: close\r\n\r\n".encode() + content
        fate = chance.choice(["part", "sent", "later", "head", "some", "whole", "whole"])
        if fate == "part":
            sent = sent[: chance.randrange(len(sent))]
        writer.write(sent)
        await writer.drain()
        match fate:
            case "later":
                await asyncio.sleep(chance.random() * 0.02)
            case "head":
                await reader.readline()
            case "some":
                await reader.readexactly(chance.randint(200, 260))
            case "whole":
                answer = await reader.read()
                assert answer.startswith(b"HTTP/1.1 200 "), answer[:1000]
                assert b'"error"' not in answer, answer
    finally:
        if chance.random() < 0.5:
            writer.transport.abort()  # a reset, where the other is a polite end
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
    return fate


async def storm(url: str, requests: int, seed: int) -> Counter[str]:
    """Make so many requests, some at once; return how many went how far."""
    where = urlsplit(url)
    address = (where.hostname or "", where.port or 0)
    turns = iter(range(requests))
    fates: Counter[str] = Counter()

    async def one() -> None:
        for turn in turns:
            fates[await ask_and_leave(address, random.Random(seed + turn))] += 1

    async with asyncio.TaskGroup() as tasks:
        for _ in range(CLIENTS):
            tasks.create_task(one())
    return fates


def quiet(host: Host) -> bool:
    figures = ("rayhost_active_sequences", "rayhost_queued")
    return all(host.metric(name) == 0 for name in figures)


def test_ten_thousand_requests_with_random_cancels_leave_nothing_behind(host: Host) -> None:
    fresh, worker = footprint(host), host.worker()  # of a host that nobody ever asked
    asyncio.run(storm(host.url, CLIENTS, seed=1))
    eventually(lambda: footprint(host).descriptors == fresh.descriptors, "the first ones to end")
    before = footprint(host)  # with the child that renders templates: it stays for a minute
    asyncio.run(storm(host.url, REQUESTS // 10, seed=0))
    eventually(lambda: quiet(host), "the end of the first part")
    front_mb, worker_mb = resident_mb(host.front), resident_mb(worker)
    alone = complete(host, prompt="hello world", max_tokens=16).json()["choices"]

    fates = asyncio.run(storm(host.url, REQUESTS, seed=REQUESTS))

    assert fates.total() == REQUESTS
    assert min(fates.values()) > REQUESTS / 10
    eventually(lambda: quiet(host), "the end of every request")
    assert host.worker().pid == worker.pid, "a worker was lost"
    back_to(before, host)
    assert resident_mb(host.front) < front_mb + 8
    assert resident_mb(worker) < worker_mb + 8
    assert httpx.get(f"{host.url}/health").status_code == 200
    assert complete(host, prompt="hello world", max_tokens=16).json()["choices"] == alone
    outcomes = Counter(line["outcome"] for line in host.requests().values())
    assert set(outcomes) <= {"stop", "length", "cancelled"}
    assert outcomes["cancelled"] > REQUESTS / 10
