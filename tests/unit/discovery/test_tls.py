"""What went wrong with a handshake, in words; and a flood of them is counted, not told one by one."""

from __future__ import annotations

import logging
import ssl

import pytest

from discovery.tls import QUIET_SECONDS, ProtectedKey, TlsFailures, failure_of, handshake_failure, no_password


def verification(code: int) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code = code
    return error


@pytest.mark.parametrize(
    ("code", "reason"),
    [(10, "expired"), (9, "not_yet_valid"), (18, "self_signed"), (20, "unknown_authority"), (26, "wrong_purpose"), (62, "wrong_name")],
)
def test_a_certificate_is_judged_by_openssls_code(code: int, reason: str) -> None:
    """S-39."""
    found = failure_of(verification(code))
    assert found is not None
    assert found[0] == reason


def test_the_reason_is_found_behind_what_was_raised_from_it() -> None:
    """Clients of Redis and HTTP wrap what they get."""
    try:
        try:
            raise verification(10)
        except ssl.SSLError as error:
            raise ConnectionError("can't connect") from error
    except ConnectionError as error:
        found = failure_of(error)
    assert found is not None
    assert found[0] == "expired"
    assert failure_of(ConnectionError("refused")) is None


def test_what_tls_did_not_say_is_a_time_out_or_a_cut() -> None:
    assert handshake_failure(TimeoutError())[0] == "timeout"
    assert handshake_failure(ConnectionResetError())[0] == "cut_off"
    assert handshake_failure(RuntimeError())[0] == "other"


def test_nobody_is_asked_for_a_password() -> None:
    with pytest.raises(ProtectedKey):
        no_password()


def test_a_flood_is_counted_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """S-37, H10: one line for each place and reason in a while, with the number of those that it stands for."""
    now = [0.0]
    failures = TlsFailures(lambda: now[0])
    with caplog.at_level(logging.WARNING):
        told = [failures.note("server", "10.0.0.1", ("expired", "its certificate has expired")) for _ in range(1000)]
        assert told == [1, *[0] * 999]
        failures.note("service", "patients", ("expired", "its certificate has expired"))
        now[0] = QUIET_SECONDS
        assert failures.note("server", "10.0.0.2", ("expired", "its certificate has expired")) == 1000
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        "TLS handshake failed, server, 10.0.0.1: expired: its certificate has expired",
        "TLS handshake failed, service, patients: expired: its certificate has expired",
        "TLS handshake failed, server, 10.0.0.2: expired: its certificate has expired (999 more like it since the last line)",
    ]
    assert dict(failures.counts()) == {("server", "expired"): 1001, ("service", "expired"): 1}
