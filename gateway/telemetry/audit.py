"""The audit: one record a request, and one for each thing that the gateway or its administrators do (CONTRACT section 7).

Records name the route's template and never a raw path, a query, a token, a header's value (but a bounded User-Agent) or a body.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from time import time_ns
from types import MappingProxyType
from typing import Any, Literal

import orjson

from gateway.settings import AUDIT_EVENTS, AUDIT_FIELDS, AuditEvent, AuditField
from gateway.telemetry.chain import Head
from gateway.telemetry.observation import Observation
from gateway.telemetry.record import MAXIMUM_TEXT, TimeText, json_line, milliseconds, plain_line, quoted, word
from gateway.telemetry.spelling import principal_members, principal_text, source_of, spelling_of
from gateway.telemetry.trail import Trail

EventKind = Literal["admin", "config", "dependency", "handshake", "start", "stop", "checkpoint", "gap"]
NO_DETAIL: Mapping[str, object] = MappingProxyType({})
NO_LABELS: Mapping[str, str] = MappingProxyType({})


class Audit:
    """Writes audit records. `seq` counts them from 1, per process, without gaps: a gap in a file is a lost record.

    Called by the event loop's thread only.

    Args:
        trail: takes the records to their sinks.
        format: `json`, or `text` for the one-line form.
        replica: the name of this process.
        time: spells times, shared with the access log.
        events: what is recorded, of the words of `AuditSettings`. The life of the process and of the trail always is.
        fields: what the record of a request has besides what it always has, in its words too.
        labels: texts that each record carries.
    """

    def __init__(
        self,
        trail: Trail,
        *,
        format: Literal["json", "text"],  # noqa: A002
        replica: str,
        time: TimeText,
        events: Collection[AuditEvent] = AUDIT_EVENTS,
        fields: Collection[AuditField] = AUDIT_FIELDS,
        labels: Mapping[str, str] = NO_LABELS,
    ) -> None:
        self._trail = trail
        self._time = time
        self._left_out = frozenset(AUDIT_EVENTS) - frozenset(events)
        self._sequence = 0
        self._origin: dict[str, Any] = {"replica": replica, **({"labels": dict(labels)} if labels else {})}
        self._who = f'{json_line(self._origin)[1:-2].decode("ascii")},"event":"request",'
        self._without = [tuple(field.split(".")) for field in AUDIT_FIELDS if field not in fields]
        request = self._short_request if self._without else self._json_request
        self._request_line = {"json": request, "text": _text_request}[format]
        self._event_line = {"json": self._json_event, "text": _text_event}[format]

    @property
    def dropped(self) -> int:
        """Records that some sink lost."""
        return self._trail.dropped

    @property
    def observer(self) -> Callable[[Observation], None] | None:
        """What is to be told of each request; None when no request is recorded."""
        left_out = self._left_out & {"allowed", "denied"}
        if not left_out:
            return self.observe
        return self._observe_some if len(left_out) == 1 else None

    def _observe_some(self, observation: Observation) -> None:
        if ("denied" if observation.denied else "allowed") not in self._left_out:
            self.observe(observation)

    def observe(self, observation: Observation) -> None:
        """Record a request."""
        trail = self._trail
        if trail.lacking:
            self._tell_losses()
        self._sequence += 1
        try:
            line = self._request_line(observation)
        except Exception:
            self._sequence -= 1
            raise
        trail.take(line, self._sequence)

    def event(self, kind: EventKind, detail: Mapping[str, object] = NO_DETAIL) -> None:
        """Record something that isn't a request, unless its kind was left out.

        Args:
            detail: members of the record's `detail`; what is in it is the caller's responsibility: no secrets.
        """
        if kind in self._left_out:
            return
        if self._trail.lacking:
            self._tell_losses()
        self._record(kind, detail)

    def mark(self, kind: Literal["checkpoint", "stop"]) -> tuple[Head, bytes]:
        """Record that everything so far is there; number and hash of that record, and its line, stand for all before it."""
        self.event(kind)
        return self._trail.head()

    def _tell_losses(self) -> None:
        """Record what sinks have lost that take records again: each of them finds that right after the hole."""
        while (loss := self._trail.recovered()) is not None:
            self._record("gap", {"sink": loss.sink, "first_seq": loss.first, "last_seq": loss.last, "records": loss.last - loss.first + 1})

    def _record(self, kind: EventKind, detail: Mapping[str, object]) -> None:
        self._sequence += 1
        try:
            line = self._event_line(kind, detail)
        except Exception:
            self._sequence -= 1
            raise
        self._trail.take(line, self._sequence)

    def _json_event(self, kind: EventKind, detail: Mapping[str, object]) -> bytes:
        return json_line(
            {
                "time": self._time.format(time_ns()),
                "seq": self._sequence,
                **self._origin,
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
        return json_line(self._members(observation))

    def _short_request(self, observation: Observation) -> bytes:
        """The record of any request, without the fields that were left out."""
        record = self._members(observation)
        if observation.principal is not None:
            record["principal"] = principal_members(observation.principal)
        for *section, name in self._without:
            members = record[section[0]] if section else record
            if members is not None:
                members.pop(name, None)
        return json_line(record)

    def _members(self, observation: Observation) -> dict[str, Any]:
        route = observation.route
        principal = observation.principal
        tries = observation.tries
        record: dict[str, Any] = {
            "time": self._time.format(observation.ended_ns),
            "seq": self._sequence,
            **self._origin,
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
        return record


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
