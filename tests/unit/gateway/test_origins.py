"""Which origins are the same, and of which host."""

from __future__ import annotations

import pytest

from gateway.origins import names_host, normal


@pytest.mark.parametrize(
    ("origin", "triple"),
    [
        ("https://app.example.gov", ("https", "app.example.gov", 443)),
        ("https://app.example.gov:443", ("https", "app.example.gov", 443)),
        ("http://APP.example.gov", ("http", "app.example.gov", 80)),
        ("http://[2001:db8::1]:8080", ("http", "2001:db8::1", 8080)),
        ("null", None),
        ("", None),
        ("https://", None),
        ("https://app.example.gov/", None),
        ("https://app.example.gov?x", None),
        ("https://user@app.example.gov", None),
        ("https://app.example.gov:port", None),
        ("https://app.example.gov:99999", None),
        ("https://[app", None),
        ("file:///tmp/page.html", None),
        ("app.example.gov", None),
    ],
)
def test_an_origin_is_a_scheme_a_host_and_a_port(origin: str, triple: tuple[str, str, int] | None) -> None:
    """H8 (RFC 6454 section 4)."""
    assert normal(origin) == triple


@pytest.mark.parametrize(
    ("origin", "host", "same"),
    [
        ("https://a.example", "a.example", True),
        ("https://a.example", "a.example:443", True),
        ("http://a.example", "A.example", True),
        ("http://a.example:8080", "a.example:8080", True),
        ("http://[::1]:8080", "[::1]:8080", True),
        ("https://a.example", "a.example:80", False),
        ("https://a.example", "b.example", False),
        ("https://a.example.evil.example", "a.example", False),
        ("null", "a.example", False),
        ("null", "null", False),
        ("https://a.example", "", False),
    ],
)
def test_an_origin_is_of_a_host(origin: str, host: str, same: bool) -> None:
    """H8 (RFC 6455 section 10.2)."""
    assert names_host(origin, host) is same
