"""Audit files as somebody may have left them, for `gateway audit verify` (SPEC O6, G4)."""

from __future__ import annotations

from gateway.telemetry.chain import GENESIS, seal
from gateway.telemetry.verification import Verification, heads
from tests.fuzz.target import Target

#: Each of 500 characters may be escaped in ten.
_LONGEST_FINDING = 6000


def check(data: bytes) -> None:
    """Records that are still to be sealed, after an empty line those of another file, then checkpoints; as they are, and sealed.

    Nothing raises; what is told is a bounded line each that can't drive a terminal, the same when it is read again.
    """
    first, _, rest = data.partition(b"\n\n")
    second, _, checkpoints = rest.partition(b"\n\n")
    check_files(first, second, checkpoints)
    check_files(sealed(first), sealed(second), sealed(checkpoints))


def sealed(content: bytes) -> bytes:
    """The lines as one chain."""
    return b"".join(seal((line + b"\n" for line in content.split(b"\n") if line.endswith(b"}")), GENESIS)[0])


def check_files(first: bytes, second: bytes, checkpoints: bytes) -> None:
    """That they can be judged."""
    told = [judged(first, second, checkpoints) for _ in range(2)]
    assert told[0] == told[1]
    for line in told[0]:
        assert line.isprintable(), line
        assert len(line) <= _LONGEST_FINDING, line
    heads(first.splitlines(keepends=True))


def judged(first: bytes, second: bytes, checkpoints: bytes) -> list[str]:
    """What `gateway audit verify` would print."""
    verification = Verification()
    for name, content in (("a.jsonl", first), ("b.jsonl", second)):
        verification.read(name, content.splitlines(keepends=True))
    verification.expect_checkpoints("c.jsonl", checkpoints.splitlines(keepends=True))
    findings = [str(finding) for finding in verification.judge()]
    return [*findings, *map(str, verification.chains.values())]


TARGET = Target(
    "audit_files",
    check,
    ("gateway.telemetry.verification", "gateway.telemetry.chain"),
    (),
    (
        b'{"time":"',
        b'"seq":1,',
        b'"replica":"a"',
        b'"event":"checkpoint"',
        b'"event":"start"',
        b'"event":"stop"',
        b'"prev":"',
        b'"hash":"',
        b"\n\n",
        b"\n",
    ),
    4096,
)
