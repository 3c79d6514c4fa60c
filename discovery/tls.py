"""TLS as a client, and what went wrong with a handshake on either side, in words that operators know.

Pure but for the files that contexts are made of. Both packages use it: Consul is reached from here, everything else from the gateway.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Literal

logger = logging.getLogger("discovery.tls")

#: Whose handshake it was: a client's at the data port, or ours with an instance, a store server, or Consul.
Place = Literal["server", "service", "store", "consul"]

#: Forward secrecy and authenticated encryption only (RFC 9325 section 4.2); TLS 1.3 has nothing else.
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
#: Lines about one reason at one place are at least so far apart: a flood of bad handshakes must not become a flood of lines.
QUIET_SECONDS = 10.0

#: X509_V_ERR_* of OpenSSL's x509_vfy.h -> what it is called in records, and a sentence.
_VERIFICATION: dict[int, tuple[str, str]] = {
    2: ("unknown_authority", "its certificate comes from an authority that is not among those trusted"),
    9: ("not_yet_valid", "its certificate is not valid yet"),
    10: ("expired", "its certificate has expired"),
    18: ("self_signed", "its certificate is self-signed and not among those trusted"),
    19: ("unknown_authority", "its certificate comes from an authority that is not among those trusted"),
    20: ("unknown_authority", "its certificate comes from an authority that is not among those trusted"),
    21: ("unknown_authority", "its certificate comes from an authority that is not among those trusted"),
    24: ("wrong_authority", "its certificate was issued by one that may not issue any"),
    26: ("wrong_purpose", "its certificate is not for this use (extended key usage)"),
    62: ("wrong_name", "its certificate is for another name"),
    64: ("wrong_name", "its certificate is for another address"),
    66: ("weak", "its certificate's key is too weak"),
    67: ("weak", "a key of its certificate's authority is too weak"),
    68: ("weak", "its certificate is signed with a digest that is too weak"),
}
_NOT_TRUSTED = ("not_trusted", "its certificate does not hold")

_NO_CERTIFICATE = ("no_certificate", "it showed no certificate")
#: A certificate that held in the handshake, and that we can't make sense of.
UNREADABLE = ("unreadable", "its certificate can't be read")
#: The reasons that mean that the other side has not proved who it is.
UNPROVED = frozenset(reason for reason, _ in (*_VERIFICATION.values(), _NOT_TRUSTED, _NO_CERTIFICATE, UNREADABLE))
_VERSION = ("protocol_version", "no version of TLS that both allow")
_CIPHER = ("no_common_cipher", "no cipher that both allow")
_HANDSHAKE = ("handshake_failure", "it ended the handshake: no cipher that both allow, or it wants a certificate of us")
_NOT_TLS = ("not_tls", "it does not speak TLS")
_REFUSED = ("refused_by_peer", "it does not accept our certificate, or wants one")
#: Reason codes of OpenSSL's sslerr.h, as Python names them.
_REASONS: dict[str, tuple[str, str]] = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": _NO_CERTIFICATE,
    "UNSUPPORTED_PROTOCOL": _VERSION,
    "TLSV1_ALERT_PROTOCOL_VERSION": _VERSION,
    "VERSION_TOO_LOW": _VERSION,
    "NO_SHARED_CIPHER": _CIPHER,
    "SSLV3_ALERT_HANDSHAKE_FAILURE": _HANDSHAKE,
    "HTTP_REQUEST": _NOT_TLS,
    "HTTPS_PROXY_REQUEST": _NOT_TLS,
    "WRONG_VERSION_NUMBER": _NOT_TLS,
    "PACKET_LENGTH_TOO_LONG": _NOT_TLS,
    "UNKNOWN_PROTOCOL": _NOT_TLS,
    "RECORD_LAYER_FAILURE": _NOT_TLS,
    "TLSV1_ALERT_UNKNOWN_CA": _REFUSED,
    "TLSV1_ALERT_ACCESS_DENIED": _REFUSED,
    "TLSV1_ALERT_DECRYPT_ERROR": _REFUSED,
    "SSLV3_ALERT_BAD_CERTIFICATE": _REFUSED,
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": _REFUSED,
    "SSLV3_ALERT_CERTIFICATE_REVOKED": _REFUSED,
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": _REFUSED,
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": _REFUSED,
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": _REFUSED,
}
_TIMEOUT = ("timeout", "it did not complete the handshake in time")
CUT_OFF = ("cut_off", "it ended the connection during the handshake")
_OTHER = ("other", "the handshake failed")


class ProtectedKey(ValueError):
    """A private key that only its password opens: nobody is there to type it."""


def no_password() -> str:
    """What OpenSSL calls instead of asking at the terminal. Raises ProtectedKey."""
    raise ProtectedKey("the key is protected by a password")


def client_context(ca_file: str = "", certificate_file: str = "", key_file: str = "") -> ssl.SSLContext:
    """A context for connections that we make: TLS 1.2 or newer, certificate and name verified.

    Args:
        ca_file: PEM file of authorities, or of single certificates; the system's authorities when empty.
        certificate_file, key_file: what we show where we are asked for a certificate; nothing when empty.

    Raises:
        OSError, ValueError: a file can't be read, is no PEM of its kind, or the key is not the certificate's.
    """
    context = ssl.create_default_context(cafile=ca_file or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    # What is in the file is trusted, whether or not it is a root.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if certificate_file:
        show(context, certificate_file, key_file)
    return context


def show(context: ssl.SSLContext, certificate_file: str, key_file: str = "") -> None:
    """Have a context answer with a certificate where it is asked for one. Raises OSError and ValueError like `client_context`."""
    context.load_cert_chain(certificate_file, key_file or None, password=no_password)


def failure_of(error: BaseException) -> tuple[str, str] | None:
    """(reason, sentence) when TLS is why something failed, else None. Looks through what an exception was raised from."""
    seen: set[int] = set()
    at: BaseException | None = error
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        if isinstance(at, ssl.SSLCertVerificationError):
            return _VERIFICATION.get(at.verify_code, _NOT_TRUSTED)
        if isinstance(at, ssl.SSLError):
            return _reason(at)
        at = at.__cause__ or at.__context__
    return None


def _reason(error: ssl.SSLError) -> tuple[str, str]:
    known = _REASONS.get(error.reason or "")
    if known is not None:
        return known
    return CUT_OFF if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError) else _OTHER


def handshake_failure(error: BaseException) -> tuple[str, str]:
    """(reason, sentence) of a handshake that failed, whatever the error."""
    if isinstance(error, TimeoutError | ConnectionAbortedError):
        return _TIMEOUT
    return failure_of(error) or (CUT_OFF if isinstance(error, OSError) else _OTHER)


class TlsFailures:
    """Handshakes that failed, of one process: counted for the metrics, and told in the log, though not each of a flood.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._counts: dict[tuple[Place, str], int] = {}
        self._told: dict[tuple[Place, str], tuple[float, int]] = {}

    def counts(self) -> Iterator[tuple[tuple[str, ...], float]]:
        """((place, reason), number)."""
        for key, count in list(self._counts.items()):
            yield key, float(count)

    def note(self, place: Place, who: str, failure: tuple[str, str]) -> int:
        """A handshake with somebody has failed. Returns how many failures the line in the log stands for; 0 when none was written.

        Args:
            who: the other side, for the log: an address, the name of a service.
            failure: reason and sentence; see `failure_of`.
        """
        reason, sentence = failure
        key = (place, reason)
        count = self._counts[key] = self._counts.get(key, 0) + 1
        now = self._clock()
        told_at, told = self._told.get(key, (-QUIET_SECONDS, 0))
        if now - told_at < QUIET_SECONDS:
            return 0
        self._told[key] = (now, count)
        more = f" ({count - told - 1} more like it since the last line)" if count - told > 1 else ""
        logger.warning("TLS handshake failed, %s, %s: %s: %s%s", place, who, reason, sentence, more)
        return count - told


#: For whoever has nobody to tell.
NOBODY = TlsFailures()
