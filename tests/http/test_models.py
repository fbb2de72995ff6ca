"""What `/v1/models` tells of a model, before and after its worker has read the file."""

from dataclasses import replace

from rayhost.http.app import build_app
from tests.http.asgi import call
from tests.http.vector_front import VectorFront


async def test_what_the_file_says_is_told_once_a_worker_has_read_it() -> None:
    front = VectorFront()
    app = build_app(front, body_bytes=1000)
    known = (await call(app, "GET", "/v1/models/small")).json
    assert known["capabilities"] == {
        "chat": False,
        "completion": False,
        "embedding": True,
        "rerank": False,
        "tools": False,
        "json_schema": False,
    }
    assert (known["architecture"], known["quantization"], known["dimensions"]) == ("bert", "F16", 2)
    assert (known["parameters"], known["size_bytes"], known["vocabulary"]) == (22, 45, 100)
    assert (known["context"], known["train_context"], known["sliding_window"]) == (512, 512, None)

    front.card = replace(front.card, capabilities=None)
    before = (await call(app, "GET", "/v1/models")).json["data"][0]
    assert before.keys() == {
        *("id", "object", "created", "owned_by", "aliases", "context", "state")
    }
