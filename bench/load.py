"""The load generator: `python -m bench.load`, a plan in JSON on stdin, what happened on stdout.

A process of its own, so that nothing the harness does besides can hold its clock up. It tells what
it cost and how late its event loop ran, for `bench.bottleneck` to judge.
"""

import asyncio
import gc
import sys
import time

import msgspec
import uvloop

from bench.client import Client, Outcome
from bench.traffic import Lane, Traffic

TICK_S = 0.02


class Plan(msgspec.Struct, frozen=True):
    """One run. `deadline_s` is when a client hangs up."""

    url: str
    model: str
    traffic: Traffic
    deadline_s: float


class Load(msgspec.Struct, frozen=True):
    """What one run came to. `lags_s`: how late each tick of the event loop came."""

    outcomes: tuple[Outcome, ...]
    wall_s: float
    cpu_s: float
    lags_s: tuple[float, ...]


async def generate(plan: Plan) -> Load:
    """Warm up, then send the traffic. Raises RuntimeError if the warm-up fails."""
    client = Client(plan.url, plan.model, plan.deadline_s)
    for call in plan.traffic.warm_up:
        [outcome] = await Client(plan.url, plan.model, 600).run((Lane((call,)),))
        if outcome.error:
            raise RuntimeError(f"the warm-up failed: {outcome.error} {outcome.detail}")
    lags: list[float] = []
    gc.collect()
    gc.disable()
    ticking = asyncio.create_task(_tick(lags))
    wall, cpu = time.perf_counter(), time.process_time()
    outcomes = await client.run(plan.traffic.lanes)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    ticking.cancel()
    gc.enable()
    return Load(tuple(outcomes), wall, cpu, tuple(lags))


async def _tick(lags: list[float]) -> None:
    while True:
        due = time.perf_counter() + TICK_S
        await asyncio.sleep(TICK_S)
        lags.append(max(0.0, time.perf_counter() - due))


def main() -> None:
    """Read the plan, run it, write the load."""
    plan = msgspec.json.decode(sys.stdin.buffer.read(), type=Plan)
    sys.stdout.buffer.write(msgspec.json.encode(uvloop.run(generate(plan))))


if __name__ == "__main__":
    main()
