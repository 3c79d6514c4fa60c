"""X.509 certificates as facts: whether a pair of PEM files can serve, and who a client is by its certificate. Pure."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Literal

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from gateway.errors import ConfigError

FileKey = Literal["certificate_file", "key_file", "client_ca_file"]
Purpose = Literal["server", "client"]

#: Key of a client's certificate in what is remembered of a connection's requests; no route can have that name.
CERTIFICATE = " certificate"
#: Clients that are remembered, so that a certificate that comes again and again is read once.
REMEMBERED_CLIENTS = 1024
_PURPOSES = {"server": ExtendedKeyUsageOID.SERVER_AUTH, "client": ExtendedKeyUsageOID.CLIENT_AUTH}
#: What a header's value can't have, and what would look like the end of one name and the start of the next.
_UNSAFE = re.compile(r"[^ -~]|[%,]")
_UNSAFE_IN_NAMES = re.compile(r"[^ -~]|%")


class Unusable(ConfigError):
    """A certificate or a key that can't serve.

    Args:
        key: the configuration's key of the file that is to blame.
        message: what is wrong with it, to follow the file's name.
        allowed: what would be right; may be empty.
    """

    def __init__(self, key: FileKey, message: str, allowed: str = "") -> None:
        super().__init__(f"{key}: {message}")
        self.key = key
        self.message = message
        self.allowed = allowed


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate that fits its key.

    Args:
        not_before, not_after: when it holds, of the whole chain, seconds since the epoch.
        purpose_missing: it says what it is for, and the use that it is meant for here is not among that.
    """

    not_before: float
    not_after: float
    purpose_missing: bool


def read_pair(certificate: bytes, key: bytes, purpose: Purpose) -> Pair:
    """What a PEM chain, our certificate first, and its key are.

    Raises:
        Unusable: one of them is not what it should be, or they don't belong together.
    """
    chain = _certificates(certificate, "certificate_file")
    if _public_bytes(chain[0].public_key()) != _public_part(key):
        raise Unusable("key_file", "is not the key of the certificate in certificate_file", "the key that the certificate was made for")
    return Pair(
        max(each.not_valid_before_utc.timestamp() for each in chain),
        min(each.not_valid_after_utc.timestamp() for each in chain),
        _lacks_purpose(chain[0], purpose),
    )


def check_dates(pair: Pair, now: float) -> None:
    """Whether a pair holds at a time. Raises Unusable."""
    if now > pair.not_after:
        raise Unusable("certificate_file", f"expired at {_time(pair.not_after)}", "one that is valid now")
    if now < pair.not_before:
        raise Unusable("certificate_file", f"is valid from {_time(pair.not_before)} on", "one that is valid now")


def check_authorities(content: bytes) -> None:
    """Whether a file holds certificates to verify others with. Raises Unusable."""
    _certificates(content, "client_ca_file")


def _certificates(content: bytes, key: FileKey) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError as exc:
        raise Unusable(key, "holds no certificate that can be read", "PEM") from exc


def _public_part(key: bytes) -> bytes:
    try:
        loaded = load_pem_private_key(key, None)
    except TypeError as exc:
        raise Unusable("key_file", "is protected by a password", "a key without one, in a file that only we can read") from exc
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise Unusable("key_file", "holds no private key that can be read", "PEM, without a password") from exc
    return loaded.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _public_bytes(key: CertificatePublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _lacks_purpose(certificate: x509.Certificate, purpose: Purpose) -> bool:
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return False
    return _PURPOSES[purpose] not in usage and ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE not in usage


def _time(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# Clients


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """The certificate that a client has shown, and proved to have the key of. It was verified against `server.tls.client_ca_file`.

    Args:
        subject, issuer: distinguished names as RFC 4514 writes them; empty for an empty name.
        uris, dns: subject alternative names of these kinds.
        fingerprint: SHA-256 of the certificate, hexadecimal, lower case.
        not_after: when it expires, seconds since the epoch.
    """

    subject: str
    issuer: str
    uris: tuple[str, ...]
    dns: tuple[str, ...]
    fingerprint: str
    not_after: float

    @property
    def name(self) -> str:
        """What stays the same when the certificate is renewed: its subject, else its first alternative name, else its fingerprint."""
        return self.subject or next(iter((*self.uris, *self.dns)), self.fingerprint)

    @property
    def facts(self) -> Mapping[str, str]:
        """What records show."""
        return {"subject": self.subject, "fingerprint": self.fingerprint}

    def values(self, kind: str) -> tuple[str, ...]:
        """What a rule about `subject`, `uri`, `dns` or `fingerprint` is held against."""
        return {"subject": (self.subject,), "uri": self.uris, "dns": self.dns, "fingerprint": (self.fingerprint,)}[kind]


@lru_cache(maxsize=REMEMBERED_CLIENTS)
def client_certificate(der: bytes) -> ClientCertificate:
    """Who a client is by its certificate.

    Raises:
        ValueError: it can't be read, although OpenSSL could.
    """
    certificate = x509.load_der_x509_certificate(der)
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = x509.SubjectAlternativeName([])
    return ClientCertificate(
        subject=certificate.subject.rfc4514_string(),
        issuer=certificate.issuer.rfc4514_string(),
        uris=tuple(names.get_values_for_type(x509.UniformResourceIdentifier)),
        dns=tuple(names.get_values_for_type(x509.DNSName)),
        fingerprint=sha256(der).hexdigest(),
        not_after=certificate.not_valid_after_utc.timestamp(),
    )


@lru_cache(maxsize=REMEMBERED_CLIENTS)
def certificate_lines(certificate: ClientCertificate) -> bytes:
    """`X-Client-Cert-*` lines (SPEC H13). What is not printable ASCII is percent-encoded, and so are `%`, and `,` within alternative names,
    so that nothing in a certificate can look like another field or another name."""
    names = [*(f"URI:{_encoded(uri)}" for uri in certificate.uris), *(f"DNS:{_encoded(name)}" for name in certificate.dns)]
    fields = (
        ("subject", _encoded(certificate.subject, _UNSAFE_IN_NAMES)),
        ("issuer", _encoded(certificate.issuer, _UNSAFE_IN_NAMES)),
        ("san", ", ".join(names)),
        ("fingerprint", certificate.fingerprint),
    )
    return "".join(f"x-client-cert-{name}: {value}\r\n" for name, value in fields if value).encode("ascii")


def _encoded(text: str, unsafe: re.Pattern[str] = _UNSAFE) -> str:
    return unsafe.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode("utf-8", "surrogatepass")), text)


def distinguished_name(text: str) -> str:
    """A distinguished name as certificates' are written here, from any spelling of RFC 4514. Raises ValueError."""
    return x509.Name.from_rfc4514_string(text).rfc4514_string()
