"""Which fields cross the gateway."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BadGateway, MalformedMessage
from gateway.headers import (
    HOP_BY_HOP,
    MANAGED,
    MAX_KNOWN_NAMES,
    MAX_PASSAGES,
    PROTECTED,
    FieldList,
    FieldTable,
    application_fields,
    connection_options,
    field_lines,
    identity_lines,
    may_pass,
    merge_limits,
    parse_lines,
    request_body_length,
    response_fields,
)

HOST = (b"host", b"a")
names = st.text("abcdefgh-_", min_size=1, max_size=12).map(str.encode) | st.sampled_from(sorted(MANAGED | HOP_BY_HOP | PROTECTED))
values = st.binary(max_size=12).map(lambda value: value.translate(None, b"\x00\r\n"))


def forwarded(*headers: tuple[bytes, bytes]) -> FieldList:
    return parse_lines(b"".join(FieldTable().sort([HOST, *headers]).lines))


@given(st.lists(st.tuples(names.filter(lambda name: name != b"host"), values)))
def test_no_client_can_get_a_managed_or_hop_by_hop_field_through(headers: FieldList) -> None:
    """H2, H3, S-14: whatever else is in the request, and whatever Connection names."""
    lines = FieldTable().sort([HOST, *headers]).lines
    passed = {line.partition(b":")[0] for line in lines}
    assert not passed & (MANAGED | HOP_BY_HOP | {b"content-length"})
    assert not any(b"_" in name for name in passed)


@given(st.lists(st.tuples(names, values)))
def test_end_to_end_fields_pass_in_order(headers: FieldList) -> None:
    """S-11: order and repetition are kept when no Connection field names anything."""
    plain = [field for field in headers if field[0] not in MANAGED | HOP_BY_HOP | {b"content-length", b"host"} and b"_" not in field[0]]
    lines = FieldTable().sort(plain).lines
    assert lines == [
        b"%b: %b\r\n" % (name, value.rstrip(b" \t") if name in (b"authorization", b"origin") else value) for name, value in plain
    ]


def test_connection_removes_what_it_names_but_nothing_protected() -> None:
    """H2, S-7a: on all its lines, in any case."""
    named = b"X-One, Host,Authorization , cookie"
    kept = forwarded(
        (b"connection", named), (b"x-one", b"1"), (b"authorization", b"t"), (b"cookie", b"c"), (b"connection", b"X-TWO"), (b"x-two", b"2")
    )
    assert kept == [HOST, (b"authorization", b"t"), (b"cookie", b"c")]


def test_credentials_of_ours_are_not_forwarded() -> None:
    """CONTRACT section 4: an API key is for the gateway."""
    fields = FieldTable([b"x-api-key"]).sort([HOST, (b"x-api-key", b"k")])
    assert fields.lines == [b"host: a\r\n"]
    assert fields.found[b"x-api-key"] == b"k"


def test_a_second_host_is_refused() -> None:
    """H1 (RFC 9112 section 3.2)."""
    with pytest.raises(MalformedMessage):
        FieldTable().sort([HOST, HOST])


def test_every_line_of_a_field_that_we_read_is_there() -> None:
    """S-31: several credentials can be seen."""
    fields = FieldTable().sort([(b"authorization", b"a"), HOST, (b"authorization", b"b")])
    assert (fields.all(b"authorization"), fields.all(b"origin")) == ([b"a", b"b"], [])


def test_another_host_takes_the_place_of_the_first_without_touching_it() -> None:
    """S-6: the fields of a connection are shared by its requests."""
    fields = FieldTable().sort([(b"a", b"1"), HOST, (b"b", b"2")])
    other = fields.with_host(b"b:81")
    assert (other.found[b"host"], other.lines) == (b"b:81", [b"host: b:81\r\n", b"a: 1\r\n", b"b: 2\r\n"])
    assert (fields.found[b"host"], fields.lines[1]) == (b"a", b"host: a\r\n")


@pytest.mark.parametrize(
    "name", [b"x.auth.subject", b"x~forwarded~for", b"x_a", b"x-forwarded-anything", b"content.length", b"x-original-url", b"x-rewrite-url"]
)
def test_a_name_that_something_folds_into_one_of_ours_is_dropped(name: bytes) -> None:
    """H3, S-12a, S-14."""
    assert not may_pass(name)
    assert FieldTable().sort([HOST, (name, b"1")]).lines == [b"host: a\r\n"]


@pytest.mark.parametrize("name", [b"x.trace", b"x-a", b"accept", b"x-auth", b"forwarded-for", b"x!"])
def test_a_name_that_folds_into_none_of_ours_passes(name: bytes) -> None:
    """S-11."""
    assert may_pass(name)


def test_only_so_many_names_are_remembered() -> None:
    """F-40: a client that invents names fills no memory, and what becomes of them stays the same."""
    table = FieldTable()
    for number in range(MAX_KNOWN_NAMES + 10):
        table.sort([(b"x-%d" % number, b"1"), (b"y_%d" % number, b"1")])
    assert len(table._table) <= MAX_KNOWN_NAMES + len(FieldTable()._table)
    assert table.sort([(b"x-new", b"1"), (b"y_new", b"1"), (b"z" * 100, b"1")]).lines == [b"x-new: 1\r\n", b"z" * 100 + b": 1\r\n"]


def test_a_second_line_of_connection_names_fields_as_well() -> None:
    """H2, S-7 (RFC 9110 section 5.3): also where the first one is a plain option."""
    fields = FieldTable().sort([HOST, (b"connection", b"close"), (b"connection", b"X-A"), (b"x-a", b"1")])
    assert fields.lines == [b"host: a\r\n"]


def test_a_request_that_was_here_again_and_again_is_refused() -> None:
    """S-10 (RFC 9110 section 7.6.3)."""
    passage = (b"via", b"1.1 hms-gateway, 1.1 other")
    assert FieldTable().sort([HOST, *[passage] * MAX_PASSAGES]).lines[1:] == [b"via: 1.1 hms-gateway, 1.1 other\r\n"] * MAX_PASSAGES
    with pytest.raises(BadGateway):
        FieldTable().sort([HOST, *[passage] * (MAX_PASSAGES + 1)])


@pytest.mark.parametrize(
    ("headers", "length"),
    [
        ([], 0),
        ([(b"content-length", b"0")], 0),
        ([(b"content-length", b"12 ")], 12),
        ([(b"transfer-encoding", b"chunked")], None),
        ([(b"transfer-encoding", b"CHUNKED \t")], None),
    ],
)
def test_framing_that_has_one_reading(headers: FieldList, length: int | None) -> None:
    """RFC 9112 section 6.3."""
    assert request_body_length(FieldTable().sort(headers)) == length


@pytest.mark.parametrize(
    "headers",
    [
        [(b"content-length", b"5"), (b"transfer-encoding", b"chunked")],
        [(b"content-length", b"5"), (b"content-length", b"5")],
        [(b"transfer-encoding", b"chunked"), (b"transfer-encoding", b"chunked")],
        *([(b"content-length", value)] for value in (b"", b"+5", b"-0", b"0x5", b"5_0", b"5,5", b"1" * 20, b"\xd9\xa5")),
        *([(b"transfer-encoding", value)] for value in (b"", b"gzip", b"gzip, chunked", b"chunked, gzip", b"chunked;q=1", b"\x0bchunked")),
    ],
)
def test_framing_that_two_parsers_could_read_differently_is_refused(headers: FieldList) -> None:
    """S-1, S-2."""
    with pytest.raises(MalformedMessage):
        request_body_length(FieldTable().sort(headers))


def test_a_response_loses_what_is_its_hops_and_what_is_ours() -> None:
    """H2, H11: also what its Connection names, but no protection."""
    headers = [
        (b"server", b"s"),
        (b"connection", b"X-Hop, Set-Cookie"),
        (b"x-hop", b"1"),
        (b"content-length", b"5"),
        (b"set-cookie", b"a"),
        (b"x-request-id", b"theirs"),
        (b"set-cookie", b"b"),
        (b"transfer-encoding", b"chunked"),
        (b"x-end", b"1"),
    ]
    assert response_fields(headers) == [(b"set-cookie", b"a"), (b"set-cookie", b"b"), (b"x-end", b"1")]


def test_an_application_gets_managed_fields_from_us_only() -> None:
    """S-12a: under no spelling."""
    headers = [HOST, (b"x-auth-subject", b"evil"), (b"x_auth_subject", b"evil"), (b"content-length", b"5")]
    assert application_fields(headers, b"x-auth-subject: alice\r\n") == [HOST, (b"content-length", b"5"), (b"x-auth-subject", b"alice")]


def test_connection_options_are_lower_case_and_never_empty() -> None:
    """RFC 9110 section 7.6.1."""
    assert connection_options([b"Close, , X-A ", b"", b"x-b"]) == {b"close", b"x-a", b"x-b"}


def test_identity_lines_say_who_is_asking() -> None:
    """CONTRACT section 5: scopes in one order, text outside Latin-1 as UTF-8."""
    assert identity_lines("é€", "iss", frozenset(("b", "a"))) == (
        b"x-auth-subject: \xc3\xa9\xe2\x82\xac\r\nx-auth-scopes: a b\r\nx-auth-issuer: iss\r\n"
    )


def test_configured_fields_become_lines() -> None:
    """CONTRACT section 4: `request_headers: {set: ...}`."""
    assert field_lines({"X-A": "1", "X-B": "é"}) == b"x-a: 1\r\nx-b: \xe9\r\n"


@pytest.mark.parametrize(
    ("theirs", "ours_stay"), [(b'"u";r=1;t=1', False), (b'"u";r=50;t=1', True), (b"nonsense", True), (b'"u";r=5, "v";r=90', False)]
)
def test_the_stricter_limit_is_told(theirs: bytes, ours_stay: bool) -> None:
    """SPEC section 1: one set of RateLimit fields."""
    ours = b'ratelimit: "x";r=37;t=2\r\n'
    lines, fields = merge_limits(ours, [(b"ratelimit", theirs), (b"ratelimit-policy", b"p"), (b"x", b"1")])
    assert (lines == ours, len(fields)) == ((True, 1) if ours_stay else (False, 3))
