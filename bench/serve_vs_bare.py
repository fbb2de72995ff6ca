"""Generated tokens per second through the whole host beside llama_decode alone, in one run.

    python bench/serve_vs_bare.py [--pairs 3] [--tokens 64] [--clients 1 8]

Each pair runs `bench/bare_loop.py` (same file, settings and prompts), then the host under that
many concurrent distinct streamed chats; medians are printed. Prefill is part of both.
The share of step time outside llama_decode is the worker's own account, from /metrics.
"""

import argparse
import asyncio
import json
import re
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import httpx

PROFILE = Path(__file__).parent.parent / "profiles" / "smollm2-135m.json"
BARE_LOOP = Path(__file__).parent / "bare_loop.py"
TOPICS = ("tides", "bread", "maps", "glaciers", "violins", "bees", "bridges", "salt") * 4


def prompts(count: int, round_: int) -> list[str]:
    """Return distinct prompts, of which each round gets others."""
    return [f"{round_}. Write a long text about {TOPICS[i]}, number {i}." for i in range(count)]


def bare(path: str, clients: int, tokens: int, round_: int) -> float:
    """Run the bare loop in a process of its own; return tokens per second."""
    program = [sys.executable, str(BARE_LOOP), path, str(tokens), *prompts(clients, round_)]
    return float(subprocess.run(program, check=True, capture_output=True, text=True).stdout)


async def served(url: str, clients: int, tokens: int, round_: int) -> tuple[float, float]:
    """Return tokens per second of concurrent streams and the longest time to first token, in s."""
    firsts: list[float] = []

    async def one(client: httpx.AsyncClient, prompt: str) -> int:
        body = {
            "model": "smollm2-135m", "messages": [{"role": "user", "content": prompt}],
            "max_tokens": tokens, "temperature": 0, "stream": True,
            "stream_options": {"include_usage": True},
        }  # fmt: skip
        asked, used, first = time.perf_counter(), 0, None
        async with client.stream("POST", f"{url}/v1/chat/completions", json=body) as answer:
            async for line in answer.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                chunk = json.loads(line[6:])
                used = chunk["usage"]["completion_tokens"] if chunk.get("usage") else used
                if first is None and any(c["delta"].get("content") for c in chunk["choices"]):
                    first = time.perf_counter() - asked
        firsts.append(first or 0.0)
        if used != tokens:
            raise SystemExit(f"{prompt!r} gave {used} tokens, not {tokens}: choose another")
        return int(used)

    async with httpx.AsyncClient(timeout=300) as client:
        began = time.perf_counter()
        counts = await asyncio.gather(*(one(client, p) for p in prompts(clients, round_)))
        return sum(counts) / (time.perf_counter() - began), max(firsts)


def outside_share(url: str) -> tuple[float, float]:
    """Return the worker's seconds in steps and inside llama_decode."""
    text = httpx.get(f"{url}/metrics").text
    step = re.search(r"rayhost_step_seconds_sum\{.*\} (\S+)", text)
    decode = re.search(r"rayhost_decode_seconds_total\{.*\} (\S+)", text)
    if step is None or decode is None:
        raise SystemExit("no step times in /metrics")
    return float(step[1]), float(decode[1])


def main() -> None:
    """Run the pairs and print a line for each number of clients."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8])
    options = parser.parse_args()
    command = [sys.executable, "-m", "rayhost", "serve", "--profile", str(PROFILE), "--port", "0"]
    host = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        line = host.stdout.readline() if host.stdout else ""
        found = re.search(r"http://[^/]+", line)
        if found is None:
            raise SystemExit(f"the host did not start: {line!r}")
        url = found[0]
        [worker] = httpx.get(f"{url}/health").json()["workers"]
        model = Path(f"/proc/{worker['pid']}/maps").read_text()
        path = re.search(r"(/\S+\.gguf)", model)
        if path is None:
            raise SystemExit("the worker has no model mapped")
        for clients in options.clients:
            rows = []
            steps_before, decode_before = outside_share(url)
            for round_ in range(options.pairs):
                alone = bare(path[1], clients, options.tokens, round_)
                through, first = asyncio.run(served(url, clients, options.tokens, round_))
                rows.append((alone, through, through / alone, first))
            steps, decode = outside_share(url)
            share = 1 - (decode - decode_before) / (steps - steps_before)
            alone, through, ratio, first = (
                statistics.median(column) for column in zip(*rows, strict=True)
            )
            low, high = min(row[2] for row in rows), max(row[2] for row in rows)
            sys.stdout.write(
                f"{clients} clients: bare {alone:.1f} tokens/s, host {through:.1f} tokens/s, "
                f"ratio {ratio:.3f} ({low:.3f} to {high:.3f}), "
                f"outside llama_decode {share:.2%} of step time, "
                f"slowest first token {first * 1000:.0f} ms\n"
            )
    finally:
        host.send_signal(signal.SIGTERM)
        host.wait()


if __name__ == "__main__":
    main()
