"""The audit: one record a request, and one for each thing that the gateway or its administrators do (CONTRACT section 7).

Records name the route's template and never a raw path, a query, a token, a header's value (but a bounded User-Agent) or a body.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import time_ns
from types import MappingProxyType
from typing import Any, Literal

import orjson

from gateway.telemetry.lines import LineWriter
from gateway.telemetry.observation import Observation
from gateway.telemetry.record import MAXIMUM_TEXT, TimeText, json_line, milliseconds, plain_line, quoted, word
from gateway.telemetry.spelling import principal_text, source_of, spelling_of

EventKind = Literal["admin", "config", "start", "stop", "checkpoint"]
NO_DETAIL: Mapping[str, object] = MappingProxyType({})


class Audit:
    """Writes audit records. `seq` counts them from 1, per process, without gaps: a gap in a file is a lost record.

    Called by the event loop's thread only.

    Args:
        writers: where each record goes; every one of them gets all. None: nothing is recorded.
        format: `json`, or `text` for the one-line form.
        replica: the name of this process.
        time: spells times, shared with the access log.
    """

    def __init__(self, writers: Sequence[LineWriter], *, format: Literal["json", "text"], replica: str, time: TimeText) -> None:  # noqa: A002
        self._writers = tuple(writers)
        self._replica = replica
        self._time = time
        self._sequence = 0
        self._who = f'"replica":{quoted(replica)},"event":"request",'
        self._appends = tuple(writer.append for writer in self._writers)
        #: Records that some sink lost, because even its reserve was used up.
        self.dropped = 0
        self._request_line = {"json": self._json_request, "text": _text_request}[format]
        self._event_line = {"json": self._json_event, "text": _text_event}[format]

    @property
    def full(self) -> bool:
        """Whether a further request should be refused rather than go unrecorded (NIST SP 800-53 AU-5)."""
        for writer in self._writers:  # noqa: SIM110 - asked for each request, and a generator costs three times as much
            if writer.full:
                return True
        return False

    def observe(self, observation: Observation) -> None:
        """Record a request."""
        self._sequence += 1
        self._write(self._request_line(observation))

    def event(self, kind: EventKind, detail: Mapping[str, object] = NO_DETAIL) -> None:
        """Record something that isn't a request.

        Args:
            detail: members of the record's `detail`; what is in it is the caller's responsibility: no secrets.
        """
        self._sequence += 1
        self._write(self._event_line(kind, detail))

    def _write(self, line: bytes) -> None:
        kept = True
        for append in self._appends:
            kept &= append(line)
        if not kept:
            self.dropped += 1

    def _json_event(self, kind: EventKind, detail: Mapping[str, object]) -> bytes:
        return json_line(
            {
                "time": self._time.format(time_ns()),
                "seq": self._sequence,
                "replica": self._replica,
                "event": kind,
                "detail": dict(detail),
            }
        )

    def _json_request(self, observation: Observation) -> bytes:
        route = observation.route
        tries = observation.tries
        if route is None or len(tries) != 1 or _is_notable(observation):
            return self._any_request(observation)
        last = tries[0]
        known = spelling_of(observation, route)
        time, duration_ms = self._time.timing(observation)
        params = orjson.dumps(_allowed(observation.path_params, route.audit_path_params)).decode() if route.audit_path_params else "{}"
        limits = ",".join([f'{{"name":{quoted(name)},"remaining":{remaining}}}' for name, remaining in observation.limits])
        text = (
            f'{{"time":"{time}","seq":{self._sequence},{self._who}'
            f'"trace_id":"{observation.trace.trace_id_hex}","request_id":"{observation.request_id}",'
            f'{known.who}{params}{known.host}{observation.request_bytes}}},"decision":"allow","reason":null,"limits":[{limits}],'
            f'"response":{{"status":{observation.status},"bytes":{observation.response_bytes}}},'
            f'"upstream":{{"service":{quoted(last.service or observation.service)},"instance":{quoted(last.instance)},"attempts":1}},'
            f'"duration_ms":{duration_ms},"generation":{observation.generation}}}\n'
        )
        return plain_line(text) or self._any_request(observation)

    def _any_request(self, observation: Observation) -> bytes:
        """The record of any request, every text cut and escaped as needed."""
        route = observation.route
        principal = observation.principal
        tries = observation.tries
        record: dict[str, Any] = {
            "time": self._time.format(observation.ended_ns),
            "seq": self._sequence,
            "replica": self._replica,
            "event": "request",
            "trace_id": observation.trace.trace_id_hex,
            "request_id": observation.request_id,
            "source": source_of(observation),
            "principal": None if principal is None else orjson.Fragment(principal_text(principal)),
            "request": {
                "method": observation.method,
                "route": None if route is None else route.name,
                "path_template": None if route is None else route.path,
                "path_params": _allowed(observation.path_params, route.audit_path_params) if route and route.audit_path_params else {},
                "host": observation.host,
                "bytes": observation.request_bytes,
            },
            "decision": "deny" if observation.denied else "allow",
            "reason": _reason(observation) if observation.code or observation.reason else None,
            "limits": [{"name": name, "remaining": remaining} for name, remaining in observation.limits],
            "response": {"status": observation.status, "bytes": observation.response_bytes},
            "upstream": _upstream(observation) if tries or observation.service else None,
            "duration_ms": milliseconds(observation.started_ns, observation.ended_ns),
            "generation": observation.generation,
        }
        if observation.code or observation.shadow_limited or observation.store_mode != "shared":
            _add_notable(record, observation)
        return json_line(record)


def _is_notable(observation: Observation) -> bool:
    """Whether anything but an admitted and answered request is to be told."""
    return bool(observation.code or observation.reason or observation.shadow_limited) or observation.store_mode != "shared"


def _allowed(path_params: Mapping[str, object], names: tuple[str, ...]) -> dict[str, str]:
    return {name: str(path_params[name])[:MAXIMUM_TEXT] for name in names if name in path_params}


def _reason(observation: Observation) -> str:
    """The code that the client saw, except where it hides what happened between us and an upstream (CONTRACT section 5)."""
    if observation.code and not observation.reason.startswith("upstream_"):
        return observation.code
    return observation.reason


def _upstream(observation: Observation) -> dict[str, object]:
    """The last try's instance, and of which service; several services only when a handler called them."""
    tries = observation.tries
    if not tries:
        return {"service": observation.service, "instance": None, "attempts": 0}
    last = tries[-1]
    return {"service": last.service or observation.service, "instance": last.instance, "attempts": len(tries)}


def _add_notable(record: dict[str, Any], observation: Observation) -> None:
    """Members that only some records have: what was refused or let pass in an unusual way, in finer words."""
    if observation.reason not in ("", record["reason"]):
        record["detail"] = observation.reason
    if observation.limited:
        record["limited"] = observation.limited
    if observation.shadow_limited:
        record["shadow_limited"] = observation.shadow_limited
    if observation.store_mode != "shared":
        record["store_mode"] = observation.store_mode


def _text_request(observation: Observation) -> bytes:
    route = observation.route
    path = route.path if route is not None else "-"
    return f"AUDIT: {word(observation.method)} {path} -> {observation.status}\n".encode("ascii", "backslashreplace")


def _text_event(kind: EventKind, detail: Mapping[str, object]) -> bytes:
    fields = "".join(f" {word(name)}={word(str(value))}" for name, value in detail.items())
    return f"AUDIT: {kind}{fields}\n".encode("ascii", "backslashreplace")
