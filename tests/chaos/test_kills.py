"""Workers killed and stopped all the time, under clients that must not notice.

RAYHOST_CHAOS_S is how long, in seconds; 20 of them have one stop that nobody but the host ends.
"""

import asyncio
import contextlib
import itertools
import json
import os
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from rayhost.models import catalog
from rayhost.models.store import Store, default_root
from tests.chaos.footprint import back_to, footprint, resident_mb
from tests.support.host import Host, gone, started
from tests.support.waiting import eventually, soon

CHAOS_S = float(os.environ.get("RAYHOST_CHAOS_S", "20"))
KILL_EVERY_S = 3.0
STOP_EVERY_S = 10.0
STOP_AFTER_S = 0.9  # so that no stop falls on a kill, at any multiple of the two
CLIENTS = 8
GOT_ON = 4 * CLIENTS  # tokens
MODEL = "smollm2-135m"

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(240 + 4 * CHAOS_S)]

# What is asked, how long the answer may be, and how tokens are drawn and told.
QUESTIONS: tuple[tuple[str, int, dict[str, Any]], ...] = (
    ("Tell me a story about a lighthouse.", 24, {}),
    ("Explain how bread is baked, step by step.", 40, {"temperature": 0.8, "seed": 7}),
    ("Write a letter to a friend who moved to another city.", 56, {"stop": ["\n\n", " am "]}),
    ("Describe the colours of a sunset over the sea.", 72, {"logprobs": True, "top_logprobs": 2}),
    ("What should I pack for a week in the mountains?", 88, {"frequency_penalty": 0.5}),
    ("Write a dialogue between a teacher and a student.", 104, {"temperature": 1, "seed": 11}),
    ("List ten animals and say one thing about each.", 120, {"stop": "7."}),
    ("How does a bicycle work?", 136, {"temperature": 1, "seed": 3, "top_p": 0.9}),
)

Answer = tuple[str, str, int, tuple[tuple[str, float], ...]]  # text, reason, tokens, logprobs


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    entry = catalog.BY_NAME[MODEL]
    Store(default_root()).pull(entry.name, entry.source, entry.sha256)
    model = {
        "name": MODEL,
        "context": 1024,
        "concurrency": CLIENTS,
        "reproducible": True,
        "share": "none",  # every answer is computed
        "snapshots": {"ram_mb": 64},
    }
    profile = tmp_path / "chaos.json"
    profile.write_text(json.dumps({"models": [model]}))
    with started(profile, home=None) as running:
        yield running


async def ask(client: httpx.AsyncClient, number: int) -> Answer:
    """Stream one answer to its end. Fails for anything that an undisturbed client never sees."""
    question, tokens, drawn = QUESTIONS[number]
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        **drawn,
    }
    text, reason, usage, done = "", "", 0, False
    told: list[tuple[str, float]] = []
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.status_code == 200, await response.aread()
        async for line in response.aiter_lines():
            if not line or line.startswith(":"):
                continue
            assert not done, f"after the end: {line}"
            payload = line.removeprefix("data: ")
            if payload == "[DONE]":
                done = True
                continue
            event = json.loads(payload)
            assert "error" not in event, event
            for choice in event["choices"]:
                text += choice["delta"].get("content") or ""
                reason = choice["finish_reason"] or reason
                logprobs = (choice.get("logprobs") or {}).get("content") or ()
                told += [(one["token"], one["logprob"]) for one in logprobs]
            usage = (event.get("usage") or {}).get("completion_tokens", usage)
    assert done, "the stream was cut"
    return text, reason, usage, tuple(told)


@contextlib.asynccontextmanager
async def clients(host: Host) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=host.url, timeout=120) as client:
        yield client


async def undisturbed(host: Host) -> list[Answer]:
    """Return the answer to each prompt, computed alone."""
    async with clients(host) as client:
        return [await ask(client, number) for number in range(len(QUESTIONS))]


def killed_by_now(host: Host, cause: str) -> int:
    text = httpx.get(f"{host.url}/metrics").text
    prefix = f'rayhost_worker_restarts_total{{cause="{cause}",model="{MODEL}"}} '
    found = [line for line in text.splitlines() if line.startswith(prefix)]
    return int(float(found[0].removeprefix(prefix))) if found else 0


def gaps(host: Host) -> float:
    """Return how often tokens came after others of their answer."""
    return host.metric("rayhost_inter_token_seconds_count", MODEL)


async def got_on(host: Host, before: float) -> None:
    """Wait until workers have got on since there were `before` gaps."""
    await soon(lambda: gaps(host) >= before + GOT_ON, "tokens")


def ready(host: Host) -> bool:
    return httpx.get(f"{host.url}/ready").status_code == 200


def worker_of(host: Host) -> tuple[psutil.Process, str] | None:
    """Return the worker's process and status; none while one that died is being replaced."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for one in host.workers():
            if (status := one.status()) != psutil.STATUS_ZOMBIE:
                return one, status
    return None


async def kill(host: Host) -> bool:
    """Kill the worker, whether it loads or serves; return whether there was one to kill.

    A stopped one is spared: the host has to find it.
    """
    await soon(lambda: worker_of(host), "a worker")
    found = worker_of(host)
    if found is None or found[1] == psutil.STATUS_STOPPED:
        return False
    worker, _ = found
    worker.kill()
    await soon(lambda: gone([worker]), "the worker's end")
    return True


async def suspend(host: Host) -> bool:
    """Stop a worker that serves, as one that loads would be given 20 s; return True."""

    def serving() -> psutil.Process | None:
        worker, status = worker_of(host) or (None, "")
        return worker if status != psutil.STATUS_STOPPED and ready(host) else None

    await soon(serving, "a worker that serves")
    worker = serving()
    assert worker is not None, "nobody else kills it"
    worker.suspend()
    return True


async def torment(host: Host, seconds: float) -> Counter[str]:
    """Kill the worker, and stop it, each at its interval; return how often it was done.

    On a machine that is slow an interval is longer: each waits for the worker that it is done to,
    and until workers have got on since the one before. Where resuming eight answers takes longer
    than an interval nothing could, and the host would rightly find who is at fault.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    kills = ((n * KILL_EVERY_S, kill) for n in itertools.count(1))
    stops = ((n * STOP_EVERY_S + STOP_AFTER_S, suspend) for n in itertools.count(1))
    todo = sorted(
        [
            *itertools.takewhile(lambda one: one[0] < seconds, kills),
            *itertools.takewhile(lambda one: one[0] < seconds, stops),
        ],
        key=lambda one: one[0],
    )
    done: Counter[str] = Counter()
    before = gaps(host)
    for at_s, act in todo:
        await asyncio.sleep(max(0.0, began + at_s - loop.time()))
        await got_on(host, before)
        done[act.__name__] += await act(host)
        before = gaps(host)
    return done


async def stream_until(host: Host, over: asyncio.Event, expected: list[Answer]) -> int:
    """Ask with every client until it is over; return how many answers came, each as expected."""
    turns = itertools.count()
    answered = 0

    async def one(client: httpx.AsyncClient) -> None:
        nonlocal answered
        while not over.is_set():
            number = next(turns) % len(QUESTIONS)
            assert await ask(client, number) == expected[number]
            answered += 1

    async with clients(host) as client, asyncio.TaskGroup() as tasks:
        for _ in range(CLIENTS):
            tasks.create_task(one(client))
    return answered


async def chaos(host: Host, seconds: float, expected: list[Answer]) -> tuple[int, Counter[str]]:
    """Stream under torment; return how many answers came, and what was done to workers."""
    over = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        streaming = tasks.create_task(stream_until(host, over, expected))
        done = await torment(host, seconds)
        over.set()
    return streaming.result(), done


async def settled(host: Host) -> None:
    """Wait until nothing is under way."""

    def quiet() -> bool:
        figures = ("rayhost_active_sequences", "rayhost_queued")
        return ready(host) and all(host.metric(name, MODEL) == 0 for name in figures)

    await soon(quiet, "a quiet host")


async def one_answer(host: Host) -> Answer:
    """Ask once, so that the worker has rendered a chat, and leave."""
    async with clients(host) as client:
        return await ask(client, 0)


async def test_clients_notice_nothing_of_workers_killed_and_stopped(host: Host) -> None:
    fresh = footprint(host)  # of a host that nobody ever asked
    await one_answer(host)
    eventually(lambda: footprint(host).descriptors == fresh.descriptors, "the client to have left")
    before = footprint(host)
    expected = await undisturbed(host)
    assert {reason for _, reason, _, _ in expected} == {"stop", "length"}
    assert any(told for *_, told in expected)
    await chaos(host, KILL_EVERY_S + 1, expected)  # so that everything was used once
    await settled(host)
    front_mb, worker_mb = resident_mb(host.front), resident_mb(host.worker(MODEL))

    killed = killed_by_now(host, "killed")
    answered, done = await chaos(host, CHAOS_S, expected)

    await settled(host)
    assert answered >= CLIENTS
    assert killed_by_now(host, "killed") - killed == done["kill"] >= CHAOS_S / STOP_EVERY_S
    # Each that was stopped, and none that was only slow.
    assert killed_by_now(host, "hung") == done["suspend"] >= (CHAOS_S - 1) // STOP_EVERY_S
    assert killed_by_now(host, "crashed") == 0
    assert await one_answer(host) == expected[0]
    back_to(before, host)
    assert resident_mb(host.front) < front_mb + 8
    assert resident_mb(host.worker(MODEL)) < 1.2 * worker_mb + 8
    async with clients(host) as client:
        health = await client.get("/health")
    assert health.status_code == 200, health.text
    outcomes = {line["outcome"] for line in host.requests().values()}
    assert outcomes <= {"stop", "length"}
