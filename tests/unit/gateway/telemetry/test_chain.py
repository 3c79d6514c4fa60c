"""What a seal is made of, and what is taken for a sealed record."""

from __future__ import annotations

import contextlib
import hashlib

import pytest

from gateway.telemetry.chain import GENESIS, SEAL_BYTES, NotSealed, seal, unseal

RECORD = b'{"time":"2026-11-23T00:00:01.000000Z","seq":1,"replica":"gw-1","event":"start","detail":{}}\n'
PIECES, HASH = seal([RECORD], GENESIS)
SEALED = b"".join(PIECES)


def test_the_hash_is_that_of_the_line_up_to_it() -> None:
    """O6: SHA-256 over the record as it was written and `prev`; the digest is that of `sha256sum`."""
    hashed = RECORD[:-2] + b',"prev":"' + b"0" * 64 + b'"'
    assert HASH.decode() == hashlib.sha256(hashed).hexdigest() == "614d44d1bc345d4ff2faa7802f1876d1254334fa9443b56f7adf986ab5376bf8"
    assert hashed + b',"hash":"' + HASH + b'"}\n' == SEALED
    assert len(SEALED) == len(RECORD) + SEAL_BYTES


def test_a_record_is_read_as_it_was_sealed() -> None:
    record = unseal(SEALED[:-1])
    assert (record.replica, record.seq, record.event, record.intact) == ("gw-1", 1, "start", True)
    assert (record.prev, record.hash) == ("0" * 64, HASH.decode())


def test_every_changed_byte_is_seen() -> None:
    """O6: an edit, wherever it is."""
    for at in range(len(SEALED) - 1):
        changed = bytearray(SEALED[:-1])
        changed[at] = ord("0") if changed[at] != ord("0") else ord("1")
        with contextlib.suppress(NotSealed):
            assert not unseal(bytes(changed)).intact, at


@pytest.mark.parametrize(
    ("line", "record", "sealed", "is_json"),
    [
        (RECORD[:-1], True, False, True),
        (b'{"method":"GET","status":200}', False, False, True),
        (b"", False, False, False),
        (b"AUDIT: GET /patients/{id} -> 200", False, False, False),
        (SEALED[:-1].replace(b'"seq":1', b'"seq":true'), False, True, True),
        (SEALED[:-1].replace(b'"seq":1', b'"seq":1.0'), False, True, True),
        (SEALED[:-1].replace(b'"replica"', b'"Replica"'), False, True, True),
        (b"x" + SEALED[:-1], False, True, False),
        (SEALED[:-40], False, False, False),
        (b"[1]", False, False, True),
    ],
)
def test_what_is_no_sealed_record_is_told_apart(line: bytes, record: bool, sealed: bool, is_json: bool) -> None:
    """Other lines, records without a seal, and records that were damaged."""
    with pytest.raises(NotSealed) as error:
        unseal(line)
    assert (error.value.record, error.value.sealed, error.value.json) == (record, sealed, is_json)
