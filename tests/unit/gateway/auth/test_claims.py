from __future__ import annotations

from typing import Any

import pytest

from gateway.auth import claims as reading
from gateway.errors import Unauthorized


@pytest.mark.parametrize(
    ("path", "claims", "found"),
    [
        ("roles", {"roles": ["a"]}, ["a"]),
        ("roles", {}, None),
        ("realm_access.roles", {"realm_access": {"roles": ["a"]}}, ["a"]),
        ("realm_access.roles", {"realm_access": "x"}, None),
        ("realm_access.roles", {"realm_access": None}, None),
        ("realm_access.roles", {}, None),
        ("a.b.c", {"a": {"b": {"c": 1}}}, 1),
        ("https://example.gov/roles", {"https://example.gov/roles": ["a"]}, ["a"]),
        ("a.b", {"a.b": 1, "a": {"b": 2}}, 1),
    ],
)
def test_claim_reader_finds_names_and_paths(path: str, claims: dict[str, Any], found: Any) -> None:
    """A2: claims are found by exact name first, then by dotted path."""
    assert reading.claim_reader(path)(claims) == found


@pytest.mark.parametrize("value", ["alice", "Jürgen", "a b", "CN=Doe, O=Agency", "x" * 512])
def test_header_text_is_accepted(value: str) -> None:
    """A2: what comes out of a header field as it went in is fit for one (S-29)."""
    assert reading.is_header_text(value)


@pytest.mark.parametrize(
    "value",
    [
        "",
        " a",
        "a ",
        "a\r\nX-Role: admin",
        "a\nb",
        "a\0b",
        "\x7f",
        "a\x85b",
        "a\u2028b",
        "a\u202eb",
        "a\ud800",
        "\ufeffa",
        "a\tb",
        "x" * 513,
        1,
        True,
        None,
        ["a"],
    ],
)
def test_header_text_is_refused(value: object) -> None:
    """A2: control, format and separator characters, spaces at the ends and other types never reach a header (S-29)."""
    assert not reading.is_header_text(value)


@pytest.mark.parametrize(
    ("value", "scopes"),
    [(None, set()), ("", set()), ("a b", {"a", "b"}), (" a  b ", {"a", "b"}), (["a", "b:c"], {"a", "b:c"}), ([], set())],
)
def test_scopes_come_as_string_or_list(value: object, scopes: set[str]) -> None:
    """A2: `scope` is a space-separated string or a list."""
    assert reading.scopes(value) == scopes


@pytest.mark.parametrize("value", [1, True, {"a": 1}, ["a b"], ["a", 1], [""], ['a"'], ["a\\"], "a\tb", "a\r\nb", "é", ["x" * 257]])
def test_scopes_that_are_none_are_refused(value: object) -> None:
    """A2: a member that is no scope-token can't smuggle a second scope or header in."""
    with pytest.raises(Unauthorized):
        reading.scopes(value)


@pytest.mark.parametrize(
    ("value", "roles"), [(None, set()), ("nurse", {"nurse"}), (["nurse", "Domain Admins"], {"nurse", "Domain Admins"})]
)
def test_roles_come_as_list_or_single_string(value: object, roles: set[str]) -> None:
    """A2: roles are a list; one string is one role, spaces and all."""
    assert reading.roles(value) == roles


@pytest.mark.parametrize("value", [1, {"a": 1}, [1], [["a"]], ["a\n"], [None]])
def test_roles_that_are_none_are_refused(value: object) -> None:
    """A2: roles of another type are a 401."""
    with pytest.raises(Unauthorized):
        reading.roles(value)


@pytest.mark.parametrize("value", [True, False, "1800000000", None, [1], {}, -1, -0.5, 253_402_300_800, 10**20])
def test_numeric_date_is_a_json_number_in_range(value: object) -> None:
    """A2: dates are strict JSON numbers; a bool or a string is none (S-24)."""
    with pytest.raises(Unauthorized):
        reading.numeric_date({"exp": value}, "exp")


def test_numeric_date_may_have_a_fraction_or_be_absent() -> None:
    """A2: RFC 7519 allows fractions of a second."""
    assert reading.numeric_date({"exp": 1.5}, "exp") == 1.5
    assert reading.numeric_date({}, "exp") is None


@pytest.mark.parametrize("value", ["hms", ["hms"], ["x", "hms"]])
def test_audience_has_an_exact_member(value: object) -> None:
    """A2: `aud` is a string or a list with an exact member."""
    assert reading.names_audience(value, frozenset({"hms", "other"}))


@pytest.mark.parametrize("value", [None, "", "HMS", "hms ", "hm", "hms2", "x hms", [], ["x"], [["hms"]], ["hms", 1], {"hms": 1}, 1, True])
def test_audience_without_an_exact_member(value: object) -> None:
    """A2: partial, differently written or mistyped audiences are none (S-25)."""
    assert not reading.names_audience(value, frozenset({"hms"}))


@pytest.mark.parametrize(("value", "token_id"), [("t-1", "t-1"), ("", None), (None, None), (7, None), ("a\nb", None), ("x" * 600, None)])
def test_a_token_id_is_usable_or_none(value: object, token_id: str | None) -> None:
    """S-30: a `jti` that revocation could not name counts as none."""
    assert reading.usable_token_id(value) == token_id
