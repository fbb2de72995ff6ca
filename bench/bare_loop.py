"""llama_decode alone: prefill each prompt, then decode them together, greedy by argmax.

    python bench/bare_loop.py MODEL TOKENS PROMPT...

Prints generated tokens per second: what no host around the same context can beat by much.
"""

import os
import sys
import time

from rayhost.engine.llama import LlamaEngine
from rayhost.ipc.messages import Load


def main(path: str, tokens: int, prompts: list[str]) -> float:
    """Return tokens per second over all prompts, prefill included."""
    cpus = tuple(sorted(os.sched_getaffinity(0)))
    load = Load(
        name="bare", path=path, context=2048, concurrency=8, batch=512, threads=len(cpus),
        cpus=cpus, kv_type="f16", kv_layout="split", inter_token_ms=100, log_format="json",
    )  # fmt: skip
    engine = LlamaEngine(load)
    batch = engine.batch
    chats = [engine.codec.chat([{"role": "user", "content": prompt}]) for prompt in prompts]
    began = time.perf_counter()
    ends, news = [], []
    for slot, ids in enumerate(chats):
        batch.clear()
        batch.add(slot, ids, 0, due=True)
        engine.decode()
        news.append(int(engine.logits()[0].argmax()))
        ends.append(len(ids))
    for _ in range(tokens - 1):
        batch.clear()
        for slot, token in enumerate(news):
            batch.add(slot, [token], ends[slot], due=True)
            ends[slot] += 1
        engine.decode()
        news = [int(token) for token in engine.logits().argmax(axis=1)]
    return len(prompts) * tokens / (time.perf_counter() - began)


if __name__ == "__main__":
    sys.stdout.write(str(main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])))
