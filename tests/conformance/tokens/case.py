"""One hostile token: what it is, where it comes from, and how it must end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Case:
    """A token that must be refused.

    Args:
        name: what is wrong with it.
        source: who describes or has had it.
        token: as it would stand after `Bearer `.
        reason: what our records call it; it shows that the token was refused for what is wrong with it, not for an accident.
        code: what the client is told.
    """

    name: str
    source: str
    token: bytes
    reason: str
    code: str = "token_invalid"

    @property
    def fits_a_field(self) -> bool:
        """Whether it can stand in a header field as it is (RFC 9110 section 5.5): others never reach the verifier over HTTP."""
        return bool(self.token) and not any(octet < 0x20 or octet == 0x7F for octet in self.token) and self.token.strip(b" ") == self.token


def table(source: str, reason: str, tokens: Mapping[str, bytes], code: str = "token_invalid") -> Iterable[Case]:
    """Cases that share source and outcome."""
    return [Case(name, source, token, reason, code) for name, token in tokens.items()]
