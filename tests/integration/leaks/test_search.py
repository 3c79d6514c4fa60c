"""The search itself: it finds a canary in whatever spelling, and nothing that is not there."""

from __future__ import annotations

import base64
import json
import urllib.parse

import pytest

from tests.support.canaries import Canary, leaks

CANARY = Canary("a test")
TEXT = CANARY.text
SPELLED = {
    "as it is": TEXT,
    "in upper case": TEXT.upper(),
    "cut at its end": TEXT[:14],
    "cut at its beginning": TEXT[6:],
    "percent-encoded": "".join(f"%{ord(letter):02X}" for letter in TEXT),
    "hexadecimal": TEXT.encode().hex(),
    "escaped in JSON": "".join(f"\\u{ord(letter):04x}" for letter in TEXT),
    "escaped in Python": "".join(f"\\x{ord(letter):02x}" for letter in TEXT),
    "Basic credentials": base64.b64encode(f"user:{TEXT}".encode()).decode(),
    "a claim of a token": base64.urlsafe_b64encode(json.dumps({"email": TEXT}).encode()).decode(),
    "in a form": urllib.parse.urlencode({"name": f"{TEXT} ä"}),
}


@pytest.mark.parametrize("spelled", SPELLED.values(), ids=SPELLED.keys())
@pytest.mark.parametrize("before", ["", "a", "ab", "abc"])
def test_it_is_found_in_any_spelling(spelled: str, before: str) -> None:
    """O4: the search can fail."""
    (found,) = leaks("log", f"{before}{spelled}...".encode(), [CANARY, Canary("another")])
    assert found.startswith("log: a test (")


@pytest.mark.parametrize("length", range(0, 5))
def test_base64_is_found_wherever_it_begins(length: int) -> None:
    """O4."""
    data = base64.b64encode(b"x" * length + TEXT.encode() + b"y" * 7)
    assert leaks("log", data, [CANARY])


def test_what_is_not_there_is_not_found() -> None:
    assert leaks("log", b"0123456789abcdef" * 10_000, [CANARY]) == []


def test_a_sink_that_is_meant_to_tell_it_may() -> None:
    told = Canary("User-Agent", told=("audit*",))
    assert leaks("audit", told.text.encode(), [told]) == []
    assert leaks("spans", told.text.encode(), [told])
