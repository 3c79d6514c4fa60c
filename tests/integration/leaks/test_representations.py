"""What objects say about themselves: a `repr` ends up in logs, tracebacks and debuggers."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway import BackendAPIGateway
from gateway.auth.compact import parse
from tests.integration.leaks.scene import BEACON, ENVIRONMENT_VARIABLE, Planted, document, fields
from tests.support.canaries import Canary, leaks
from tests.support.gateway_process import run, serving
from tests.support.identity_provider import identity_provider
from tests.support.redis_server import redis_server
from tests.support.whole_gateway import Login

#: What has to be among those that are looked at, or the look is worth nothing.
IMPORTANT = {
    "Settings",
    "Issuer",
    "StateSettings",
    "Introspection",
    "HeaderRules",
    "Address",
    "Store",
    "Authenticator",
    "Introspector",
    "ApiKeyStore",
    "Principal",
    "PrincipalCache",
    "Compact",
    "GatewayRequest",
    "Observation",
    "Head",
    "AdmissionPlan",
    "Runtime",
}


def objects() -> Iterator[Any]:
    """Every object of our own classes that is alive."""
    for each in gc.get_objects():
        module = getattr(type(each), "__module__", None)
        if isinstance(module, str) and module.partition(".")[0] in ("gateway", "discovery"):
            yield each


def shown(each: object) -> str:
    """Its representation, and its text unless it is nothing but a text."""
    return repr(each) if isinstance(each, str) else f"{each!r} {each}"


class Careless:
    """An object that shows what it should not."""

    def __init__(self, secret: str) -> None:
        self.secret = secret

    def __repr__(self) -> str:
        return f"<Careless {self.secret}>"


def test_no_object_shows_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """O4: while a request is being handled, every object that is alive is asked for its representation."""
    # What other tests have left in this process knows nothing of this one's secrets.
    earlier = {id(each): each for each in objects()}
    planted = Planted()
    password = planted("password of the store")
    found: dict[str, str] = {}
    for name, text in {
        "STORE_PASSWORD": password,
        "GATEWAY_API_KEY_PEPPER": planted("pepper") * 2,
        ENVIRONMENT_VARIABLE: planted("value from the environment"),
    }.items():
        monkeypatch.setenv(name, text)
    with identity_provider() as provider, redis_server("redis", "--requirepass", password) as store:
        login = Login.at(provider, tmp_path)
        provider.answers[f"/jwks?key={planted('query of jwks_url')}"] = provider.answers["/jwks"]
        nobody = "http://127.0.0.1:9"
        told = document(tmp_path, planted, login, {"service": 9, "store": store.port, "nobody": 9}, nobody, nobody, "wire")
        (tmp_path / "gateway.yaml").write_text(json.dumps(told))
        app = BackendAPIGateway(config=tmp_path / "gateway.yaml")
        token = login.token("subject", email=planted("claim"), sid=planted("session"))
        planted.adopt("signature", token[-20:])
        taken_apart = parse(token.encode())

        @app.route("/look/{id}", methods=["POST"], limits=[f"{BEACON}-wide"])
        async def look(request: Any) -> dict[str, Any]:
            assert request.json_body
            for each in (*objects(), taken_apart):
                if id(each) not in earlier:
                    found[f"{type(each).__qualname__} {id(each)}"] = shown(each)
            return {}

        async def main() -> None:
            async with serving(app, tmp_path) as gateway:
                body = json.dumps({planted("body member"): planted("body text")})
                lines = [
                    f"POST /look/{planted('path parameter')}?{planted('query name')}={planted('query value')} HTTP/1.1",
                    *fields(planted),
                    f"Authorization: Bearer {token}",
                    f"Content-Length: {len(body)}",
                ]
                reply = await gateway.ask("\r\n".join([*lines, "", body]).encode())
                assert reply.status == 200, reply

        run(main())
    assert {name.partition(" ")[0] for name in found} >= IMPORTANT
    # The page that may open WebSockets is told to whoever may read the configuration.
    secret = [canary for canary in planted.all if canary.where != "allowed Origin"]
    leaked = [leak for name, text in found.items() for leak in leaks(name, text.encode(), secret)]
    assert not leaked, "\n".join(leaked)


def test_an_object_that_shows_a_secret_is_found() -> None:
    """O4: the same search, of an object that should not be."""
    canary = Canary("an attribute")
    assert leaks("Careless", shown(Careless(canary.text)).encode(), [canary])
