"""Which header fields cross the gateway, pure functions on lists of (lower-case name, value).

One pass over a request's fields sorts them: what is forwarded as it came becomes wire lines, what the gateway itself needs or manages is
kept aside. Hop-by-hop fields go both ways (RFC 9110 section 7.6.1); fields that we manage are never taken from a client, whatever their
spelling (names with an underscore are dropped, because upstreams fold `_` into `-`; see `may_pass`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from gateway.errors import BadGateway, MalformedMessage

FieldList = list[tuple[bytes, bytes]]

HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"http2-settings",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)

#: Fields that only we may set towards an upstream (CONTRACT section 5), and forwarding fields that are rebuilt by trust. `x-original-url`
#: and `x-rewrite-url` are read by some frameworks as the path, instead of the one that was authorized.
MANAGED = frozenset(
    (
        b"baggage",
        b"client-cert",
        b"client-cert-chain",
        b"forwarded",
        b"traceparent",
        b"tracestate",
        b"x-auth-issuer",
        b"x-auth-scopes",
        b"x-auth-subject",
        b"x-client-cert-fingerprint",
        b"x-client-cert-issuer",
        b"x-client-cert-san",
        b"x-client-cert-subject",
        b"x-forwarded-client-cert",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-port",
        b"x-forwarded-prefix",
        b"x-forwarded-proto",
        b"x-forwarded-server",
        b"x-original-url",
        b"x-real-ip",
        b"x-request-id",
        b"x-rewrite-url",
    )
)

#: Fields that `Connection` can't have removed, in either direction: framing, routing, credentials, and what browsers and caches rely on
#: (CVE-2024-45410 and its kin). Managed fields are safe because they are set after the removal.
PROTECTED = frozenset(
    (
        b"authorization",
        b"cache-control",
        b"content-encoding",
        b"content-length",
        b"content-security-policy",
        b"content-type",
        b"cookie",
        b"host",
        b"origin",
        b"set-cookie",
        b"strict-transport-security",
        b"vary",
        b"www-authenticate",
        b"x-content-type-options",
        b"x-frame-options",
    )
)

#: Statuses whose responses have no body, whatever their fields say (RFC 9110 section 6.4.1).
BODILESS = frozenset((204, 304))

#: Forwarded as they came, and read by us on the way.
READ = frozenset((b"authorization", b"content-length", b"expect", b"host", b"origin", b"user-agent", b"via"))

#: Response fields of an upstream that we answer for ourselves, framing among them. `server` would tell what runs behind us.
RESPONSE_DROPPED = HOP_BY_HOP | {b"content-length", b"server", b"x-request-id"}

#: How a gateway calls itself in Via, and how often a request may have been here; more is a loop (RFC 9110 section 7.6.3).
PSEUDONYM = b"hms-gateway"
MAX_PASSAGES = 10

_PASS, _KEEP, _ASIDE, _DROP = range(4)
_UNDERSCORE = ord("_")
#: Names of fields that clients sent, remembered with what becomes of them, and the longest among them.
MAX_KNOWN_NAMES = 1024
MAX_KNOWN_NAME_BYTES = 64

#: Everything but letters and digits becomes a dash: CGI and its heirs see no difference between such names.
_FOLDED = bytes(byte if chr(byte).isalnum() and byte < 0x80 else ord("-") for byte in range(256))
_MANAGED_PREFIXES = (b"x-forwarded-", b"x-client-cert-")
_NEVER_ALIASED = MANAGED | PROTECTED | HOP_BY_HOP


def may_pass(name: bytes) -> bool:
    """Whether a client may send a field of this lower-case name to an upstream, or to an application of this process.

    Not a managed one (SPEC H3), nor any other of `X-Forwarded-` or `X-Client-Cert-`; not with an underscore; and no spelling that folds
    into a field that something rests on, such as `x.auth.subject`.
    """
    folded = name.translate(_FOLDED)
    if _UNDERSCORE in name or folded.startswith(_MANAGED_PREFIXES):
        return False
    return name not in MANAGED if folded == name else folded not in _NEVER_ALIASED


class RequestFields:
    """The fields of one request, sorted.

    Args:
        lines: wire lines to forward, in order, with framing and managed fields left out.
        found: fields that we read, by name; the first of each.
        repeated: further lines of those names, in order.
        recall: tells whether the credentials among them are still known; the pipeline's. Fields live as long as a client repeats them.
    """

    __slots__ = ("found", "lines", "recall", "repeated")

    def __init__(self) -> None:
        self.recall: Callable[[], Any] | None = None
        self.lines: list[bytes] = []
        self.found: dict[bytes, bytes] = {}
        self.repeated: FieldList = []

    def all(self, name: bytes) -> list[bytes]:
        """Every value of a field that we read, in order."""
        first = self.found.get(name)
        if first is None:
            return []
        return [first] + [value for other, value in self.repeated if other == name]

    def with_host(self, host: bytes) -> RequestFields:
        """These fields with a target's own authority in the place of Host (RFC 9112 section 3.2.2)."""
        fields = self.with_line(b"host", host)
        fields.found = {**self.found, b"host": host}
        return fields

    def with_line(self, name: bytes, value: bytes) -> RequestFields:
        """These fields with another value of one that is forwarded."""
        fields = self.without(name)
        fields.lines.insert(0, b"%b: %b\r\n" % (name, value))
        return fields

    def without(self, name: bytes) -> RequestFields:
        """These fields, one of which is not forwarded."""
        fields = RequestFields()
        fields.found = self.found
        fields.repeated = self.repeated
        fields.lines = [line for line in self.lines if not line.startswith(name + b":")]
        return fields


class FieldTable:
    """Sorts request fields by a table that is built once.

    Args:
        credentials: further fields that carry credentials for us and are not forwarded, such as `x-api-key`.
    """

    def __init__(self, credentials: Iterable[bytes] = ()) -> None:
        table = dict.fromkeys(HOP_BY_HOP | MANAGED | frozenset(credentials), _ASIDE)
        table.update(dict.fromkeys(READ, _KEEP))
        table[b"content-length"] = _ASIDE
        self._table = table
        self._most_names = len(table) + MAX_KNOWN_NAMES

    def sort(self, headers: FieldList) -> RequestFields:
        """Sort the fields of a request.

        Raises:
            MalformedMessage: more than one Host.
            BadGateway: the request has been here before, again and again.
        """
        fields = RequestFields()
        kind_of, line, found = self._table.get, fields.lines.append, fields.found
        for field in headers:
            name = field[0]
            kind = kind_of(name)
            if kind is None:
                kind = self._learn(name)
            if kind == _PASS:
                line(b"%b: %b\r\n" % field)
                continue
            if kind == _DROP:
                continue
            # White space around a value is no part of it (RFC 9112 section 5.1); the parser leaves what trails.
            value = field[1].rstrip(b" \t")
            if name in found:
                fields.repeated.append((name, value))
            else:
                found[name] = value
            if kind == _KEEP:
                line(b"%b: %b\r\n" % (name, value))
        if fields.repeated:
            refuse_repeated(fields.repeated)
        connection = found.get(b"connection")
        if connection is not None and (connection not in _PLAIN_CONNECTION or fields.repeated):
            remove_named(fields)
        if b"via" in found:
            refuse_loop(fields.all(b"via"))
        return fields

    def _learn(self, name: bytes) -> int:
        """What becomes of a field that isn't in the table. Clients send few different ones, so it is put there; some send many."""
        kind = _PASS if may_pass(name) else _DROP
        if len(self._table) < self._most_names and len(name) <= MAX_KNOWN_NAME_BYTES:
            self._table[name] = kind
        return kind


_PLAIN_CONNECTION = frozenset((b"keep-alive", b"close", b"Keep-Alive", b"Close"))


def refuse_repeated(repeated: FieldList) -> None:
    """Refuse what must stand once (RFC 9112 section 3.2).

    Raises:
        MalformedMessage: a second Host line.
    """
    for name, _ in repeated:
        if name == b"host":
            raise MalformedMessage("The request has more than one Host field.", reason="host_repeated")


def refuse_loop(via: list[bytes]) -> None:
    """Refuse what comes back to us again and again (RFC 9110 section 7.6.3). A few gateways in a row share our name, so once is no loop.

    Raises:
        BadGateway: there is a loop.
    """
    if sum(value.count(PSEUDONYM) for value in via) > MAX_PASSAGES:
        raise BadGateway(reason="loop")


def connection_options(values: Iterable[bytes]) -> set[bytes]:
    """The lower-case options of all Connection lines."""
    return {option.strip().lower() for value in values for option in value.split(b",")} - {b""}


def remove_named(fields: RequestFields) -> None:
    """Remove from the forwarded lines what Connection names, except what it may never remove."""
    named = connection_options(fields.all(b"connection")) - PROTECTED
    prefixes = tuple(name + b":" for name in named)
    if prefixes:
        fields.lines[:] = [line for line in fields.lines if not line.startswith(prefixes)]


def request_body_length(fields: RequestFields) -> int | None:
    """Size of a request's body in bytes; 0 when it has none, None when it is chunked (RFC 9112 section 6.3).

    Raises:
        MalformedMessage: framing that two parsers could read differently.
    """
    length = fields.found.get(b"content-length")
    coding = fields.found.get(b"transfer-encoding")
    if coding is not None:
        if length is not None:
            raise MalformedMessage("The request has both Transfer-Encoding and Content-Length.", reason="framing_conflict")
        if coding.strip(b" \t").lower() != b"chunked" or len(fields.all(b"transfer-encoding")) > 1:
            raise MalformedMessage("The only transfer coding accepted is chunked.", reason="transfer_encoding")
        return None
    if length is None:
        return 0
    if not length.isdigit() or len(length) > 19 or len(fields.all(b"content-length")) > 1:
        raise MalformedMessage("Content-Length is not a single decimal number.", reason="content_length")
    return int(length)


def field_lines(fields: Mapping[str, str]) -> bytes:
    """Wire lines of configured fields."""
    return b"".join(b"%b: %b\r\n" % (name.lower().encode("ascii"), value.encode("latin-1")) for name, value in fields.items())


def application_fields(headers: FieldList, ours: bytes) -> FieldList:
    """The fields that an application of this process gets: like an upstream's, but with framing and hop-by-hop fields left as they came.

    Args:
        ours: wire lines of the fields that we set.
    """
    kept = [field for field in headers if may_pass(field[0])]
    return kept + parse_lines(ours)


def response_fields(headers: FieldList, dropped: frozenset[bytes] = RESPONSE_DROPPED) -> FieldList:
    """What of an upstream's response fields goes to the client: end-to-end ones, in order, framing left out."""
    kept: FieldList = []
    keep = kept.append
    named: set[bytes] | None = None
    for field in headers:
        name = field[0]
        if name not in dropped:
            keep(field)
        elif name == b"connection" and field[1] not in _PLAIN_CONNECTION:
            # It names more of them.
            named = (named or set()) | connection_options((field[1],))
    if named:
        named -= PROTECTED
        return [field for field in kept if field[0] not in named]
    return kept


def identity_lines(subject: str, issuer: str, scopes: Iterable[str]) -> bytes:
    """`X-Auth-*` lines of a principal. The values were checked when the token was verified; what Latin-1 can't say is sent as UTF-8."""
    fields = ((b"x-auth-subject", subject), (b"x-auth-scopes", " ".join(sorted(scopes))), (b"x-auth-issuer", issuer))
    return b"".join(b"%b: %b\r\n" % (name, value.encode("utf-8")) for name, value in fields)


_REMAINING = re.compile(rb";r=(\d+)")


def merge_limits(ours: bytes, upstream: FieldList) -> tuple[bytes, FieldList]:
    """One set of RateLimit fields for the client: the upstream's own, unless ours are as strict.

    Args:
        ours: our wire lines.
        upstream: its response fields.

    Returns:
        our lines and its fields, one of them without RateLimit.
    """
    for name, _ in upstream:
        if name in _RATE_LIMIT:
            break
    else:
        return ours, upstream
    theirs = [int(found) for name, value in upstream if name == b"ratelimit" for found in _REMAINING.findall(value)]
    if theirs and min(theirs) < min(map(int, _REMAINING.findall(ours)), default=0):
        return b"", upstream
    return ours, [field for field in upstream if field[0] not in _RATE_LIMIT]


_RATE_LIMIT = frozenset((b"ratelimit", b"ratelimit-policy"))


def collector(collected: FieldList) -> Callable[[bytes, bytes], None]:
    """What a parser calls for each field: it adds (lower-case name, value) to a list. A closure, because that is the quickest call."""
    append = collected.append

    def on_header(name: bytes, value: bytes) -> None:
        append((name.lower(), value))

    return on_header


def wire_bytes(fields: FieldList) -> int:
    """Bytes that fields take in a message's head, with colons, spaces and line ends."""
    return sum(len(name) + len(value) + 4 for name, value in fields)


def parse_lines(block: bytes) -> FieldList:
    """The fields of wire lines that we built ourselves."""
    return [(name, value) for line in block.split(b"\r\n") if line for name, _, value in (line.partition(b": "),)]
