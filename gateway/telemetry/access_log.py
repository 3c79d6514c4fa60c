"""The access log: one line a request, for people and log pipelines. Unlike the audit it is allowed to lose lines."""

from __future__ import annotations

from typing import Literal

from gateway.telemetry.lines import LineWriter
from gateway.telemetry.observation import Observation
from gateway.telemetry.record import TimeText, json_line, milliseconds, plain_line, quoted, word
from gateway.telemetry.spelling import spelling_of


class AccessLog:
    """Writes access lines; drops them while the writer is full, which the writer counts.

    Args:
        writer: where lines go.
        format: `json`, or `text`: time, client, subject, "method route", status, bytes, milliseconds, service/instance, trace, request.
        time: spells times, shared with the audit.
    """

    def __init__(self, writer: LineWriter, *, format: Literal["json", "text"], time: TimeText) -> None:  # noqa: A002
        self._offer = writer.offer
        self._time = time
        self._line = {"json": self._json_line, "text": self._text_line}[format]

    def observe(self, observation: Observation) -> None:
        """Write the line of a request."""
        self._offer(self._line(observation))

    def _json_line(self, observation: Observation) -> bytes:
        route = observation.route
        tries = observation.tries
        if route is None or not tries:
            return self._any_line(observation)
        known = spelling_of(observation, route)
        time, duration_ms = self._time.timing(observation)
        text = (
            f'{{"time":"{time}",{known.method_route},"status":{observation.status},'
            f'"duration_ms":{duration_ms},"bytes":{observation.response_bytes},'
            f'{known.access},"service":{quoted(observation.service) if observation.service else "null"},'
            f'"instance":{quoted(tries[-1].instance)},'
            f'"trace_id":"{observation.trace.trace_id_hex}","request_id":"{observation.request_id}"}}\n'
        )
        return plain_line(text) or self._any_line(observation)

    def _any_line(self, observation: Observation) -> bytes:
        """The line of any request, every text cut and escaped as needed."""
        route = observation.route
        principal = observation.principal
        tries = observation.tries
        return json_line(
            {
                "time": self._time.format(observation.ended_ns),
                "method": observation.method,
                "route": None if route is None else route.path,
                "status": observation.status,
                "duration_ms": milliseconds(observation.started_ns, observation.ended_ns),
                "bytes": observation.response_bytes,
                "client_ip": observation.client_ip,
                "subject": None if principal is None else principal.subject,
                "service": observation.service or None,
                "instance": tries[-1].instance if tries else None,
                "trace_id": observation.trace.trace_id_hex,
                "request_id": observation.request_id,
            }
        )

    def _text_line(self, observation: Observation) -> bytes:
        route = observation.route
        principal = observation.principal
        instance = observation.tries[-1].instance if observation.tries else ""
        line = (
            f"{self._time.format(observation.ended_ns)} {word(observation.client_ip)} {word(principal.subject if principal else '')} "
            f'"{word(observation.method)} {route.path if route is not None else "-"}" {observation.status} {observation.response_bytes} '
            f"{milliseconds(observation.started_ns, observation.ended_ns):.3f} {word(observation.service)}/{word(instance)} "
            f"{observation.trace.trace_id_hex} {word(observation.request_id)}\n"
        )
        return line.encode("ascii", "backslashreplace")
