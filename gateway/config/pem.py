"""PEM files of a section: read, held against each other, and told from what they held before."""

from __future__ import annotations

import stat
import time
from pathlib import Path

import gateway.config.models as models
from gateway.certificates import Pair, Purpose, Unusable, check_authorities, check_dates, read_pair
from gateway.config.files import Files
from gateway.config.problems import KeyPath, Report, render, shown
from gateway.settings import OwnCertificate, ServerTls

#: Sections that say what we show to others and whom we believe.
TlsSection = models.UpstreamTls | models.State | models.Consul


def server_tls(section: models.ServerTls | None, report: Report, files: Files) -> ServerTls | None:
    """TLS of the data port; problems with its files go into the report."""
    if section is None:
        return None
    path: KeyPath = ("server", "tls")
    certificate_file, key_file = _pair(section.certificate_file, section.key_file, "server", path, report, files)
    client_ca_file = _authorities(section.client_ca_file, (*path, "client_ca_file"), report, files)
    if "client_certificate" in section.model_fields_set and not client_ca_file:
        report.add((*path, "client_certificate"), "no client is asked for a certificate", "only with client_ca_file", key=True)
    return ServerTls(
        certificate_file=certificate_file,
        key_file=key_file,
        client_ca_file=client_ca_file,
        client_certificate=section.client_certificate,
        minimum_version=section.minimum_version,
        fingerprint=files.fingerprint((certificate_file, key_file, client_ca_file)),
    )


def pem_files(section: TlsSection, path: KeyPath, report: Report, files: Files) -> dict[str, str]:
    """Absolute paths of the PEM files that a connection of ours is made with, once they are known to be usable."""
    if bool(section.certificate_file) != bool(section.key_file):
        given, missing = ("certificate_file", "key_file") if section.certificate_file else ("key_file", "certificate_file")
        report.add((*path, given), f"{given} is given without {missing}", "both or neither")
    certificate_file, key_file = _pair(section.certificate_file, section.key_file, "client", path, report, files)
    ca_file = _authorities(section.ca_file, (*path, "ca_file"), report, files)
    return {"ca_file": ca_file, "certificate_file": certificate_file, "key_file": key_file}


def _authorities(text: str, key: KeyPath, report: Report, files: Files) -> str:
    """Absolute path of a file of certificates to verify others with."""
    path, content = files.content(text, key)
    if content is not None:
        try:
            check_authorities(content)
        except Unusable as error:
            report.add(key, f"{shown(text)} {error.message}", error.allowed)
    return path


def _pair(certificate_text: str, key_text: str, purpose: Purpose, path: KeyPath, report: Report, files: Files) -> tuple[str, str]:
    """Absolute paths of a certificate and its key, which hold now."""
    certificate_file, certificate = files.content(certificate_text, (*path, "certificate_file"))
    key_file, key = files.content(key_text, (*path, "key_file"))
    if certificate is not None and key is not None:
        try:
            pair = read_pair(certificate, key, purpose)
            files.certificates[render((*path, "certificate_file"))] = _own(pair, key_file)
            if purpose == "server":
                # One that we show to others concerns them alone: it is a warning, see `caution`.
                check_dates(pair, time.time())
        except Unusable as error:
            text = key_text if error.key == "key_file" else certificate_text
            report.add((*path, error.key), f"{shown(text)} {error.message}", error.allowed)
    return certificate_file, key_file


def _own(pair: Pair, key_file: str) -> OwnCertificate:
    try:
        mode = Path(key_file).stat().st_mode
    except OSError:
        mode = 0
    return OwnCertificate(
        not_after=pair.not_after, purpose_missing=pair.purpose_missing, key_open=bool(mode & (stat.S_IRWXG | stat.S_IRWXO))
    )
