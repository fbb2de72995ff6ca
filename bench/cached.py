"""How many cached answers a second does the front give on one core, and how late is the last one?

    python -m bench.cached [--seconds 10] [--connections 8] [--stream] [--profile FILE]

Needs wrk (Debian package of that name). A host computes one answer, then wrk asks for it again and
again over the loopback: the front is held to the first CPU, wrk to the second.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

import psutil

from bench.machine import CHECKOUT
from bench.servers import Launch, running

PROFILE = CHECKOUT / "profiles" / "smollm2-135m.json"
TOKENS = 32
PATH = "/v1/chat/completions"


def ask(model: str, stream: bool) -> bytes:
    """Return the one request's body."""
    question = {"role": "user", "content": "Name three colours, and a fruit of each."}
    fields = {"model": model, "messages": [question], "temperature": 0, "max_tokens": TOKENS}
    return json.dumps({**fields, "stream": stream}).encode()


def script(body: bytes) -> str:
    """Return what wrk sends, in Lua; counts answers that are no 200, too."""
    return (
        'wrk.method = "POST"\n'
        'wrk.headers["Content-Type"] = "application/json"\n'
        f"wrk.body = [==[{body.decode()}]==]\n"
    )


def warm(url: str, body: bytes) -> None:
    """Have the answer computed once, and check that it is kept."""
    outcomes = []
    for _ in range(2):
        asked = urllib.request.Request(url + PATH, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(asked, timeout=120) as answer:
            outcomes.append(answer.headers["X-Rayhost-Cache"])
            answer.read()
    if outcomes != ["miss", "hit"]:
        raise SystemExit(f"the answer is not kept: X-Rayhost-Cache was {outcomes}")


def fire(url: str, lua: Path, connections: int, seconds: int, cpu: int) -> str:
    """Run wrk and return what it printed."""
    load = ("-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", str(lua), url + PATH)
    told = subprocess.run(
        ("taskset", "-c", str(cpu), "wrk", *load), check=True, capture_output=True, text=True
    ).stdout
    if "Non-2xx" in told or "Socket errors" in told:
        raise SystemExit(f"not every answer was one:\n{told}")
    return told


def cpu_seconds(process: psutil.Process) -> float:
    """Return the CPU time that a process used: on a busy machine a better figure than the rate."""
    times = process.cpu_times()
    return float(times.user + times.system)


def main() -> None:
    """Serve, warm up, fire, and print a line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--profile", type=Path, default=PROFILE)
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not installed: apt-get install wrk")
    front_cpu, wrk_cpu, *_ = sorted(os.sched_getaffinity(0))
    serve = ("serve", "--profile", str(options.profile), "--port", "0", "--log-format", "json")
    launch = Launch(
        name="rayhost",
        argv=(sys.executable, "-m", "rayhost", *serve),
        ready=r"ready after .*?(http://[0-9.]+:\d+)",
        health="/ready",
    )
    model = json.loads(options.profile.read_bytes())["models"][0]["name"]
    body = ask(model, options.stream)
    with tempfile.TemporaryDirectory() as folder:
        lua = Path(folder, "ask.lua")
        lua.write_text(script(body))
        with running(launch, Path(folder, "log")) as server:
            front = psutil.Process(server.pid)
            for thread in front.threads():
                os.sched_setaffinity(thread.id, {front_cpu})
            warm(server.url, body)
            before_s = cpu_seconds(front)
            told = fire(server.url, lua, options.connections, options.seconds, wrk_cpu)
            used_s = cpu_seconds(front) - before_s
            rss = front.memory_info().rss
    rate = re.search(r"Requests/sec:\s+([\d.]+)", told)
    count = re.search(r"(\d+) requests in", told)
    median, worst = (re.search(rf"^\s+{share}%\s+(\S+)", told, re.MULTILINE) for share in (50, 99))
    if not (rate and count and median and worst):
        raise SystemExit(f"wrk printed something else:\n{told}")
    sys.stdout.write(
        f"{float(rate[1]):.0f} answers/s, p50 {median[1]}, p99 {worst[1]}, "
        f"front {used_s / int(count[1]) * 1e6:.0f} µs of CPU an answer, RSS {rss / 2**20:.1f} MiB\n"
    )


if __name__ == "__main__":
    main()
