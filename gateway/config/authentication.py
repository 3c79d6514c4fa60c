"""Issuers, introspection and API keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from urllib.parse import urlsplit

import gateway.config.models as models
from gateway.admission.limits import validated
from gateway.config.files import Files
from gateway.config.problems import KeyPath, Report, shown
from gateway.errors import ConfigError
from gateway.route import Limit
from gateway.settings import FAILURES, FIPS_ALGORITHMS, ApiKeys, AuthenticationSettings, ClaimNames, Introspection, Issuer

PATH: KeyPath = ("authentication",)
KEY_SOURCES = ("jwks_url", "jwks_file", "secret_file", "discovery")
#: RFC 7518 section 3.2: a key at least as long as the hash.
SECRET_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}


def authentication(
    section: models.AuthenticationSection, issuers: Mapping[int, models.Issuer], report: Report, files: Files
) -> AuthenticationSettings:
    """Settings from the sections; problems go into the report."""
    built = {index: _issuer(issuer, (*PATH, "issuers", index), report, files, fips=section.fips) for index, issuer in issuers.items()}
    _check_unique(built, "name", report)
    _check_unique(built, "issuer", report)
    return AuthenticationSettings(
        issuers=tuple(built.values()),
        introspection=_introspection(section.introspection, files) if section.introspection is not None else None,
        failures=_failures(section.failures, report),
        api_keys=ApiKeys(header=section.api_keys.header) if section.api_keys is not None else None,
        fips=section.fips,
    )


def _failures(section: str | models.Failures, report: Report) -> Limit | None:
    if isinstance(section, str):
        return None
    count, period_us = section.rate
    try:
        # Compared with what others have, a burst that is left to its default must look so.
        return replace(validated(replace(FAILURES, count=count, period_us=period_us), "authentication.failures"), burst=0)
    except ConfigError as error:
        report.add((*PATH, "failures", "rate"), str(error).removeprefix("authentication.failures: "))
        return None


def _issuer(section: models.Issuer, path: KeyPath, report: Report, files: Files, *, fips: bool) -> Issuer:
    sources = [key for key in KEY_SOURCES if getattr(section, key)]
    if len(sources) != 1:
        report.add(path, f"the issuer has {' and '.join(sources) or 'no source of keys'}", f"exactly one of {', '.join(KEY_SOURCES)}")
    algorithms = tuple(section.algorithms) or (("HS256",) if section.secret_file else ("RS256",))
    _check_algorithms(algorithms, section, path, report)
    if fips:
        _check_approved(algorithms, path, report)
    if section.discovery and not section.issuer.startswith(("https://", "http://")):
        report.add(
            (*path, "discovery"), f"the issuer {shown(section.issuer)} is not a URL", "an https:// issuer, or another source of keys"
        )
    secret = files.secret(section.secret_file, (*path, "secret_file"))
    _check_secret(secret, algorithms, (*path, "secret_file"), report)
    return Issuer(
        name=section.name or urlsplit(section.issuer).hostname or section.issuer,
        issuer=section.issuer,
        audience=tuple(section.audience),
        algorithms=algorithms,
        jwks_url=section.jwks_url,
        jwks_file=files.path(section.jwks_file, (*path, "jwks_file")),
        secret=secret,
        discovery=section.discovery,
        leeway=section.leeway,
        required_claims=tuple(section.required_claims),
        maximum_lifetime=section.maximum_lifetime,
        claims=ClaimNames(**section.claims.model_dump()),
        development_key_file=files.path(section.development_key_file, (*path, "development_key_file")),
        fips=fips,
    )


def _check_approved(algorithms: tuple[str, ...], path: KeyPath, report: Report) -> None:
    for name in algorithms:
        if name not in FIPS_ALGORITHMS:
            report.add((*path, "algorithms"), f"{name} is not in the FIPS-approved set of authentication.fips", ", ".join(FIPS_ALGORITHMS))


def _check_algorithms(algorithms: tuple[str, ...], section: models.Issuer, path: KeyPath, report: Report) -> None:
    place = (*path, "algorithms")
    shared = [name for name in algorithms if name.startswith("HS")]
    if shared and len(shared) < len(algorithms):
        # RFC 8725 section 3.1: a public key must never be taken for a shared secret.
        report.add(place, f"{shared[0]} together with asymmetric algorithms", "either HS* or the others")
    elif shared and not section.secret_file:
        report.add(place, f"{shared[0]} needs a shared secret", "secret_file, or asymmetric algorithms")
    elif section.secret_file and not shared:
        report.add(place, f"{algorithms[0]} does not use a shared secret", ", ".join(SECRET_BYTES))
    if len(set(algorithms)) != len(algorithms):
        report.add(place, "an algorithm is there twice", "each once")


def _check_secret(secret: bytes, algorithms: tuple[str, ...], path: KeyPath, report: Report) -> None:
    for algorithm in algorithms if secret else ():
        needed = SECRET_BYTES.get(algorithm, 0)
        if len(secret) < needed:
            report.add(path, f"the secret has {len(secret)} bytes", f"at least {needed} for {algorithm}")


def _check_unique(issuers: Mapping[int, Issuer], key: str, report: Report) -> None:
    first: dict[str, int] = {}
    for index, issuer in issuers.items():
        value = getattr(issuer, key)
        if first.setdefault(value, index) != index:
            report.add((*PATH, "issuers", index, key), f"{key} {shown(value)} is already used by issuers[{first[value]}]", "each once")


def _introspection(section: models.Introspection, files: Files) -> Introspection:
    return Introspection(
        url=section.url,
        client_id=section.client_id,
        client_secret=files.secret_text(section.client_secret_file, (*PATH, "introspection", "client_secret_file")),
        cache=section.cache,
    )
