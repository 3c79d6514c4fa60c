"""Records of what anybody may have sent (S-37; SPEC O4)."""

from __future__ import annotations

import json
import re
from typing import Any

from gateway.auth.principal import Principal
from gateway.route import Route
from gateway.telemetry.access_log import AccessLog
from gateway.telemetry.audit import Audit
from gateway.telemetry.observation import Observation
from gateway.telemetry.record import MAXIMUM_TEXT, TimeText, json_line
from tests.fuzz.target import Target
from tests.support.observations import attempt, observation

_JSON_LINE = re.compile(rb"\{[\x20-\x7e]*\}\n")
_TEXT_LINE = re.compile(rb"[\x20-\x7e]+\n")
#: A dozen texts that are cut, each character of them escaped in six.
_LONGEST_LINE = 24 * 1024
_NAMES = ("method", "host", "user_agent", "client_ip", "request_id", "subject", "issuer", "scope", "client", "param", "service", "reason")


class _Kept:
    """Takes the lines of records, in the place of a trail and of a writer."""

    lacking: dict[object, object] = {}

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def take(self, line: bytes, _seq: int) -> None:
        self.lines.append(line)

    def offer(self, line: bytes) -> bool:
        self.lines.append(line)
        return True


def check(data: bytes) -> None:
    """Texts with NUL bytes between them, what is no UTF-8 as lone surrogates.

    Every record is one line of graphic ASCII; as JSON it is read by a strict and a lenient reader alike, says the text that was given (cut
    where it is long) under the right name and nothing under another; as text it has as many words as ever.
    """
    texts = [part.decode("utf-8", "surrogateescape") for part in data.split(b"\0")]
    given = {name: texts[at % len(texts)] for at, name in enumerate(_NAMES)}
    for seen in _observations(given):
        kept = _Kept()
        Audit(kept, format="json", replica=given["service"], time=TimeText()).observe(seen)  # type: ignore[arg-type]
        AccessLog(kept, format="json", time=TimeText()).observe(seen)  # type: ignore[arg-type]
        audited, accessed = map(_parsed, kept.lines)
        assert max(map(len, kept.lines)) <= _LONGEST_LINE
        assert audited["source"]["user_agent"] == shortened(given["user_agent"])
        assert is_shown(audited["request"]["host"], given["host"])
        assert is_shown(audited["principal"]["subject"], given["subject"])
        assert is_shown(accessed["subject"], given["subject"])
        assert audited["decision"] == "allow"
        assert audited["seq"] == 1
        assert audited["response"] == {"status": seen.status, "bytes": 512}
        assert _words(seen, {}) == _words(observation(method="GET"), {})
    check_event(given, texts)


def check_event(given: dict[str, str], texts: list[str]) -> None:
    """What isn't a request, with any detail."""
    kept = _Kept()
    for form in ("json", "text"):
        Audit(kept, format=form, replica="r", time=TimeText()).event("admin", {**given, "list": texts})  # type: ignore[arg-type]
    record = _parsed(kept.lines[0])
    assert all(is_shown(record["detail"][name], text) for name, text in given.items())
    assert _TEXT_LINE.fullmatch(kept.lines[1])
    assert len(kept.lines[1].split(b" ")) == 2 + len(given) + 1
    _parsed(json_line(dict.fromkeys(texts, texts)))


def _observations(given: dict[str, str]) -> list[Observation]:
    """A request that was answered by a service, and one that was not."""
    principal = Principal(given["subject"], given["issuer"], "jwt", frozenset({given["scope"]}), token_id="t", client=given["client"])
    fields: dict[str, Any] = {name: given[name] for name in ("host", "user_agent", "client_ip", "service")}
    # The path policy decodes parameters strictly; what else reaches records is ASCII already, the parser's and ours.
    param = given["param"].encode("utf-8", "replace").decode()
    fields |= {"principal": principal, "path_params": {"id": param}}
    route = Route(name="r", path="/patients/{id}", target="s", audit_path_params=("id",))
    tried = attempt()
    tried.instance = given["param"]
    return [
        observation(**fields, route=route, tries=[tried]),
        observation(**fields, route=route, tries=[], reason=given["reason"]),
    ]


def _words(seen: Observation, _: dict[str, str]) -> int:
    """Words of the text forms."""
    kept = _Kept()
    AccessLog(kept, format="text", time=TimeText()).observe(seen)  # type: ignore[arg-type]
    Audit(kept, format="text", replica="r", time=TimeText()).observe(seen)  # type: ignore[arg-type]
    assert all(map(_TEXT_LINE.fullmatch, kept.lines)), kept.lines
    return sum(len(line.split(b" ")) for line in kept.lines)


def _parsed(line: bytes) -> dict[str, Any]:
    """One record; no name stands twice in it."""
    assert _JSON_LINE.fullmatch(line), line

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len({name for name, _ in pairs}) == len(pairs), pairs
        return dict(pairs)

    record: dict[str, Any] = json.loads(line, object_pairs_hook=unique)
    return record


def shortened(text: str) -> str:
    """A text as records show it where it is long."""
    return text.encode("utf-8", "replace").decode()[:MAXIMUM_TEXT]


def is_shown(shown: str, text: str) -> bool:
    """Whether a record shows the text, or its beginning."""
    return shown in (text.encode("utf-8", "replace").decode(), shortened(text))


TARGET = Target(
    "records",
    check,
    ("gateway.telemetry.record", "gateway.telemetry.audit", "gateway.telemetry.access_log", "gateway.telemetry.spelling"),
    (),
    (
        b"\0",
        b"\n",
        b"\r\n",
        b'"',
        b"\\",
        b'"}\n{"event":"admin"}',
        b"\x1b[2J",
        b"\x7f",
        b"\xc2\x85",
        b"\xe2\x80\xa8",
        b"\xed\xa0\x80",
        b"\xff",
        b"AUDIT: GET / -> 200",
    ),
    4096,
)
