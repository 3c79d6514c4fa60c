"""Everything that is told about requests, in one object: metrics, audit, access log and spans."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Protocol

from opentelemetry.sdk.trace.export import SpanExporter
from prometheus_client import ProcessCollector

from gateway.failure import outline
from gateway.settings import AuditSettings, TelemetrySettings
from gateway.telemetry import exposition
from gateway.telemetry.access_log import AccessLog
from gateway.telemetry.audit import NO_DETAIL, Audit, EventKind
from gateway.telemetry.checkpoints import Checkpoints, Keeper, previous_heads
from gateway.telemetry.dependencies import Dependencies
from gateway.telemetry.lines import LineWriter
from gateway.telemetry.loop_lag import LoopLag
from gateway.telemetry.metrics import Labels, Metrics, Source
from gateway.telemetry.observation import Observation
from gateway.telemetry.record import TimeText
from gateway.telemetry.tracing import Tracer
from gateway.telemetry.trail import Trail

logger = logging.getLogger(__name__)

#: So many finished requests are told of together, at the latest after so many seconds. The code that spells records is large: run for one
#: request among all the rest it costs twice what it costs in a row, because the processor has to fetch it anew each time.
TOGETHER = 64
TOGETHER_SECONDS = 0.01

Values = Iterable[tuple[Labels, float]]


class RequestObserver(Protocol):
    """Somebody who is told about finished requests: takes them from the iterator until there are no more."""

    def __call__(self, finished: Iterator[Observation], /) -> None: ...


class Telemetry:
    """What the pipeline, the admin site and the application hold.

    Called by the event loop's thread, except `render`, which any thread may call.

    Args:
        settings: what is told apart from the audit.
        audit: where audit records go.
        version, replica: told in spans and records. `replica` names this process, so that no two share an audit sequence.
        sources: metrics of other parts, such as `endpoints_source(...)`; read at each scrape, so they may be filled later.
        exporter: takes the place of the OTLP exporter.

    Raises:
        ConfigError: a sink is unknown or can't be opened.
    """

    def __init__(
        self,
        settings: TelemetrySettings,
        audit: AuditSettings,
        *,
        version: str,
        replica: str,
        sources: Sequence[Source] = (),
        exporter: SpanExporter | None = None,
    ) -> None:
        self._writers: dict[str, LineWriter] = {}
        self._failures: dict[str, int] = {}
        #: Of the running event loop, once started.
        self.lag = LoopLag()
        self._watch: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._finished: list[Observation] = []
        self._telling_planned = False
        time = TimeText()
        self._audit_settings = audit
        self._replica = replica
        self._checkpoints: Checkpoints | None = None
        self._previous = previous_heads(audit.sink) if audit.chained else []
        writers = tuple(self._writer(sink, durable=True) for sink in dict.fromkeys(audit.sink))
        lossy = audit.when_full == "drop"
        # Checkpoints go to standard output too, where somebody else keeps them (SPEC O6).
        apart = audit.chained and bool(audit.checkpoint) and "stdout" not in audit.sink
        self._witness = self._writer("stdout", durable=False) if apart else None
        self._trail = Trail(writers, chained=audit.chained, lossy=lossy)
        self.audit = Audit(
            self._trail,
            format=audit.format,
            replica=replica,
            time=time,
            events=audit.events,
            fields=audit.fields,
            labels=audit.labels,
        )
        self._blocking_writers = () if lossy else writers
        recorder = self.audit.observer if audit.sink else None
        observers: dict[str, RequestObserver] = {"audit": _each(recorder)} if recorder is not None else {}
        access_log = settings.access_log
        if access_log.format != "off":
            lines = AccessLog(self._writer(access_log.sink, durable=False), format=access_log.format, time=time)
            observers["access_log"] = _each(lines.observe)
        self.tracer = Tracer(settings.traces, version=version, replica=replica, exporter=exporter)
        self.dependencies = Dependencies(partial(self.event, "dependency"))
        self.metrics = Metrics([*self._own_sources(), *sources], on_mode=self._store_used)
        if self.tracer.recording:
            observers["traces"] = _each(self.tracer.finish)
        if settings.prometheus:
            observers["metrics"] = self.metrics.observe_all
        self._observers = tuple(observers.items())
        self._collector = exposition.Collectors([self.metrics, ProcessCollector(registry=None)])

    def accepts(self) -> bool:
        """False while a sink of the audit is full, unless records may be dropped: then a request is answered with 503 `overloaded`, because
        it couldn't be recorded (AU-5)."""
        # A generator would cost three times as much, before every request.
        for writer in self._blocking_writers:  # noqa: SIM110
            if writer.full:
                return False
        return True

    def start(self) -> None:
        """Begin to sample the running event loop's lag, and to tell of requests together."""
        self._loop = asyncio.get_running_loop()
        self._watch = self._loop.create_task(self.lag.watch(), name="event-loop-lag")

    def observe(self, observation: Observation) -> None:
        """Take note of a finished request; everybody is told of several together (see `TOGETHER`). Never raises."""
        finished = self._finished
        finished.append(observation)
        if len(finished) >= TOGETHER or self._loop is None:
            self.tell()
        elif not self._telling_planned:
            self._telling_planned = True
            self._loop.call_later(TOGETHER_SECONDS, self._tell_late)

    def tell(self) -> None:
        """Tell everybody about the requests that have finished. Who fails is counted, and reported once."""
        finished, self._finished = self._finished, []
        for name, observe in self._observers:
            rest = iter(finished)
            while True:
                try:
                    observe(rest)
                    break
                except Exception as error:
                    # It goes on with the request after the one that it failed on.
                    self._failed(name, error)

    def _tell_late(self) -> None:
        self._telling_planned = False
        self.tell()

    def event(self, kind: EventKind, detail: Mapping[str, object] = NO_DETAIL) -> None:
        """Record in the audit what isn't a request: `admin`, `config`, `dependency`, `handshake`. No secrets in `detail`. Never raises."""
        self.tell()
        try:
            self.audit.event(kind, detail)
        except Exception as error:
            self._failed("audit", error)

    def started(self, detail: Mapping[str, object], store: Keeper) -> None:
        """Record that the process serves, begin with checkpoints, which the store keeps, and with what becomes of dependencies."""
        previous = {"previous": self._previous} if self._audit_settings.chained else {}
        self.event("start", {**detail, **previous})
        self.dependencies.begin()
        if self._audit_settings.chained and (seconds := self._audit_settings.checkpoint):
            self._checkpoints = Checkpoints(self.audit, self._trail, store, witness=self._witness, replica=self._replica, seconds=seconds)
            self._checkpoints.start()

    async def stopped(self) -> None:
        """Record that the process ends, in bounded time; the store is still needed, it keeps that as the last checkpoint."""
        self.dependencies.close()
        self.tell()
        if self._checkpoints is None:
            self.event("stop")
        else:
            await self._checkpoints.close()

    def render(self, accept: str = "") -> bytes:
        """This process's metrics; `exposition.content_type(accept)` names the format, `exposition.merge` joins several processes'."""
        return exposition.render(self._collector, accept)

    async def close(self, timeout_seconds: float) -> None:
        """Export the spans and write the lines that wait, all at the same time, for at most so long."""
        self.tell()
        self._loop = None
        if self._watch is not None:
            self._watch.cancel()
        # The audit's "stop" was the last line; what a sink doesn't take in time is lost, and said.
        waits = [asyncio.to_thread(self._close_writer, writer, timeout_seconds) for writer in self._writers.values()]
        await asyncio.gather(asyncio.to_thread(self.tracer.shutdown, timeout_seconds), *waits)

    def _close_writer(self, writer: LineWriter, timeout_seconds: float) -> None:
        lost = writer.close(timeout_seconds)
        if lost:
            logger.error("sink %s lost %d lines at the end", writer.sink, lost)

    def _writer(self, sink: str, *, durable: bool) -> LineWriter:
        # One writer a sink, so that records of the audit and lines of the access log can't be mixed within a line.
        if sink not in self._writers:
            self._writers[sink] = LineWriter(sink, durable=durable)
        return self._writers[sink]

    def _store_used(self, mode: str) -> None:
        self.dependencies.note("store", mode == "shared")

    def _failed(self, name: str, error: Exception) -> None:
        count = self._failures[name] = self._failures.get(name, 0) + 1
        if count == 1:
            logger.error("%s failed on a request; further failures are only counted\n%s", name, outline(error))

    # Metric sources

    def _own_sources(self) -> Sequence[Source]:
        return (
            Source("gateway_audit_dropped_total", "Audit records that were lost.", "counter", (), self._read_audit_dropped),
            Source("gateway_sink_dropped_total", "Lines that a full sink dropped.", "counter", ("sink",), self._read_sink_dropped),
            Source("gateway_sink_errors_total", "Failed writes to a sink.", "counter", ("sink",), self._read_sink_errors),
            Source("gateway_sink_waiting_bytes", "Bytes that wait for a sink.", "gauge", ("sink",), self._read_sink_waiting),
            Source("gateway_spans_dropped_total", "Spans that were not exported.", "counter", (), self._read_spans_dropped),
            Source(
                "gateway_telemetry_failures_total",
                "Requests that a part failed on.",
                "counter",
                ("part",),
                self._read_failures,
            ),
            Source("gateway_event_loop_lag_seconds", "Greatest lag of the event loop in the last 15 s.", "gauge", (), self.lag.read),
        )

    def _read_audit_dropped(self) -> Values:
        return (((), self.audit.dropped + self._failures.get("audit", 0)),)

    def _read_sink_dropped(self) -> Values:
        return [((sink,), writer.dropped) for sink, writer in self._writers.items()]

    def _read_sink_errors(self) -> Values:
        return [((sink,), writer.write_errors) for sink, writer in self._writers.items()]

    def _read_sink_waiting(self) -> Values:
        return [((sink,), writer.waiting_bytes) for sink, writer in self._writers.items()]

    def _read_spans_dropped(self) -> Values:
        return (((), self.tracer.dropped),)

    def _read_failures(self) -> Values:
        return [((name,), count) for name, count in list(self._failures.items())]


def _each(observe: Callable[[Observation], None]) -> RequestObserver:
    """An observer that looks at one request after the other."""

    def observe_all(finished: Iterator[Observation], /) -> None:
        for observation in finished:
            observe(observation)

    return observe_all
