"""OpenTelemetry: one span for each request, with what the front knows of its way. Off by default.

Nobody imports this module unless the profile turns traces on: it needs `rayhost[otel]`. Where spans
go is OpenTelemetry's own configuration, its OTEL_* variables. A failing collector costs spans, no
request.
"""

import time
from collections.abc import AsyncIterator, Sequence

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rayhost import __version__, clock
from rayhost.front.request import (
    CacheOutcome,
    Finish,
    Front,
    GenerateRequest,
    ModelCard,
    Piece,
    Question,
    Reading,
    Recalled,
    Run,
    Standing,
    Terms,
    Times,
    WorkerHealth,
)

_EVENTS = (("queued", "arrived_ns"), ("prefill", "started_ns"), ("decode", "first_token_ns"))
EXPORT_S = 2  # with retries: a collector that is down holds up the end of the host no longer
_context = TraceContextTextMapPropagator()


class Tracing:
    """What the rest of rayhost needs of this module."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider

    @classmethod
    def exporting(cls) -> "Tracing":
        """Return one that sends spans to a collector, in batches, on a thread of its own."""
        provider = TracerProvider(resource=Resource.create({SERVICE_NAME: "rayhost"}))
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(timeout=EXPORT_S)))
        return cls(provider)

    def front(self, front: Front) -> Front:
        """Return a front whose runs tell of themselves to the span of their request."""
        return TracedFront(front)

    def app(self, app: ASGIApp) -> ASGIApp:
        """Return an app with a span around each request."""
        return Traced(app, self._provider.get_tracer("rayhost", __version__))

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()


class Traced:
    """ASGI app around the whole of ours: opens a span, the child of the client's `traceparent`."""

    def __init__(self, app: ASGIApp, tracer: Tracer) -> None:
        self._app = app
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; only those that ask a model for something are traced."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        carrier = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        with self._tracer.start_as_current_span(
            "POST", context=_context.extract(carrier), kind=SpanKind.SERVER
        ) as span:

            async def sending(message: Message) -> None:
                if message["type"] == "http.response.start":
                    _answered(span, message)
                await send(message)

            await self._app(scope, receive, sending)


class TracedFront:
    """A `Front` around another, which tells the present request's span of its run."""

    def __init__(self, front: Front) -> None:
        self._front = front

    def cards(self) -> Sequence[ModelCard]:
        """As the front says."""
        return self._front.cards()

    def health(self) -> Sequence[WorkerHealth]:
        """As the front says."""
        return self._front.health()

    def draining(self) -> bool:
        """As the front says."""
        return self._front.draining()

    def recall(self, request: GenerateRequest) -> Recalled | None:
        """As the front does; an answer that is known is all there is to tell."""
        span = trace.get_current_span()
        span.set_attribute("rayhost.request_id", request.id)
        recalled = self._front.recall(request)
        if recalled is not None:
            _describe(span, recalled.model, "hit", recalled.finish)
        return recalled

    async def submit(self, request: GenerateRequest) -> Run:
        """As the front does."""
        return TracedRun(await self._front.submit(request), trace.get_current_span())

    async def ask(self, model: str, question: Question, terms: Terms) -> Reading:
        """As the front does."""
        return await self._front.ask(model, question, terms)


class TracedRun:
    """A `Run` around another."""

    def __init__(self, run: Run, span: Span) -> None:
        self.model = run.model
        self.tool_syntax = run.tool_syntax
        self.fingerprint = run.fingerprint
        self._run = run
        self._span = span
        self._told = False

    async def __aiter__(self) -> AsyncIterator[Piece]:
        """As the run does; its end is told at once, as `close` may come much later."""
        try:
            async for piece in self._run:
                yield piece
        except Exception as failure:
            self._span.record_exception(failure)
            self._span.set_status(Status(StatusCode.ERROR, type(failure).__name__))
            raise
        _describe(self._span, self.model, self._run.cache, self._run.finish)

    @property
    def finish(self) -> Finish:
        """As the run says."""
        return self._run.finish

    @property
    def cache(self) -> CacheOutcome:
        """As the run says."""
        return self._run.cache

    def standing(self) -> Standing | None:
        """As the run says."""
        return self._run.standing()

    @property
    def prompt_tokens(self) -> int:
        """As the run says."""
        return self._run.prompt_tokens

    @property
    def times(self) -> Times:
        """As the run says."""
        return self._run.times

    def close(self) -> None:
        """Close the run, and tell when it came how far."""
        self._run.close()
        if self._told:
            return
        self._told = True
        to_unix_ns = time.time_ns() - clock.now_ns()
        for event, attribute in _EVENTS:
            if at_ns := getattr(self._run.times, attribute):
                self._span.add_event(event, timestamp=at_ns + to_unix_ns)


def _answered(span: Span, start: Message) -> None:
    status: int = start["status"]
    span.set_attribute("http.response.status_code", status)
    if status >= 500:
        span.set_status(Status(StatusCode.ERROR, f"status {status}"))


def _describe(span: Span, model: str, cache: CacheOutcome, finish: Finish) -> None:
    """Set the attributes that OpenTelemetry's conventions for generative models name."""
    span.set_attributes(
        {
            "gen_ai.request.model": model,
            "gen_ai.response.finish_reasons": [finish.reason],
            "gen_ai.usage.input_tokens": finish.prompt_tokens,
            "gen_ai.usage.output_tokens": finish.completion_tokens,
            "rayhost.cache": cache,
        }
    )
