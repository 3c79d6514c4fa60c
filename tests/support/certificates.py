"""Certificate authorities of tests, with the good and the hostile certificates that they issue."""

from __future__ import annotations

import datetime
import ipaddress
import itertools
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = datetime.timedelta(days=1)
Purpose = Literal["server", "client"]
#: When a certificate holds, in days from now.
Days = tuple[float, float]
VALID: Days = (-3, 1)
EXPIRED: Days = (-3, -1)
NOT_YET: Days = (1, 3)
_USAGES = {"server": ExtendedKeyUsageOID.SERVER_AUTH, "client": ExtendedKeyUsageOID.CLIENT_AUTH}
_PRIVATE = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)


class Files(NamedTuple):
    """PEM files of a certificate and its key."""

    certificate: Path
    key: Path

    def protected(self, password: bytes) -> Path:
        """The key in another file, which only the password opens."""
        key = serialization.load_pem_private_key(self.key.read_bytes(), None)
        path = self.key.with_suffix(".protected")
        path.write_bytes(key.private_bytes(*_PRIVATE, serialization.BestAvailableEncryption(password)))
        return path

    def put(self, certificate: Path, key: Path) -> None:
        """Write the same into other files, each in one step."""
        for source, target in ((self.certificate, certificate), (self.key, key)):
            fresh = target.with_suffix(".fresh")
            fresh.write_bytes(source.read_bytes())
            fresh.chmod(0o600)
            fresh.rename(target)


class Authority:
    """An authority of its own: its certificate is in `file`."""

    def __init__(self, directory: Path, name: str = "authority") -> None:
        self._directory = directory
        self._name = name
        self._numbers = itertools.count(1)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = _sign(self._subject, self._subject, self._key, self._key, VALID, authority=True)
        self.file = directory / f"{name}.pem"
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        self.key_file = directory / f"{name}.key"
        _write_key(self.key_file, self._key)

    def issue(
        self,
        *hosts: str,
        subject: str = "CN=gateway",
        uris: Sequence[str] = (),
        days: Days = VALID,
        purposes: Sequence[Purpose] = (),
        self_signed: bool = False,
    ) -> Files:
        """A certificate and its key.

        Args:
            hosts: addresses and names that it is for.
            subject: distinguished name; may be empty.
            uris: further alternative names.
            days: when it holds.
            purposes: extended key usage; none is named when empty.
            self_signed: by its own key, not by the authority's.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name.from_rfc4514_string(subject)
        issuer, signer = (name, key) if self_signed else (self._subject, self._key)
        names = [*map(_general_name, hosts), *map(x509.UniformResourceIdentifier, uris)]
        certificate = _sign(name, issuer, key, signer, days, names=names, purposes=purposes)
        stem = self._directory / f"{self._name}-{next(self._numbers)}"
        files = Files(stem.with_suffix(".crt"), stem.with_suffix(".key"))
        files.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        _write_key(files.key, key)
        return files


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _sign(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    days: Days,
    *,
    authority: bool = False,
    names: Sequence[x509.GeneralName] = (),
    purposes: Sequence[Purpose] = (),
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + days[0] * DAY)
        .not_valid_after(now + days[1] * DAY)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if purposes:
        builder = builder.add_extension(x509.ExtendedKeyUsage([_USAGES[purpose] for purpose in purposes]), critical=False)
    return builder.sign(signer, hashes.SHA256())


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    path.write_bytes(key.private_bytes(*_PRIVATE, serialization.NoEncryption()))
    path.chmod(0o600)


def server_context(files: Files, clients: Authority | None = None) -> ssl.SSLContext:
    """The context of a server of the test's; `clients` vouches for those that it lets in."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(clients.file)
    return context


def client_context(authority: Authority, files: Files | None = None) -> ssl.SSLContext:
    """The context of a client of the test's, which shows what is in `files`."""
    context = ssl.create_default_context(cafile=str(authority.file))
    if files is not None:
        context.load_cert_chain(*files)
    return context


@dataclass(frozen=True)
class Certificates:
    """Files of an authority, a server and a client."""

    ca: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path
    other_ca: Path


def issue(directory: Path, addresses: Sequence[str] = ("127.0.0.1",)) -> Certificates:
    """A server's certificate for some addresses, a client's, their authority, and another authority."""
    authority = Authority(directory, "ca")
    server, client = authority.issue(*addresses), authority.issue(subject="CN=client")
    return Certificates(authority.file, *server, *client, Authority(directory, "other").file)
