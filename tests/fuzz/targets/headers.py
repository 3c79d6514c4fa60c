"""Which header fields cross the gateway, in both directions (SPEC H2, H3; S-2, S-7, S-12, S-14)."""

from __future__ import annotations

import ipaddress
import re
from collections import Counter

from gateway.errors import GatewayError
from gateway.head import Head
from gateway.headers import HOP_BY_HOP, MANAGED, PROTECTED, FieldList, FieldTable, application_fields, merge_limits, response_fields
from gateway.peer import Peer, TrustedProxies
from tests.fuzz.target import Target, field_lines

#: What we put to a request's fields ourselves, each of them once.
_OURS = (b"via", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-port", b"x-forwarded-host")
_CREDENTIAL = b"x-api-key"
_LINE = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+: [^\x00-\x08\x0a-\x1f\x7f]*")
_PROXIES = TrustedProxies(("10.0.0.0/8", "fc00::/7"))
_STRANGER = Peer("192.0.2.1", 4711, "https", 443, _PROXIES)
_PROXY = Peer("10.0.0.1", 4711, "http", 80, _PROXIES)


def check(data: bytes) -> None:
    """Fields of a request, an empty line, fields of a response.

    A request is refused, or what an upstream gets are the client's end-to-end fields in their order, none that the gateway manages or
    that folds into one, then our own, each once; from a stranger or a proxy, with a table that knows the names or not.
    """
    request, _, response = data.partition(b"\n\n")
    fields = field_lines(request)
    for peer in (_STRANGER, _PROXY):
        table = FieldTable((_CREDENTIAL,))
        first, again = Head(table, fields, peer), Head(table, fields, peer)
        assert _facts(first) == _facts(again)
        if first.refusal is None:
            _check_block(first, fields)
        else:
            assert isinstance(first.refusal, GatewayError)
        assert first.client_ip == peer.ip or (peer is _PROXY and ipaddress.ip_address(first.client_ip))
    kept = {name for name, _ in application_fields(fields, b"")}
    assert not any(_is_managed(name) for name in kept)
    check_response(field_lines(response))


def check_response(fields: FieldList) -> None:
    """The client gets the upstream's end-to-end fields in their order, and one set of RateLimit fields."""
    named = _named(fields)
    dropped = HOP_BY_HOP | {b"content-length", b"server", b"x-request-id"} | (named - PROTECTED)
    expected = [field for field in fields if field[0] not in dropped]
    assert response_fields(fields) == expected
    ours = b'ratelimit: "a";r=5;t=1\r\nratelimit-policy: "a";q=9;w=1\r\n'
    lines, kept = merge_limits(ours, expected)
    assert kept in (expected, [field for field in expected if field[0] not in (b"ratelimit", b"ratelimit-policy")])
    assert lines == b"" or not any(name in (b"ratelimit", b"ratelimit-policy") for name, _ in kept)


def _facts(head: Head) -> tuple[object, ...]:
    return head.block, head.host, head.body_length, head.client_ip, head.request_id, head.user_agent, str(head.refusal)


def _check_block(head: Head, fields: FieldList) -> None:
    assert head.block.endswith(b"\r\n")
    lines = head.block[:-2].split(b"\r\n")
    assert all(map(_LINE.fullmatch, lines)), lines
    sent = [(name, value) for name, _, value in (line.partition(b": ") for line in lines)]
    counts = Counter(name for name, _ in sent)
    # A client's Via stays in front of ours.
    assert all(counts[name] == 1 for name in _OURS if name != b"via")
    framing = [field for field in sent if field[0] in (b"content-length", b"transfer-encoding")]
    assert framing == _expected_framing(head, fields)
    passed = [field for field in sent if field not in framing and field[0] not in _OURS[1:]]
    assert passed.pop()[0] == b"via"
    assert passed == _expected(fields)


def _expected(fields: FieldList) -> FieldList:
    """What a client may send to an upstream, said another way than the table says it."""
    named = _named(fields) - PROTECTED
    expected: FieldList = []
    for name, value in fields:
        ours = _is_managed(name) or name in HOP_BY_HOP or name in (b"content-length", _CREDENTIAL)
        if ours or name in named or b"_" in name:
            continue
        if name in (b"authorization", b"expect", b"host", b"origin", b"user-agent", b"via"):
            value = value.rstrip(b" \t")
        expected.append((name, value))
    return expected


def _expected_framing(head: Head, fields: FieldList) -> FieldList:
    lengths = {value.strip() for name, value in fields if name == b"content-length"}
    if head.body_length is None:
        assert not lengths
        return [(b"transfer-encoding", b"chunked")]
    assert {int(value) for value in lengths} <= {head.body_length}
    return [(b"content-length", b"%d" % head.body_length)] if lengths else []


def _is_managed(name: bytes) -> bool:
    """Whether an upstream could take the name for one that rests on us."""
    folded = re.sub(rb"[^a-z0-9]", b"-", name)
    if b"_" in name or folded in MANAGED or folded.startswith(b"x-forwarded-"):
        return True
    return folded != name and folded in PROTECTED | HOP_BY_HOP


def _named(fields: FieldList) -> set[bytes]:
    """What the Connection fields name."""
    return {option.strip().lower() for name, value in fields if name == b"connection" for option in value.split(b",")}


TARGET = Target(
    "headers",
    check,
    ("gateway.headers", "gateway.head", "gateway.peer"),
    (GatewayError,),
    (
        b"\nhost: a",
        b"\nconnection: ",
        b"\nx-forwarded-for: ",
        b"\nx-forwarded-proto: ",
        b"\nx-auth-subject: ",
        b"\nx.auth.subject: ",
        b"\nx_auth_subject: ",
        b"\ncontent-length: 5",
        b"\ntransfer-encoding: chunked",
        b"\nvia: 1.1 hms-gateway",
        b'\nratelimit: "a";r=1;t=1',
        b"10.0.0.1",
        b"fe80::1%a",
        b"\n\n",
        b"keep-alive",
        b"close",
    ),
)
