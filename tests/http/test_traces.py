"""Spans: one for each request, the child of its client's, with what the front knows of its way."""

import itertools
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from starlette.types import ASGIApp

from rayhost.errors import QueueFull, WorkerLost
from rayhost.front.request import Times
from rayhost.http.app import build_app
from rayhost.http.traces import Tracing
from tests.http.asgi import CHAT, Reply, call, chat_body
from tests.http.conftest import BODY_BYTES
from tests.http.fake_front import FakeFront, FakeRun

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Traces:
    def __init__(self, front: FakeFront) -> None:
        self._memory = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self._memory))
        tracing = Tracing(provider)
        self.app: ASGIApp = tracing.app(build_app(tracing.front(front), body_bytes=BODY_BYTES))

    @property
    def span(self) -> ReadableSpan:
        """The only span."""
        (span,) = self._memory.get_finished_spans()
        return span

    @property
    def attributes(self) -> dict[str, Any]:
        return dict(self.span.attributes or {})

    def none(self) -> bool:
        return not self._memory.get_finished_spans()


@pytest.fixture
def traces(front: FakeFront) -> Traces:
    return Traces(front)


async def ask(traces: Traces, headers: tuple[tuple[str, str], ...] = (), **body: Any) -> Reply:
    return await call(traces.app, "POST", CHAT, json_body=chat_body(**body), headers=headers)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_request_is_a_span_with_what_it_cost(traces: Traces, stream: bool) -> None:
    reply = await ask(traces, (("x-request-id", "req-7"),), stream=stream)
    assert reply.status == 200
    assert traces.span.kind is SpanKind.SERVER
    assert traces.attributes == {
        "http.response.status_code": 200,
        "rayhost.request_id": "req-7",
        "gen_ai.request.model": "smollm2-135m",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 3,
        "rayhost.cache": "miss",
    }
    assert traces.span.status.status_code is StatusCode.UNSET


async def test_its_way_is_told_as_events_in_order(
    traces: Traces, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeRun, "times", Times(1000, 3000, 7000))
    await ask(traces)
    assert [event.name for event in traces.span.events] == ["queued", "prefill", "decode"]
    at = [event.timestamp for event in traces.span.events]
    assert [later - earlier for earlier, later in itertools.pairwise(at)] == [2000, 4000]


async def test_what_never_came_is_no_event(traces: Traces, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeRun, "times", Times(1000, 0, 0))
    await ask(traces)
    assert [event.name for event in traces.span.events] == ["queued"]


async def test_the_span_is_a_child_of_the_clients(traces: Traces) -> None:
    await ask(traces, (("traceparent", f"00-{TRACE}-{PARENT}-01"),))
    assert f"{traces.span.context.trace_id:032x}" == TRACE
    assert traces.span.parent is not None
    assert f"{traces.span.parent.span_id:016x}" == PARENT


async def test_a_malformed_traceparent_begins_a_trace(traces: Traces) -> None:
    assert (await ask(traces, (("traceparent", "00-\xff-1-01"),))).status == 200
    assert traces.span.parent is None


async def test_a_client_that_does_not_sample_is_not_traced(traces: Traces) -> None:
    await ask(traces, (("traceparent", f"00-{TRACE}-{PARENT}-00"),))
    assert traces.none()


async def test_a_refusal_has_its_status_and_a_failure_is_an_error(
    traces: Traces, front: FakeFront
) -> None:
    front.submit_error = QueueFull("full", retry_after=1)
    assert (await ask(traces)).status == 429
    assert traces.attributes["http.response.status_code"] == 429
    assert traces.span.status.status_code is StatusCode.UNSET


async def test_a_run_that_fails_within_its_stream_is_an_error(
    traces: Traces, front: FakeFront
) -> None:
    front.run_error = WorkerLost("lost")
    await ask(traces, stream=True)
    assert traces.span.status.status_code is StatusCode.ERROR
    assert traces.span.status.description == "WorkerLost"
    assert traces.attributes["http.response.status_code"] == 200


async def test_probes_are_no_spans(traces: Traces) -> None:
    for path in ("/health", "/ready", "/v1/models"):
        assert (await call(traces.app, "GET", path)).status == 200
    assert traces.none()
