"""What a request's header fields say, worked out once and kept while a client repeats them.

Clients that keep a connection open send the same fields with each request, but for the path: the same Host, User-Agent and credentials. So
a connection remembers what it made of the last ones; comparing two lists of fields costs a tenth of reading them.
"""

from __future__ import annotations

from typing import Any

from gateway.certificates import CERTIFICATE
from gateway.errors import GatewayError, MalformedMessage
from gateway.headers import FieldList, FieldTable, RequestFields, request_body_length
from gateway.paths import is_authority
from gateway.peer import Peer
from gateway.router import hostname

_MAX_REQUEST_ID_BYTES = 128


class Head:
    """Facts that follow from the fields of a request and from who sent them.

    Args:
        table: sorts the fields; another table reads them anew.
        headers: (lower-case name, value) in order.
        peer: the connection's other end.

    Attributes:
        fields: sorted.
        host: name in the Host field, lower case, without port; "" when there is none.
        body_length: bytes, None when chunked.
        client_ip, user_agent: for the records.
        request_id: what a trusted proxy calls this request; "" otherwise.
        block: wire lines for the upstream: fields that are forwarded, framing, forwarding fields.
        memo: what records spell of requests with this head, by route name.
        refusal: what is wrong with the fields.
    """

    __slots__ = (
        "block",
        "body_length",
        "client_ip",
        "fields",
        "has_host",
        "headers",
        "host",
        "memo",
        "refusal",
        "request_id",
        "table",
        "traced",
        "user_agent",
    )

    def __init__(self, table: FieldTable, headers: FieldList, peer: Peer) -> None:
        self.table = table
        self.headers = headers
        self.host = ""
        self.body_length: int | None = 0
        self.client_ip = peer.ip
        self.user_agent = ""
        self.request_id = ""
        self.block = b""
        self.memo: dict[str, Any] = {}
        self.refusal: GatewayError | None = None
        self.has_host = False
        self.traced = False
        try:
            self.fields = table.sort(headers)
            self._read(peer)
        except GatewayError as error:
            self.fields = RequestFields()
            self.refusal = error

    def _read(self, peer: Peer) -> None:
        found = self.fields.found
        self.client_ip = peer.client_ip(self.fields)
        if peer.certificate is not None:
            self.memo[CERTIFICATE] = peer.certificate
        self.user_agent = found.get(b"user-agent", b"").decode("latin-1")
        self.traced = b"traceparent" in found or b"baggage" in found
        inbound = found.get(b"x-request-id", b"") if peer.trusted else b""
        if 0 < len(inbound) <= _MAX_REQUEST_ID_BYTES and inbound.isascii() and inbound.replace(b"-", b"").isalnum():
            self.request_id = inbound.decode("ascii")
        host = found.get(b"host")
        if host is not None:
            if not is_authority(host):
                raise MalformedMessage("The Host field is not a valid host.", reason="host_invalid")
            self.has_host = True
            self.host = hostname(host.decode("ascii"))
        self.body_length = request_body_length(self.fields)
        self.block = request_block(self.fields, self.body_length, peer)


def request_block(fields: RequestFields, body_length: int | None, peer: Peer, version: bytes = b"1.1") -> bytes:
    """Wire lines for the upstream that do not depend on the route. `version` is that of the HTTP that the request came with."""
    return b"".join(fields.lines) + framing_line(fields, body_length) + peer.forwarding_lines(fields, version)


def framing_line(fields: RequestFields, body_length: int | None) -> bytes:
    """How the body is delimited towards the upstream (RFC 9112 section 6)."""
    if body_length is None:
        return b"transfer-encoding: chunked\r\n"
    if body_length or b"content-length" in fields.found:
        return b"content-length: %d\r\n" % body_length
    return b""
