"""The path policy: what passes unchanged, what is refused, and how targets are split."""

import contextlib
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import MalformedMessage
from gateway.paths import Target, canonical, check_query, is_authority, split_target

PASSED = [
    (b"/", "/"),
    (b"/patients/123", "/patients/123"),
    (b"/patients/", "/patients/"),
    (b"/r4/Patient/_search", "/r4/Patient/_search"),
    (b"/files/report.v2.pdf", "/files/report.v2.pdf"),
    (b"/.well-known/openid-configuration", "/.well-known/openid-configuration"),
    (b"/...", "/..."),
    (b"/..a/b..", "/..a/b.."),
    (b"/file%2ename", "/file.name"),
    (b"/a/%2e%2e%2e", "/a/..."),
    (b"/names/M%C3%BCller%20A", "/names/Müller A"),
    (b"/%61dmin", "/admin"),
    (b"/discount/100%25", "/discount/100%"),
    (b"/discount/100%25/x", "/discount/100%/x"),
    (b"/a%25b", "/a%b"),
    (b"/a%3Fb%23c", "/a?b#c"),
    (b"/a:b@c,d=e+f*(g)!'$&~", "/a:b@c,d=e+f*(g)!'$&~"),
    (b"/sets/{x}|y", "/sets/{x}|y"),
    (b"/%F0%9F%8F%A5", "/\N{HOSPITAL}"),
]

REFUSED = [
    (b"", "path_form"),
    (b"*", "path_form"),
    (b"patients", "path_form"),
    (b"/.", "path_dot_segment"),
    (b"/..", "path_dot_segment"),
    (b"/../", "path_dot_segment"),
    (b"/a/./b", "path_dot_segment"),
    (b"/a/../b", "path_dot_segment"),
    (b"/a/..", "path_dot_segment"),
    (b"/a/%2e/b", "path_dot_segment"),
    (b"/a/%2E%2e/b", "path_dot_segment"),
    (b"/a/.%2e/b", "path_dot_segment"),
    (b"/a/%2e./b", "path_dot_segment"),
    (b"//", "path_empty_segment"),
    (b"//host/a", "path_empty_segment"),
    (b"/a//b", "path_empty_segment"),
    (b"/a//", "path_empty_segment"),
    (b"/a%2fb", "path_encoded_separator"),
    (b"/a%2Fb", "path_encoded_separator"),
    (b"/a/..%2fb", "path_encoded_separator"),
    (b"/a%5cb", "path_encoded_separator"),
    (b"/a%5Cb", "path_encoded_separator"),
    (b"/a\\b", "path_backslash"),
    (b"/a/..\\b", "path_backslash"),
    (b"/admin;x", "path_semicolon"),
    (b"/a/..;/b", "path_semicolon"),
    (b"/admin%3bx", "path_encoded_separator"),
    (b"/admin%3Bx", "path_encoded_separator"),
    (b"/a%00b", "path_control"),
    (b"/a%0d%0aSet-Cookie:x", "path_control"),
    (b"/a%7f", "path_control"),
    (b"/a%1b", "path_control"),
    (b"/a%C2%85", "path_control"),
    (b"/a\x00b", "path_character"),
    (b"/a\tb", "path_character"),
    (b"/a b", "path_character"),
    (b"/a\x7f", "path_character"),
    (b"/a\r\nb", "path_character"),
    (b"/a#b", "path_character"),
    (b"/a?b", "path_character"),
    (b"/M\xc3\xbcller", "path_character"),
    (b"/a\xff", "path_character"),
    (b"/a%", "path_percent"),
    (b"/a%2", "path_percent"),
    (b"/a%zz", "path_percent"),
    (b"/a%u0041", "path_percent"),
    (b"/a%252fb", "path_double_encoding"),
    (b"/a%252e%252e/b", "path_double_encoding"),
    (b"/a%2500", "path_double_encoding"),
    (b"/a%25%32%66", "path_double_encoding"),
    (b"/a%25252f", "path_double_encoding"),
    (b"/a%c0%ae", "path_utf8"),
    (b"/a%c0%af", "path_utf8"),
    (b"/a%e0%80%af", "path_utf8"),
    (b"/a%ff", "path_utf8"),
    (b"/a%C3", "path_utf8"),
    (b"/a%ED%A0%80", "path_utf8"),
    (b"/a%F5%80%80%80", "path_utf8"),
]


@pytest.mark.parametrize(("path", "text"), PASSED)
def test_a_path_with_one_reading_passes(path: bytes, text: str) -> None:
    """H4, S-8: what has a single reading is decoded for routing."""
    assert canonical(path) == text


@pytest.mark.parametrize(("path", "reason"), REFUSED)
def test_an_ambiguous_path_is_refused(path: bytes, reason: str) -> None:
    """H4, S-9: what servers read differently is a 400 that closes the connection and repeats nothing of the path."""
    with pytest.raises(MalformedMessage) as refusal:
        canonical(path)
    assert refusal.value.status == 400
    assert refusal.value.code == "bad_request"
    assert refusal.value.reason == reason
    assert refusal.value.close


# The alphabet of mischief: everything that the policy has a rule for, and little else.
PIECES = st.lists(
    st.sampled_from(
        ["/", ".", "..", "%2e", "%2F", "%5c", "%25", "%00", "%C3%A9", "%c0%af", "a", "b1", ";", "\\", "%", "2f", "//", "#", "é"]
    ),
    max_size=12,
)


@given(PIECES)
def test_a_path_that_passes_means_the_same_to_everybody(pieces: list[str]) -> None:
    """S-9: decoding once or twice, and removing dot segments, changes nothing about a path that passed."""
    path = ("/" + "".join(pieces)).encode()
    try:
        text = canonical(path)
    except MalformedMessage:
        return
    assert text.count("/") == path.count(b"/")
    assert unquote(text, errors="strict") == text
    assert not {".", ".."} & set(text.split("/"))
    assert "" not in text.split("/")[1:-1]
    assert not {"\\", ";", "\x00"} & set(text)


@given(st.binary(max_size=40))
def test_any_bytes_pass_or_are_refused(path: bytes) -> None:
    """S-9: no input raises anything else."""
    with contextlib.suppress(MalformedMessage):
        assert canonical(path).startswith("/")


SPLIT = [
    (b"/a/b?c=d", "GET", Target(None, b"/a/b", b"?c=d")),
    (b"/a", "GET", Target(None, b"/a", b"")),
    (b"/a?", "GET", Target(None, b"/a", b"?")),
    (b"/a?b?c", "GET", Target(None, b"/a", b"?b?c")),
    (b'/?q=%zz&x="|{}`^\\', "GET", Target(None, b"/", b'?q=%zz&x="|{}`^\\')),
    (b"/a/../b", "GET", Target(None, b"/a/../b", b"")),
    (b"http://example.gov/a?b", "GET", Target("example.gov", b"/a", b"?b")),
    (b"HTTP://Example.gov:8080/a", "GET", Target("Example.gov:8080", b"/a", b"")),
    (b"https://example.gov", "GET", Target("example.gov", b"/", b"")),
    (b"http://example.gov?x", "GET", Target("example.gov", b"/", b"?x")),
    (b"http://[2001:db8::1]:80/a", "GET", Target("[2001:db8::1]:80", b"/a", b"")),
    (b"http://example.gov", "OPTIONS", Target("example.gov", b"*", b"")),
    (b"http://example.gov/", "OPTIONS", Target("example.gov", b"/", b"")),
    (b"*", "OPTIONS", Target(None, b"*", b"")),
]


@pytest.mark.parametrize(("target", "method", "expected"), SPLIT)
def test_a_target_is_split_by_its_form(target: bytes, method: str, expected: Target) -> None:
    """H5, S-6: origin, absolute and asterisk form; the authority of the absolute form is reported, bytes stay as they came."""
    assert split_target(target, method) == expected


@pytest.mark.parametrize(
    ("target", "method", "reason"),
    [
        (b"", "GET", "target_form"),
        (b"*", "GET", "target_form"),
        (b"*?x", "OPTIONS", "target_form"),
        (b"a/b", "GET", "target_form"),
        (b"example.gov:443", "CONNECT", "target_form"),
        (b"example.gov:443", "GET", "target_form"),
        (b"http://example.gov/", "CONNECT", "target_form"),
        (b"ftp://example.gov/a", "GET", "target_form"),
        (b"http:/a", "GET", "target_form"),
        (b"http:///a", "GET", "target_authority"),
        (b"http://user@example.gov/a", "GET", "target_authority"),
        (b"http://user:pw@example.gov/a", "GET", "target_authority"),
        (b"http://example.gov:port/a", "GET", "target_authority"),
        (b"http://exa mple.gov/a", "GET", "target_authority"),
        (b"http://exa\\mple.gov/a", "GET", "target_authority"),
        (b"/a?b#c", "GET", "query_character"),
        (b"/a?b c", "GET", "query_character"),
        (b"/a?b\x00", "GET", "query_character"),
        (b"/a?b\r\nx", "GET", "query_character"),
        (b"/a?\xc3\xbc", "GET", "query_character"),
        (b"http://example.gov?b#c", "GET", "query_character"),
    ],
)
def test_a_target_in_no_allowed_form_is_refused(target: bytes, method: str, reason: str) -> None:
    """S-6: forms that a method may not use, bad authorities, and queries with characters that don't belong there."""
    with pytest.raises(MalformedMessage) as refusal:
        split_target(target, method)
    assert refusal.value.reason == reason


@given(st.from_regex(r"\A/[!-\"$->@-~]*(\?[!-\"$-~]*)?\Z"))
def test_an_origin_form_target_is_put_together_again(target: str) -> None:
    """S-8: path and query are the target, byte for byte."""
    split = split_target(target.encode(), "GET")
    assert split.path + split.query == target.encode()


def test_a_query_may_have_every_visible_character_but_the_fragment_mark() -> None:
    """S-8: the query is passed on, not judged."""
    check_query(bytes(byte for byte in range(0x21, 0x7F) if byte != ord("#")))


@pytest.mark.parametrize(
    "value", [b"example.gov", b"example.gov:8080", b"my_service:80", b"127.0.0.1", b"[::1]:8080", b"a:", b"xn--mnchen-3ya.de"]
)
def test_well_formed_authorities(value: bytes) -> None:
    """S-6: what a Host field may say."""
    assert is_authority(value)


@pytest.mark.parametrize(
    "value", [b"", b":80", b"a b", b"a/b", b"a@b", b"a:x", b"a:123456", b"::1", b"[::1", b"a\x00", b"\xc3\xbc.de", b"a,b c", b"a%00"]
)
def test_malformed_authorities(value: bytes) -> None:
    """S-6: what a Host field may not say."""
    assert not is_authority(value)
