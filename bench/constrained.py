"""How many tokens a second do constrained answers come to, beside free ones of the same prompts?

    python -m bench.constrained [--clients 8] [--pairs 5] [--tokens 96] [--profile FILE]

One host serves both in turn, free and constrained alternating; each round is `--clients` requests
at once. Free answers ignore the model's end and run to `--tokens`; constrained ones follow a schema
that keeps them going as long. Tokens are counted as the host counts them, from the first request to
the last answer, so that ends of answers cost both the same.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import httpx

from bench.machine import CHECKOUT
from bench.servers import Launch, running

PROFILE = CHECKOUT / "profiles" / "smollm2-135m.json"
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "email": {"type": "string", "format": "email"},
        "role": {"enum": ["engineer", "designer", "manager"]},
        "note": {"type": ["string", "null"], "maxLength": 80},
    },
    "required": ["name", "age", "email", "role", "note"],
    "additionalProperties": False,
}
STRING = {"type": "string", "minLength": 4000}
SCHEMAS: dict[str, dict[str, Any]] = {
    # What clients ask for: much of it can only be what it is, and is not sampled.
    "records": {"type": "array", "items": PERSON, "minItems": 50},
    # The other end: every token is sampled under a mask of nearly the whole vocabulary.
    "text": {"type": "object", "properties": {"text": STRING}, "required": ["text"]},
}


class Round(NamedTuple):
    """One round of requests."""

    tokens: int
    seconds: float

    @property
    def rate(self) -> float:
        """Generated tokens a second, of all together."""
        return self.tokens / self.seconds


async def play(url: str, model: str, clients: int, tokens: int, fields: dict[str, Any]) -> Round:
    """Ask all at once, each its own question, and wait for the last answer."""

    async def ask(http: httpx.AsyncClient, i: int) -> int:
        question = f"Write about the people in room {i} of the office, in detail."
        body = {
            "model": model,
            "messages": [{"role": "user", "content": question}],
            "max_tokens": tokens,
            "temperature": 0.7,
            "seed": i,
            **fields,
        }
        headers = {"Cache-Control": "no-store"}
        answer = await http.post("/v1/chat/completions", json=body, headers=headers)
        answer.raise_for_status()
        return int(answer.json()["usage"]["completion_tokens"])

    async with httpx.AsyncClient(base_url=url, timeout=600) as http:
        began = time.perf_counter()
        counts = await asyncio.gather(*(ask(http, i) for i in range(clients)))
        return Round(sum(counts), time.perf_counter() - began)


def constrained(schema: dict[str, Any]) -> dict[str, Any]:
    """Return what asks for a schema."""
    named = {"name": "answer", "schema": schema}
    return {"response_format": {"type": "json_schema", "json_schema": named}}


def main() -> None:
    """Measure and print a line for each schema: the medians, and the median of the ratios."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--profile", type=Path, default=PROFILE)
    options = parser.parse_args()
    serve = ("serve", "--profile", str(options.profile), "--port", "0", "--log-format", "json")
    launch = Launch(
        name="rayhost",
        argv=(sys.executable, "-m", "rayhost", *serve),
        ready=r"ready after .*?(http://[0-9.]+:\d+)",
        health="/ready",
    )
    model = json.loads(options.profile.read_bytes())["models"][0]["name"]
    free = {"ignore_eos": True}
    with (
        tempfile.TemporaryDirectory() as folder,
        running(launch, Path(folder, "log")) as server,
    ):

        def round_of(fields: dict[str, Any]) -> Round:
            return asyncio.run(play(server.url, model, options.clients, options.tokens, fields))

        for name, schema in SCHEMAS.items():
            round_of(free)
            round_of(constrained(schema))  # compiles it
            pairs = [(round_of(free), round_of(constrained(schema))) for _ in range(options.pairs)]
            ratios = [ours.rate / plain.rate for plain, ours in pairs]
            os.write(
                1,
                f"{name:8s} free {median(p.rate for p, _ in pairs):6.1f} tokens/s, constrained "
                f"{median(c.rate for _, c in pairs):6.1f}, ratio {median(ratios):.2f} "
                f"({min(ratios):.2f} to {max(ratios):.2f}), {options.clients} clients\n".encode(),
            )


if __name__ == "__main__":
    main()
