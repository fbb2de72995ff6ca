"""The command that a host prints when it is ready: one that works as it stands. Pure."""

import shlex

import orjson

from rayhost.front.lane import Lane


def try_it(url: str, lane: Lane, *, keyed: bool) -> str:
    """Return a `curl` that a lane's model answers; with a place for a key where one is wanted."""
    path, ask = _example(lane)
    body = orjson.dumps({"model": lane.name, **ask}).decode()
    headers = ["-H", "Content-Type: application/json"]
    if keyed:
        headers += ["-H", "Authorization: Bearer YOUR_KEY"]
    return shlex.join(["curl", "-s", url + path, *headers, "-d", body])


def _example(lane: Lane) -> tuple[str, dict[str, object]]:
    """Return a request that the lane's model can answer: its path and body, without the model."""
    question = "What is the capital of France?"
    can = lane.capabilities
    if can is not None and can.embedding:
        return "/v1/embeddings", {"input": question}
    if can is not None and can.rerank:
        documents = ["Paris is in France.", "The capital is Paris."]
        return "/v1/rerank", {"query": question, "documents": documents}
    if can is not None and can.chat:
        messages = [{"role": "user", "content": f"{question} Answer with one word."}]
        return "/v1/chat/completions", {"messages": messages, "temperature": 0}
    return "/v1/completions", {"prompt": "The capital of France is", "temperature": 0}
