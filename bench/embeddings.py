"""How many texts a second become vectors, here and by llama-server of the same llama.cpp?

    python -m bench.embeddings [--seconds 8] [--rounds 3] [--words 12] [--slots 8]

The servers take turns, each with the same GGUF, threads and a fresh start. Texts differ, so that
nothing comes from a cache. Three loads: one client with one text at a time, 8 clients with one
each, and one client with 64 texts in a request.
"""

import argparse
import http.client
import json
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from bench import peer
from bench.servers import Launch, Settings, llama_server, rayhost, running
from rayhost.models import catalog
from rayhost.models.store import Store, default_root

MODEL = "all-minilm-l6-v2"
PATH = "/v1/embeddings"
WORDS = ("river", "stone", "seven", "paper", "light", "under", "window", "garden", "quickly")
LOADS = {"alone": (1, 1), "8 clients": (8, 1), "64 in a request": (1, 64)}  # clients, texts
CONTEXT = 512


def texts(words: int, seed: int) -> Iterator[str]:
    """Yield texts of so many words, each another one."""
    draw = random.Random(seed)
    for number in range(1 << 30):
        yield " ".join([*draw.choices(WORDS, k=words - 1), str(number)])


def ask(connection: http.client.HTTPConnection, batch: list[str]) -> None:
    """Have texts embedded. Raises SystemExit where they are not."""
    body = json.dumps({"model": MODEL, "input": batch, "encoding_format": "base64"})
    connection.request("POST", PATH, body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    told = answer.read()
    if answer.status != 200 or len(json.loads(told)["data"]) != len(batch):
        raise SystemExit(f"status {answer.status}: {told[:300]!r}")


def rate(url: str, clients: int, size: int, seconds: float, words: int) -> float:
    """Return the texts a second that so many clients get, each sending `size` in a request."""
    done = [0] * clients
    begin, stop = threading.Barrier(clients + 1), threading.Event()

    def client(number: int) -> None:
        source = texts(words, number)
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=120)
        ask(connection, [next(source) for _ in range(size)])  # warms it up
        begin.wait()
        while not stop.is_set():
            ask(connection, [next(source) for _ in range(size)])
            done[number] += size
        connection.close()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    begin.wait()
    began = time.perf_counter()
    stop.wait(seconds)
    stop.set()
    for thread in threads:
        thread.join()
    return sum(done) / (time.perf_counter() - began)


def peer_launch(program: Path, settings: Settings) -> Launch:
    """Return how llama-server is started for embeddings."""
    launch = llama_server(program, settings)
    batch = ("--batch-size", str(CONTEXT), "--ubatch-size", str(CONTEXT))
    return Launch(launch.name, (*launch.argv, "--embedding", *batch), launch.ready, launch.health)


def main() -> None:
    """Measure in turns and print the medians."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--words", type=int, default=12)
    parser.add_argument("--slots", type=int, default=8)
    options = parser.parse_args()
    entry = catalog.BY_NAME[MODEL]
    model = Store(default_root()).pull(entry.name, entry.source, entry.sha256).path
    settings = Settings(
        model=str(model),
        name=MODEL,
        context=CONTEXT,
        slots=options.slots,
        threads=len(os.sched_getaffinity(0)),
        kv_layout="unified",
    )
    program = peer.llama_server("same", print).program
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for round_ in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            launches = [rayhost(settings, Path(folder)), peer_launch(program, settings)]
            for launch in launches[:: 1 if round_ % 2 else -1]:
                with running(launch, Path(folder, "log")) as server:
                    for name, (clients, size) in LOADS.items():
                        got = rate(server.url, clients, size, options.seconds, options.words)
                        found[launch.name, name].append(got)
    for name in LOADS:
        ours, theirs = (
            statistics.median(found[server, name]) for server in ("rayhost", "llama-server")
        )
        sys.stdout.write(
            f"{name:>16}: rayhost {ours:7.1f}/s  llama-server {theirs:7.1f}/s  "
            f"ratio {ours / theirs:.2f}\n"
        )


if __name__ == "__main__":
    main()
