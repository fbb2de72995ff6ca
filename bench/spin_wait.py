"""How long should OpenMP threads spin before they sleep? The host's speed over GOMP_SPINCOUNT.

    python -m bench.spin_wait [--rounds 3] [--busy]

With --busy a process that only burns CPU runs beside it, as on a shared machine. Settings take
turns; the medians of generated tokens per second with 1 and 8 streams are printed.
"""

import argparse
import asyncio
import os
import re
import signal
import statistics
import subprocess
import sys
from collections import defaultdict

from bench.serve_vs_bare import PROFILE, served

SPIN_COUNTS = ("300000", "3000", "2000", "1000", "300")  # the first is libgomp's own default
CLIENTS = (1, 8)
TOKENS = 64


def measure(spin_count: str, round_: int) -> dict[int, float]:
    """Start a host with a setting; return tokens per second by number of streams."""
    command = [sys.executable, "-m", "rayhost", "serve", "--profile", str(PROFILE), "--port", "0"]
    environment = os.environ | {"GOMP_SPINCOUNT": spin_count}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as host:
        try:
            found = re.search(r"http://[^/]+", host.stdout.readline() if host.stdout else "")
            if found is None:
                raise SystemExit("the host did not start")
            return {n: asyncio.run(served(found[0], n, TOKENS, round_))[0] for n in CLIENTS}
        finally:
            host.send_signal(signal.SIGTERM)


def main() -> None:
    """Take turns through the settings and print a line for each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--busy", action="store_true")
    options = parser.parse_args()
    burner = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if options.busy else None
    found: dict[str, list[dict[int, float]]] = defaultdict(list)
    try:
        for round_ in range(options.rounds):
            for spin_count in SPIN_COUNTS:
                found[spin_count].append(measure(spin_count, round_))
    finally:
        if burner is not None:
            burner.kill()
            burner.wait()
    for spin_count, runs in found.items():
        medians = (f"{n}: {statistics.median(run[n] for run in runs):.1f}" for n in CLIENTS)
        sys.stdout.write(f"GOMP_SPINCOUNT {spin_count}: tokens/s by streams {', '.join(medians)}\n")


if __name__ == "__main__":
    main()
