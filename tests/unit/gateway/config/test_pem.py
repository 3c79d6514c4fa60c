"""PEM files: what can't be used is said at its key, whoever asks; what is dangerous is a warning."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.config import ConfigProblems, load_text, warnings
from gateway.settings import Settings
from tests.support.certificates import EXPIRED, NOT_YET, Authority, Days, Files, Purpose

REST = "services: {s: {instances: [https://10.0.0.1:1]%s}}\nroutes: [{path: /, service: s}]\n"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def on_the_data_port(files: Files) -> str:
    return f"server: {{tls: {{certificate_file: {files.certificate}, key_file: {files.key}}}}}\n" + REST % ""


def for_a_service(files: Files) -> str:
    return REST % f", tls: {{certificate_file: {files.certificate}, key_file: {files.key}}}"


def in_the_store(files: Files) -> str:
    return f"state: {{url: 'rediss://h', certificate_file: {files.certificate}, key_file: {files.key}}}\n" + REST % ""


def in_consul(files: Files) -> str:
    consul = f"{{url: 'https://h', certificate_file: {files.certificate}, key_file: {files.key}}}"
    return f"discovery: {{consul: {consul}}}\n" + REST % ""


PLACES: dict[str, Callable[[Files], str]] = {
    "server.tls": on_the_data_port,
    "services.s.tls": for_a_service,
    "state": in_the_store,
    "discovery.consul": in_consul,
}


def settings(text: str) -> Settings:
    return load_text("version: 1\n" + text, {})


def problems(text: str) -> list[tuple[str, str]]:
    with pytest.raises(ConfigProblems) as caught:
        settings(text)
    # Behind the name of the file.
    return [(problem.key_path, problem.message.rpartition('" ')[2]) for problem in caught.value.problems]


@pytest.mark.parametrize("place", PLACES)
def test_a_pair_that_cannot_serve_is_refused_in_every_place(authority: Authority, tmp_path: Path, place: str) -> None:
    """H13, S-39."""
    good, other = authority.issue("127.0.0.1"), authority.issue("127.0.0.1")
    write = PLACES[place]
    cases = {
        "is not the key of the certificate in certificate_file": Files(good.certificate, other.key),
        "is protected by a password": Files(good.certificate, good.protected(b"secret")),
        "holds no private key that can be read": Files(good.certificate, good.certificate),
    }
    assert {message: problems(write(files)) for message, files in cases.items()} == {
        message: [(f"{place}.key_file", message)] for message in cases
    }
    ((key, message),) = problems(write(Files(good.certificate, tmp_path)))
    assert (key, "Is a directory" in message) == (f"{place}.key_file", True)
    ((key, message),) = problems(write(Files(good.key, good.key)))
    assert (key, message) == (f"{place}.certificate_file", "holds no certificate that can be read")
    assert set(settings(write(good)).certificates) == {f"{place}.certificate_file"}


@pytest.mark.parametrize(("days", "message"), [(EXPIRED, "expired at "), (NOT_YET, "is valid from ")])
def test_the_data_port_needs_a_certificate_that_holds_now(authority: Authority, days: Days, message: str) -> None:
    """H13: one that is shown to a service concerns that service alone, and is a warning."""
    files = authority.issue("127.0.0.1", days=days)
    ((key, told),) = problems(on_the_data_port(files))
    assert (key, told.startswith(message)) == ("server.tls.certificate_file", True)
    if days == EXPIRED:
        assert ("services.s.tls.certificate_file", "the certificate expires in 0.0 days") in cautions(for_a_service(files))


def cautions(text: str) -> list[tuple[str, str]]:
    return [(problem.key_path, problem.message) for problem in warnings(settings(text))]


@pytest.mark.parametrize("mode", [0o640, 0o604])
def test_a_key_that_others_may_read_is_a_warning(authority: Authority, mode: int) -> None:
    files = authority.issue("127.0.0.1", days=(-1, 90))
    assert ("server.tls.key_file", "others than its owner may read the key") not in cautions(on_the_data_port(files))
    files.key.chmod(mode)
    assert ("server.tls.key_file", "others than its owner may read the key") in cautions(on_the_data_port(files))


@pytest.mark.parametrize(("place", "purpose"), [("server.tls", "client"), ("services.s.tls", "server")])
def test_a_certificate_for_another_use_is_a_warning(authority: Authority, place: str, purpose: Purpose) -> None:
    lacking = {"client": "serverAuth", "server": "clientAuth"}[purpose]
    told = f"the certificate's extended key usage lacks {lacking}: others will refuse it"
    files = authority.issue("127.0.0.1", days=(-1, 90), purposes=[purpose])
    assert (f"{place}.certificate_file", told) in cautions(PLACES[place](files))
    files = authority.issue("127.0.0.1", days=(-1, 90), purposes=["server", "client"])
    assert cautions(PLACES[place](files)) == cautions(PLACES[place](authority.issue("127.0.0.1", days=(-1, 90))))


def test_the_content_of_the_files_tells_settings_apart(authority: Authority) -> None:
    """IA-5: the same paths, other certificates."""
    files = authority.issue("127.0.0.1")
    for write in PLACES.values():
        before = settings(write(files))
        authority.issue("127.0.0.1").put(*files)
        assert settings(write(files)) != before
