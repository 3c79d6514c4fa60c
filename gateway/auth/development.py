"""The development issuer: tokens for trying things out, signed with a key of our own (ES256).

Its `iss` is a name that can't be reserved by anybody (RFC 2606 section 2), and nothing but a key that was made here signs for it.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from gateway.auth.jwk import read_key_set
from gateway.errors import ConfigError
from gateway.settings import Issuer

ISSUER = "https://development.gateway.invalid"
NAME = "development"
AUDIENCE = "gateway"
ALGORITHM = "ES256"
PRIVATE_KEY_FILE = "development-key.pem"
JWKS_FILE = "development-jwks.json"

#: Claims that `sign` decides; a caller's own can't take their place.
_OWN_CLAIMS = frozenset(("iss", "sub", "iat", "exp", "scope"))


@dataclass(frozen=True, slots=True)
class KeyFiles:
    """Where `keygen` wrote: the private key (PEM, mode 0600) and the public JWK Set."""

    private_key: Path
    jwks: Path


class DevelopmentIssuer:
    """A private key and the settings by which a gateway trusts it."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, issuer: Issuer, clock: Callable[[], float] = time.time) -> None:
        self._key = key
        self._key_id = _key_id(key)
        self._clock = clock
        self.issuer = issuer

    def __repr__(self) -> str:
        return f"<DevelopmentIssuer {self._key_id[:8]}>"

    @classmethod
    def create(cls, directory: str | os.PathLike[str] | None = None, clock: Callable[[], float] = time.time) -> DevelopmentIssuer:
        """The development issuer of a directory, made there when it has none; without a directory one that ends with the process.

        Raises:
            ConfigError: the directory or the key in it can't be used.
        """
        if directory is None:
            key, key_file = ec.generate_private_key(ec.SECP256R1()), ""
        else:
            path = Path(directory) / PRIVATE_KEY_FILE
            key, key_file = _load_or_make(path), str(path)
        return cls(key, _settings(key, key_file), clock)

    @classmethod
    def of(cls, issuer: Issuer, clock: Callable[[], float] = time.time) -> DevelopmentIssuer:
        """The signing side of an issuer in the settings, for `gateway token`.

        Raises:
            ConfigError: it is not a development issuer, its key can't be used, or the gateway trusts another key.
        """
        where = f"issuer {issuer.name!r}"
        if not issuer.development_key_file:
            raise ConfigError(f"{where} is not a development issuer: tokens are signed by it, not here")
        key = _read_private_key(Path(issuer.development_key_file))
        if issuer.jwks and not _is_in(key, issuer):
            raise ConfigError(f"{where}: {issuer.development_key_file!r} is not the key that its JWK Set names")
        return cls(key, issuer, clock)

    def sign(
        self,
        subject: str,
        scopes: Iterable[str] = (),
        expires_seconds: float = 3600,
        *,
        session: str | None = None,
        **claims: Any,
    ) -> str:
        """A token of `subject`, with `jti`, and `sid` when there is a session. Other claims are added as they are.

        Raises:
            ValueError: a claim that is decided here, or an expiry that is not positive.
        """
        taken = sorted(_OWN_CLAIMS & claims.keys())
        if taken:
            raise ValueError(f"claims {', '.join(taken)} are set from the arguments")
        if expires_seconds <= 0:
            raise ValueError(f"expires_seconds must be positive, not {expires_seconds!r}")
        now = int(self._clock())
        payload: dict[str, Any] = {
            "iss": self.issuer.issuer,
            "aud": list(self.issuer.audience),
            "sub": subject,
            "iat": now,
            "exp": now + max(1, int(expires_seconds)),
            "jti": secrets.token_urlsafe(16),
            "scope": " ".join(scopes),
        }
        if session is not None:
            payload["sid"] = session
        return jwt.encode({**payload, **claims}, self._key, algorithm=ALGORITHM, headers={"kid": self._key_id})


def keygen(directory: str | os.PathLike[str]) -> KeyFiles:
    """Make a key pair: a private key in PEM, mode 0600, and the JWK Set that a gateway takes as `jwks_file`.

    Raises:
        ConfigError: there is a key already, or the directory can't be written.
    """
    files = KeyFiles(Path(directory) / PRIVATE_KEY_FILE, Path(directory) / JWKS_FILE)
    key = ec.generate_private_key(ec.SECP256R1())
    try:
        files.private_key.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write_private_key(files.private_key, key)
        _write_whole(files.jwks, _jwks(key))
    except FileExistsError as exc:
        raise ConfigError(f"keygen: {str(files.private_key)!r} exists already and is not replaced") from exc
    except OSError as exc:
        raise ConfigError(f"keygen: {exc.filename!r} can't be written: {exc.strerror}") from exc
    return files


def _settings(key: ec.EllipticCurvePrivateKey, key_file: str) -> Issuer:
    return Issuer(
        name=NAME,
        issuer=ISSUER,
        audience=(AUDIENCE,),
        algorithms=(ALGORITHM,),
        jwks=_jwks(key),
        development_key_file=key_file,
    )


def _load_or_make(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        _write_private_key(path, key)
    except FileExistsError:
        return _read_private_key(path)
    except OSError as exc:
        raise ConfigError(f"development issuer: {str(path)!r} can't be written: {exc.strerror}") from exc
    return key


def _write_private_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    # Written whole under another name and then linked: a second process sees all of the key or none, and the first one wins.
    scratch = _scratch(path, pem, 0o600)
    try:
        os.link(scratch, path)
    finally:
        scratch.unlink()


def _write_whole(path: Path, document: bytes) -> None:
    # A gateway that starts at the same time never reads half of it.
    _scratch(path, document, 0o644).replace(path)


def _scratch(path: Path, content: bytes, mode: int) -> Path:
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
    return scratch


def _read_private_key(path: Path) -> ec.EllipticCurvePrivateKey:
    where = f"development key {str(path)!r}"
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except OSError as exc:
        raise ConfigError(f"{where} can't be read: {exc.strerror}") from exc
    except (ValueError, TypeError) as exc:
        raise ConfigError(f"{where} is not an unencrypted private key in PEM") from exc
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ConfigError(f"{where} is not a P-256 key")
    if path.stat().st_mode & 0o077:
        raise ConfigError(f"{where} can be read by others: its mode must be 0600")
    return key


def _is_in(key: ec.EllipticCurvePrivateKey, issuer: Issuer) -> bool:
    trusted, _ = read_key_set(issuer.jwks, (ALGORITHM,))
    own, _ = read_key_set(_jwks(key), (ALGORITHM,))
    return own.fingerprints <= trusted.fingerprints


def _jwks(key: ec.EllipticCurvePrivateKey) -> bytes:
    public = {**_public_members(key), "kid": _key_id(key), "use": "sig", "alg": ALGORITHM}
    return json.dumps({"keys": [public]}).encode()


def _key_id(key: ec.EllipticCurvePrivateKey) -> str:
    # The thumbprint of RFC 7638: equal keys have equal names wherever they are loaded.
    canonical = json.dumps(_public_members(key), sort_keys=True, separators=(",", ":"))
    return sha256(canonical.encode()).hexdigest()


def _public_members(key: ec.EllipticCurvePrivateKey) -> dict[str, Any]:
    return dict(ECAlgorithm.to_jwk(key.public_key(), as_dict=True))
