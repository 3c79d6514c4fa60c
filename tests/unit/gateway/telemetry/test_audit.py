"""Audit records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth.principal import Principal
from gateway.route import Route
from gateway.settings import AUDIT_FIELDS
from gateway.telemetry import trail
from gateway.telemetry.access_log import AccessLog
from gateway.telemetry.audit import Audit
from gateway.telemetry.lines import LineWriter
from gateway.telemetry.record import TimeText
from gateway.telemetry.trail import Trail
from tests.support.observations import ROUTE, TRACE_ID, attempt, observation, principal

OTHER_ROUTE = Route(name="get-patient", path="/people/{id}", target="patients")
HOSTILE = 'x"\r\nAUDIT: GET /admin -> 200\x00\u2028'


class Recorded:
    """An audit into a file, which is read when it's closed."""

    def __init__(self, path: Path, format: Literal["json", "text"] = "json", **chosen: Any) -> None:  # noqa: A002
        path.mkdir(exist_ok=True)
        self._path = path / "audit.jsonl"
        self._writer = LineWriter(f"file:{self._path}")
        self.audit = Audit(Trail([self._writer], chained=False), format=format, replica="gw-1", time=TimeText(), **chosen)

    def lines(self) -> list[bytes]:
        assert self._writer.close(10.0) == 0
        return self._path.read_bytes().splitlines(keepends=True)

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines()]


def test_a_request_makes_the_record_of_the_contract(tmp_path: Path) -> None:
    """S-35: CONTRACT section 7, every member, in its order."""
    trail = Recorded(tmp_path)
    trail.audit.observe(observation())
    expected = {
        "time": "2026-11-23T00:58:45.123456Z",
        "seq": 1,
        "replica": "gw-1",
        "event": "request",
        "trace_id": f"{TRACE_ID:032x}",
        "request_id": "req-1",
        "source": {"ip": "192.0.2.7", "port": 50123, "peer_ip": "10.0.0.1", "user_agent": "curl/8.5"},
        "principal": {
            "subject": "alice",
            "issuer": "https://login.example.gov",
            "client": "portal",
            "scopes": ["a:read", "b:write"],
            "token_id": "t-1",
        },
        "request": {
            "method": "GET",
            "route": "get-patient",
            "path_template": "/patients/{id}",
            "path_params": {"id": "17"},
            "host": "api.example.gov",
            "bytes": 0,
        },
        "decision": "allow",
        "reason": None,
        "limits": [{"name": "per-client", "remaining": 37}],
        "response": {"status": 200, "bytes": 512},
        "upstream": {"service": "patients", "instance": "patients-1", "attempts": 1},
        "duration_ms": 1.5,
        "generation": 3,
    }
    assert trail.lines() == [json.dumps(expected, separators=(",", ":")).encode() + b"\n"]


def test_an_unmatched_anonymous_request_has_no_route_and_no_principal(tmp_path: Path) -> None:
    """S-34: rejected requests are recorded, without their path."""
    trail = Recorded(tmp_path)
    trail.audit.observe(observation(route=None, principal=None, service="", tries=[], status=404, code="not_found", denied=True, limits=()))
    (record,) = trail.records()
    assert record["request"] == {
        "method": "GET",
        "route": None,
        "path_template": None,
        "path_params": {},
        "host": "api.example.gov",
        "bytes": 0,
    }
    assert (record["principal"], record["upstream"], record["limits"]) == (None, None, [])
    assert (record["decision"], record["reason"]) == ("deny", "not_found")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"status": 502, "code": "bad_gateway", "reason": "upstream_reset"}, {"decision": "allow", "reason": "upstream_reset"}),
        (
            {"status": 401, "code": "token_expired", "reason": "token_expired", "denied": True},
            {"decision": "deny", "reason": "token_expired"},
        ),
        (
            {"status": 403, "code": "forbidden", "reason": "missing_scope", "denied": True},
            {"reason": "forbidden", "detail": "missing_scope"},
        ),
        ({"status": 429, "code": "rate_limited", "limited": ("daily",), "denied": True}, {"reason": "rate_limited", "limited": ["daily"]}),
        ({"status": 499, "reason": "client_gone"}, {"decision": "allow", "reason": "client_gone"}),
        ({"store_mode": "open"}, {"decision": "allow", "reason": None, "store_mode": "open"}),
        ({"shadow_limited": ("new",)}, {"decision": "allow", "shadow_limited": ["new"]}),
    ],
)
def test_decisions_and_reasons(tmp_path: Path, fields: dict[str, Any], expected: dict[str, Any]) -> None:
    """S-34: refusals with their reason, fail-open decisions, limits that would have refused."""
    trail = Recorded(tmp_path)
    trail.audit.observe(observation(**fields))
    (record,) = trail.records()
    assert expected.items() <= record.items()


def test_the_last_instance_and_the_number_of_tries_are_named(tmp_path: Path) -> None:
    """S-35: which upstream answered."""
    trail = Recorded(tmp_path)
    second = attempt()
    second.instance = "patients-2"
    trail.audit.observe(observation(tries=[attempt(0, error="upstream_reset"), second]))
    trail.audit.observe(observation(tries=[], status=503, code="no_instance", denied=True))
    called = attempt()
    called.service = "claims"
    trail.audit.observe(observation(service="", tries=[called]))
    first, last, handler = trail.records()
    assert handler["upstream"] == {"service": "claims", "instance": "patients-1", "attempts": 1}
    assert first["upstream"] == {"service": "patients", "instance": "patients-2", "attempts": 2}
    assert last["upstream"] == {"service": "patients", "instance": None, "attempts": 0}


@pytest.mark.parametrize(
    ("allowed", "shown"),
    [((), {}), (("id",), {"id": "17"}), (("id", "absent"), {"id": "17"}), (("ssn", "id"), {"ssn": "9", "id": "17"})],
)
def test_only_allowed_path_parameters_are_shown(tmp_path: Path, allowed: tuple[str, ...], shown: dict[str, str]) -> None:
    """O4: parameters identify patients; the route says which may be written."""
    trail = Recorded(tmp_path)
    route = Route(name="r", path="/p/{id}/{ssn}", target="patients", audit_path_params=allowed)
    trail.audit.observe(observation(route=route, path_params={"id": 17, "ssn": "9"}))
    assert trail.records()[0]["request"]["path_params"] == shown


@pytest.mark.parametrize("format_", ["json", "text"])
def test_no_value_breaks_out_of_its_record(tmp_path: Path, format_: Literal["json", "text"]) -> None:
    """S-37: no log injection by the user agent, host, method, request id, parameters or claims."""
    trail = Recorded(tmp_path, format_)
    seen = observation(user_agent=HOSTILE, host=HOSTILE, method=HOSTILE, request_id=HOSTILE, path_params={"id": HOSTILE}, client_ip=HOSTILE)
    trail.audit.observe(seen)
    trail.audit.event("admin", {"name": HOSTILE})
    written = trail.lines()
    assert len(written) == 2
    assert all(line.endswith(b"\n") and line[:-1].isascii() and line[:-1].decode().isprintable() for line in written)


def test_the_user_agent_is_bounded(tmp_path: Path) -> None:
    """S-35: 256 characters."""
    trail = Recorded(tmp_path)
    trail.audit.observe(observation(user_agent="u" * 5000))
    assert trail.records()[0]["source"]["user_agent"] == "u" * 256


def test_sequence_numbers_have_no_gaps_across_requests_and_events(tmp_path: Path) -> None:
    """O6: `seq` without gaps per replica."""
    trail = Recorded(tmp_path)
    trail.audit.event("start", {"version": "0.1.0"})
    for _ in range(500):
        trail.audit.observe(observation())
    trail.audit.event("stop")
    records = trail.records()
    assert [record["seq"] for record in records] == list(range(1, 503))
    assert (records[0]["event"], records[0]["detail"]) == ("start", {"version": "0.1.0"})
    assert (records[-1]["event"], records[-1]["detail"]) == ("stop", {})


def test_labels_are_in_every_record(tmp_path: Path) -> None:
    """S-43: of requests that are spelled the short way and the long way, and of events."""
    labels = {"system": 'HMS "one"', "facility": "17"}
    trail = Recorded(tmp_path, labels=labels)
    trail.audit.observe(observation())
    trail.audit.observe(observation(route=None, principal=None, tries=[], status=404, code="not_found", denied=True))
    trail.audit.event("stop")
    records = trail.records()
    assert [record["labels"] for record in records] == [labels] * 3
    assert [list(record)[:5] for record in records] == [["time", "seq", "replica", "labels", "event"]] * 3


@pytest.mark.parametrize("principal", [principal(), None], ids=["known", "nobody"])
@pytest.mark.parametrize("field", AUDIT_FIELDS)
def test_a_field_can_be_left_out(tmp_path: Path, field: str, principal: Principal | None) -> None:
    """S-43: that one, and nothing else."""
    everything, fewer = Recorded(tmp_path / "all"), Recorded(tmp_path / "fewer", fields=set(AUDIT_FIELDS) - {field})
    for recorded in (everything, fewer):
        recorded.audit.observe(observation(principal=principal))
    (whole,), (record,) = everything.records(), fewer.records()
    *section, name = field.split(".")
    members = whole[section[0]] if section else whole
    if members is not None and field != "source.certificate":
        del members[name]
    assert record == whole


def test_what_a_record_needs_is_always_there(tmp_path: Path) -> None:
    """S-35, S-43: what, when, where, from where, who and how it ended."""
    trail = Recorded(tmp_path, fields=())
    trail.audit.observe(observation())
    (record,) = trail.records()
    assert list(record) == [
        "time", "seq", "replica", "event", "trace_id", "request_id", "source", "principal", "request", "decision", "reason", "response",
    ]  # fmt: skip
    parts = [record[name] for name in ("source", "principal", "request", "response")]
    assert parts == [{"ip": "192.0.2.7"}, {"subject": "alice"}, {"method": "GET", "route": "get-patient"}, {"status": 200}]


def test_text_is_the_line_of_the_seed(tmp_path: Path) -> None:
    """CONTRACT section 7: the text format of the same record."""
    trail = Recorded(tmp_path, "text")
    trail.audit.observe(observation())
    trail.audit.observe(observation(route=None, status=404))
    trail.audit.event("config", {"generation": 2})
    assert trail.lines() == [b"AUDIT: GET /patients/{id} -> 200\n", b"AUDIT: GET - -> 404\n", b"AUDIT: config generation=2\n"]


def test_the_principal_is_spelled_once(tmp_path: Path) -> None:
    """The cached token keeps its part of the record."""
    trail = Recorded(tmp_path)
    seen = observation()
    trail.audit.observe(seen)
    trail.audit.observe(seen)
    assert seen.principal is not None
    assert len(seen.principal.memo) == 1
    first, second = trail.records()
    assert first["principal"] == second["principal"]


TEXT = st.text(max_size=300)


@given(
    agent=TEXT,
    host=TEXT,
    instance=TEXT,
    service=TEXT,
    param=TEXT,
    limit=st.text("abc-%", max_size=5),
    numbers=st.tuples(*[st.integers(0, 10**12)] * 3),
)
def test_the_quick_spelling_says_what_the_full_one_says(
    agent: str, host: str, instance: str, service: str, param: str, limit: str, numbers: tuple[int, int, int]
) -> None:
    """CONTRACT section 7: one record, however it was put together. The second request finds the first one's spelling."""
    audit = Audit(Trail([], chained=False), format="json", replica="r-1", time=TimeText())
    log = AccessLog(Forgetful(), format="json", time=TimeText())  # type: ignore[arg-type]  # only `offer` is used
    memo: dict[str, object] = {}
    for received in (numbers[1], 0):
        tried = attempt()
        tried.instance = instance
        seen = observation(
            user_agent=agent, host=host, service=service, path_params={"id": param}, limits=((limit, numbers[0]),), memo=memo, tries=[tried]
        )
        seen.request_bytes, seen.response_bytes = received, numbers[2]
        for quick, full in ((audit._json_request(seen), audit._any_request(seen)), (log._json_line(seen), log._any_line(seen))):
            assert quick.isascii()
            assert quick.count(b"\n") == 1
            assert orjson.loads(quick) == orjson.loads(full)


@pytest.mark.parametrize("change", [{"principal": None}, {"principal": principal()}, {"method": "HEAD"}, {"route": OTHER_ROUTE}])
def test_a_spelling_is_used_for_its_own_requests_only(change: dict[str, object]) -> None:
    audit = Audit(Trail([], chained=False), format="json", replica="r-1", time=TimeText())
    memo: dict[str, object] = {}
    audit._json_request(observation(memo=memo))
    changed = observation(memo=memo, **change)
    assert orjson.loads(audit._json_request(changed)) == orjson.loads(audit._any_request(changed))


class Forgetful:
    def offer(self, line: bytes) -> bool:
        return True


def test_every_sink_gets_every_record(tmp_path: Path) -> None:
    """CONTRACT section 4: `sink` is a list."""
    writers = [LineWriter(f"file:{tmp_path / name}") for name in "ab"]
    audit = Audit(Trail(writers, chained=False), format="json", replica="gw-1", time=TimeText())
    audit.observe(observation())
    assert [writer.close(10.0) for writer in writers] == [0, 0]
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() != b""


def test_without_sinks_nothing_is_recorded() -> None:
    """`audit: {sink: []}` turns it off."""
    audit = Audit(Trail([], chained=False), format="json", replica="gw-1", time=TimeText())
    audit.observe(observation(route=ROUTE))
    assert audit.dropped == 0


def test_a_full_sink_is_told_before_a_record_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """O6: `full` from the capacity on; the reserve takes requests in flight; only then records are lost, and counted."""
    monkeypatch.setattr(trail, "RESERVE_BYTES", 2000)
    writer = LineWriter("file:/dev/full", capacity_bytes=2000)
    audit = Audit(Trail([writer], chained=False), format="json", replica="gw-1", time=TimeText())
    while not writer.full:
        audit.observe(observation())
    assert audit.dropped == 0
    for _ in range(10):
        audit.observe(observation())
    assert 0 < audit.dropped < 10
    assert writer.close(0.0) > 0
