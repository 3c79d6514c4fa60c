"""What keeps a gateway from starting is one clear line and exit code 3, without a traceback and without a secret."""

from __future__ import annotations

import re
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.ports import free_port
from tests.support.tokens import jwk, jwks, rsa_key
from tests.support.whole_gateway import Face, Json, ProcessGateway, base_document, process_gateway, write

CANARY = "canary-4711"
ISSUER: Json = {"name": "login", "issuer": "https://login.example.gov", "audience": ["hms"]}
Change = Callable[[Json, Path], None]


def _sink(document: Json, directory: Path) -> None:
    document["audit"]["sink"] = ["syslog"]


def _sink_directory(document: Json, directory: Path) -> None:
    document["audit"]["sink"] = [f"file:{directory}"]


def _scheme(document: Json, directory: Path) -> None:
    document["state"] = {"url": f"mysql://user:{CANARY}@127.0.0.1/0"}


def _redis_url(document: Json, directory: Path) -> None:
    document["state"] = {"url": f"redis://:{CANARY}@127.0.0.1:99999/0"}


def _database(document: Json, directory: Path) -> None:
    document["state"] = {"url": f"redis://:{CANARY}@127.0.0.1/first"}


def _embedded_path(document: Json, directory: Path) -> None:
    (directory / "file").touch()
    document["state"] = {"url": f"embedded://{directory}/file/store"}


def _no_jwks(document: Json, directory: Path) -> None:
    document["authentication"] = {"issuers": [{**ISSUER, "jwks_file": str(directory / "missing.json")}]}


def _bad_jwks(document: Json, directory: Path) -> None:
    (directory / "keys.json").write_text(f"{CANARY} is no JSON")
    document["authentication"] = {"issuers": [{**ISSUER, "jwks_file": str(directory / "keys.json")}]}


def _weak_jwks(document: Json, directory: Path) -> None:
    (directory / "keys.json").write_bytes(jwks(jwk(rsa_key(1024), kid="weak")))
    document["authentication"] = {"issuers": [{**ISSUER, "jwks_file": str(directory / "keys.json")}]}


def _client_secret(document: Json, directory: Path) -> None:
    document["authentication"] = {
        "introspection": {
            "url": "https://login.example.gov/introspect",
            "client_id": "gateway",
            "client_secret_file": str(directory / "missing"),
        }
    }


def _consul_token(document: Json, directory: Path) -> None:
    document["discovery"] = {"consul": {"url": "http://127.0.0.1:8500", "token_file": str(directory / "missing")}}


def _upstream_ca(document: Json, directory: Path) -> None:
    (directory / "ca.pem").write_text(CANARY)
    document["services"]["patients"] = {"instances": ["https://127.0.0.1:1"], "tls": {"ca_file": str(directory / "ca.pem")}}


def _host(document: Json, directory: Path) -> None:
    document["server"]["host"] = "192.0.2.1"


def _same_port(document: Json, directory: Path) -> None:
    document["server"]["port"] = document["admin"]["port"] = free_port()


#: What is changed, what the line must say.
CASES: list[tuple[Change, str]] = [
    (_sink, r"audit\.sink\[0\].*syslog.*stdout, stderr"),
    (_sink_directory, r"sink file:\S+ can't be opened for appending: Is a directory"),
    (_scheme, r"state\.url"),
    (_redis_url, r"state\.url: .*has a host that is none, or a port that is not from 1 to 65535"),
    (_database, r"state\.url.*database"),
    (_embedded_path, r"state\.url: the embedded store can't keep its data in \S+: Not a directory"),
    (_no_jwks, r"issuers\[0\]\.jwks_file: can't read .*No such file"),
    (_bad_jwks, r"jwks_file \S+ is not a JWK Set"),
    (_weak_jwks, r"jwks_file \S+ can't be used: .*1024"),
    (_client_secret, r"introspection\.client_secret_file: can't read .*No such file"),
    (_consul_token, r"consul\.token_file: can't read .*No such file"),
    (_upstream_ca, r"services\.patients\.tls\.ca_file: .* holds no certificate that can be read"),
    (_host, r"server\.port: 192\.0\.2\.1:0 can't be used: Cannot assign requested address"),
    (_same_port, r"can't listen on .*: Address already in use"),
]


def document_for(directory: Path) -> Json:
    return base_document(
        directory,
        services={"patients": {"instances": ["http://127.0.0.1:1"]}},
        routes=[{"name": "public", "path": "/public", "service": "patients", "authentication": "none"}],
    )


@pytest.mark.parametrize(("change", "message"), CASES, ids=[change.__name__.strip("_") for change, _ in CASES])
def test_bad_input_is_one_line_and_exit_3(change: Change, message: str, tmp_path: Path) -> None:
    """CONTRACT section 3: one clear line and exit 3; S-41: no secret in it."""
    document = document_for(tmp_path)
    change(document, tmp_path)
    assert_refused(tmp_path, document, message)


@pytest.mark.parametrize("change", [_sink_directory, _host], ids=lambda change: change.__name__.strip("_"))
def test_start_in_python_refuses_alike(change: Change, tmp_path: Path) -> None:
    """CONTRACT section 2: `start()` ends a script as the command line does."""
    message = next(text for each, text in CASES if each is change)
    document = document_for(tmp_path)
    document["authentication"] = {"api_keys": {}}
    change(document, tmp_path)
    assert_refused(tmp_path, document, message, "decorators")


def test_value_that_python_can_refuse_at_once_is_an_exception_there(tmp_path: Path) -> None:
    """CONTRACT section 2: where a value is written down is where it is refused."""
    document = document_for(tmp_path)
    _no_jwks(document, tmp_path)
    gateway = process_gateway(tmp_path, document, "decorators")
    assert gateway.wait() == 1
    assert gateway.said.startswith("Traceback")
    assert "authentication.issuers[0].jwks_file: can't read" in gateway.said.splitlines()[-1]


@pytest.mark.parametrize("face", ["file", "decorators"])
def test_production_refuses_a_development_issuer(face: Face, tmp_path: Path) -> None:
    """CONTRACT section 2: GATEWAY_ENV=production refuses to start without an issuer."""
    document = document_for(tmp_path)
    document["routes"] = [{"name": "private", "path": "/private", "service": "patients"}]
    message = "authentication: no issuer is configured, and GATEWAY_ENV=production refuses a development issuer"
    assert_refused(tmp_path, document, message, face, GATEWAY_ENV="production")


def test_production_refuses_an_admin_port_without_a_token(tmp_path: Path) -> None:
    """S-41: a token is never made up in production."""
    message = r"admin\.token_file: no admin token is configured, which GATEWAY_ENV=production refuses"
    assert_refused(tmp_path, document_for(tmp_path), message, GATEWAY_ENV="production", GATEWAY_ADMIN_TOKEN="")


def test_weak_pepper_is_refused(tmp_path: Path) -> None:
    """A6: the secret that API keys are hashed with."""
    document = document_for(tmp_path)
    document["authentication"] = {"api_keys": {}}
    assert_refused(tmp_path, document, "GATEWAY_API_KEY_PEPPER has 11 bytes, at least 32 are needed", GATEWAY_API_KEY_PEPPER=CANARY)


@pytest.mark.parametrize("face", ["file", "decorators"])
def test_another_server_is_told_to_end(face: Face, tmp_path: Path) -> None:
    """CONTRACT section 2: under uvicorn it refuses alike, by the lifespan protocol: exit 3, and the message without a traceback."""
    document = document_for(tmp_path)
    _sink_directory(document, tmp_path)
    write(tmp_path, document, face)
    command = [sys.executable, "-m", "uvicorn", "module:gateway", "--port", str(free_port()), "--app-dir", str(tmp_path)]
    gateway = ProcessGateway(command, tmp_path, tmp_path / "audit.jsonl", {})
    assert gateway.wait() == 3, gateway.said
    assert re.search(r"could not start: sink file:\S+ can't be opened for appending", gateway.said)
    assert "Traceback" not in gateway.said


@pytest.mark.parametrize("section", ["server", "admin"])
def test_taken_port_is_named(section: str, tmp_path: Path) -> None:
    """CONTRACT section 3."""
    document: dict[str, Any] = document_for(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = document[section]["port"] = taken.getsockname()[1]
        assert_refused(tmp_path, document, rf"{section}\.host and {section}\.port: 127\.0\.0\.1:{port} is taken by another process")


def assert_refused(directory: Path, document: Json, message: str, face: Face = "file", **environ: str) -> None:
    gateway = process_gateway(directory, document, face, **environ)
    assert gateway.wait() == 3, gateway.said
    lines = gateway.said.splitlines()
    assert len(lines) == 1, gateway.said
    assert lines[0].startswith("gateway: could not start: ")
    assert re.search(message, lines[0]), lines[0]
    assert CANARY not in gateway.said
    assert gateway.output == ""
