"""Traces: the decision what to record, and the export that can never hold a request up."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from gateway.settings import TraceSettings
from gateway.telemetry.observation import Observation
from gateway.telemetry.otlp import OtlpEncoder
from gateway.telemetry.spans import SpanBuilder
from gateway.telemetry.trace_context import Propagator, Trace

__all__ = ["Trace", "Tracer"]

MAXIMUM_QUEUED_SPANS = 8192
# Encoding takes 5 us a span in a thread that shares the interpreter with the event loop: 512 spans are half of one switch interval
# (5 ms), so a request never waits longer for the interpreter than that; and a post of its own costs 1 ms, whatever is in it.
EXPORT_BATCH_SPANS = 512
EXPORT_DELAY_MILLISECONDS = 1000.0
EXPORT_TIMEOUT_SECONDS = 5.0
LOG_INTERVAL_SECONDS = 60.0


class Recorder(Protocol):
    """Where a finished request goes, to become spans or not."""

    @property
    def dropped(self) -> int: ...

    def record(self, observation: Observation) -> None: ...

    def shutdown(self, timeout_seconds: float) -> None: ...


class Tracer:
    """Starts and finishes the trace of each request.

    Whether a trace is sampled is decided at its start and told to the upstream. `always_errors`, `always_denials` and `always_slow` are
    decided at the end, for our own spans only: such a trace has flag 00 upstream, so it shows the gateway's spans and perhaps no others.

    Args:
        settings: an empty `endpoint` means that nothing is recorded; propagation is always done.
        version, replica: told with every span.
        exporter: takes the place of the OTLP/HTTP exporter (and of `endpoint`).
    """

    __slots__ = ("_recorder", "start")

    def __init__(self, settings: TraceSettings, *, version: str, replica: str, exporter: SpanExporter | None = None) -> None:
        #: See `Propagator.start`; not a method of ours, because it is called for every request.
        self.start = Propagator(settings.trust, settings.sample_ratio).start
        self._recorder: Recorder = NoRecorder()
        builder = SpanBuilder(service_name=settings.service_name, version=version, replica=replica)
        if exporter is None and settings.endpoint:
            exporter = OtlpExporter(settings.endpoint, OtlpEncoder(builder.resource, builder.scope))
        if exporter is not None:
            self._recorder = SpanRecorder(settings, builder, SpanQueue(exporter))

    @property
    def recording(self) -> bool:
        """Whether there is anything to finish."""
        return not isinstance(self._recorder, NoRecorder)

    def finish(self, observation: Observation) -> None:
        """Record the request when it was sampled or a rule says so. Never waits."""
        self._recorder.record(observation)

    @property
    def dropped(self) -> int:
        """Spans that were lost since the start: queue full, or refused by the receiver."""
        return self._recorder.dropped

    def shutdown(self, timeout_seconds: float) -> None:
        """Export what is queued, for at most so long. Blocks: call it from a thread when the event loop still has work."""
        self._recorder.shutdown(timeout_seconds)


class NoRecorder:
    """Records nothing: there is nowhere to send it."""

    __slots__ = ()

    dropped = 0

    def record(self, observation: Observation) -> None:
        pass

    def shutdown(self, timeout_seconds: float) -> None:
        pass


class SpanRecorder:
    """Applies the tail rules and turns what passes into spans."""

    __slots__ = ("_always_denials", "_builder", "_error_status", "_queue", "_slow_ns")

    def __init__(self, settings: TraceSettings, builder: SpanBuilder, queue: SpanQueue) -> None:
        self._builder = builder
        self._queue = queue
        # A rule that is off is a bound that nothing reaches.
        self._error_status = 500 if settings.always_errors else 1000
        self._slow_ns = round(settings.always_slow * 1e9) if settings.always_slow > 0 else 1 << 63
        self._always_denials = settings.always_denials

    def record(self, observation: Observation) -> None:
        if observation.trace.sampled or self._is_kept(observation):
            self._queue.put(self._builder, observation)

    def _is_kept(self, observation: Observation) -> bool:
        return (
            observation.status >= self._error_status
            or (observation.denied and self._always_denials)
            or observation.ended_ns - observation.started_ns >= self._slow_ns
        )

    @property
    def dropped(self) -> int:
        return self._queue.dropped

    def shutdown(self, timeout_seconds: float) -> None:
        self._queue.shutdown(timeout_seconds)


class SpanQueue:
    """The SDK's batch processor, with what it lacks: drops that are counted instead of logged one by one, and an end in bounded time."""

    def __init__(self, exporter: SpanExporter, maximum_spans: int = MAXIMUM_QUEUED_SPANS) -> None:
        self._maximum_spans = maximum_spans
        self._exporter = CountingExporter(exporter)
        self._processor = BatchSpanProcessor(
            self._exporter,
            max_queue_size=maximum_spans,
            schedule_delay_millis=EXPORT_DELAY_MILLISECONDS,
            max_export_batch_size=min(EXPORT_BATCH_SPANS, maximum_spans),
        )
        # Global state, changed by the request path only
        self._accepted = 0
        self._refused = 0

    @property
    def dropped(self) -> int:
        """Spans that found the queue full, that the receiver did not take, or that were still waiting at the end."""
        return self._refused + self._exporter.failed

    def put(self, builder: SpanBuilder, observation: Observation) -> None:
        """Queue all spans of the request, or none of them: half a trace misleads."""
        count = 1 + len(observation.tries)
        if self._accepted + count - self._exporter.taken > self._maximum_spans:
            self._refused += count
            return
        spans = list(builder.build(observation))
        self._accepted += count
        put = self._processor.on_end
        for span in spans:
            put(span)

    def shutdown(self, timeout_seconds: float) -> None:
        # What comes from now on is refused.
        self._maximum_spans = 0
        # The processor's own shutdown waits up to 30 s, without an argument to say otherwise.
        flush = threading.Thread(target=self._processor.shutdown, name="span-flush", daemon=True)
        flush.start()
        flush.join(timeout_seconds)
        if flush.is_alive():
            # Ends the exporter's waits between retries; a receiver that hangs keeps a daemon thread, which holds no exit up.
            self._exporter.shutdown()
        self._refused += max(0, self._accepted - self._exporter.taken)
        self._accepted = self._exporter.taken


class CountingExporter(SpanExporter):
    """Counts what goes through another exporter. Changed by the export thread only, read by all."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._lock = threading.Lock()
        self._closed = False
        self.taken = 0
        self.failed = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.taken += len(spans)
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        finally:
            if result is not SpanExportResult.SUCCESS:
                self.failed += len(spans)
        return result

    def shutdown(self) -> None:
        """Close the other exporter, once, whoever comes first."""
        with self._lock:
            closed, self._closed = self._closed, True
        if not closed:
            self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._exporter.force_flush(timeout_millis)


class OtlpExporter(OTLPSpanExporter):
    """OTLP over HTTP, to `endpoint`/v1/traces, with our encoder. While the receiver fails it says so once a minute.

    Retries, time-outs, TLS and the environment's OTEL_EXPORTER_OTLP_* variables (headers, certificates, compression) are the library's.
    """

    def __init__(self, endpoint: str, encoder: OtlpEncoder) -> None:
        super().__init__(endpoint=endpoint.rstrip("/") + "/v1/traces", timeout=EXPORT_TIMEOUT_SECONDS)
        self._encoder = encoder
        self._logger = logging.getLogger(OTLPSpanExporter.__module__)
        self._seldom = Seldom(LOG_INTERVAL_SECONDS)
        self._logger.addFilter(self._seldom)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        # The library's client takes the encoded request; it has no public name, so a test pins it.
        sent = self._client.export(self._encoder.encode(spans))
        return SpanExportResult.SUCCESS if sent.success else SpanExportResult.FAILURE

    def shutdown(self) -> None:
        super().shutdown()  # type: ignore[no-untyped-call]
        self._logger.removeFilter(self._seldom)


class Seldom(logging.Filter):
    """Lets one log record through in each interval.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, interval_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._interval_seconds = interval_seconds
        self._clock = clock
        self._next = clock()

    def filter(self, record: logging.LogRecord) -> bool:
        now = self._clock()
        if now < self._next:
            return False
        self._next = now + self._interval_seconds
        return True
