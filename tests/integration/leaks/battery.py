"""Requests that end in every way there is, each with canaries wherever a client may write."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

from gateway.websocket import POLICY_VIOLATION
from tests.integration.leaks.scene import BEACON, Reply, Scene, command, fields, own_page, target_of
from tests.support.redis_server import wait_until
from tests.support.websockets import BINARY, CLOSE, KEY, NO_MASK, PING, TEXT, close, frame

#: What is told to whom asks with the admin token, whose own words these are.
ADMIN_TOLD = ("answers: admin", "audit", "store*", "commands")


def every_outcome(scene: Scene) -> None:
    """All of them while everything around the gateway is well."""
    good = f"Bearer {scene.token('good', 'records:read')}"
    answered(scene, good)
    refused_for_its_form(scene, good)
    refused_for_its_credentials(scene, good)
    refused_later(scene, good)
    failed(scene, good)
    tunnelled(scene, good)


def answered(scene: Scene, good: str) -> None:
    """200 and other answers of the service, with every kind of body."""
    put = scene.planted
    scene.ask("plain", "open", authorization=good, echo=True)
    scene.ask("early hint", "open", "early", authorization=good, echo=True)
    for status in (302, 401, 404, 500, 503):
        scene.ask(f"service says {status}", "open", str(status), authorization=good, echo=True)
    document = f'{{"{put("body member")}": "{put("body text")}"}}'.encode()
    scene.ask("document", "open", method="POST", authorization=good, body=document, echo=True)
    form = f"{put('form name')}={put('form value')}".encode()
    scene.ask("form", "open", method="POST", authorization=good, body=form, echo=True)
    disposition = f'Content-Disposition: form-data; name="{put("part name")}"; filename="{put("file name")}"'
    part = f"--x\r\n{disposition}\r\n\r\n{put('part')}\r\n--x--\r\n"
    scene.ask("multipart", "open", method="POST", authorization=good, body=part.encode(), echo=True)
    piece = put("chunk")
    chunked = f"{len(piece):x};{put('chunk extension')}=1\r\n{piece}\r\n0\r\n{put('trailer name')}: {put('trailer value')}\r\n\r\n".encode()
    more = ("Transfer-Encoding: chunked", f"Trailer: {put('trailer name')}")
    scene.ask("chunked", "open", method="POST", authorization=good, body=chunked, more=more, echo=True)
    scene.ask("nobody", "optional", echo=True)
    scene.ask("opaque", "open", authorization=f"Bearer opaque.{put('opaque token')}", echo=True)
    scene.ask("API key", "open", more=(f"X-API-Key: {api_key(scene)}",), echo=True)
    preflight = ("Access-Control-Request-Method: GET", f"Access-Control-Request-Headers: {put('preflight')}")
    scene.ask("preflight", "public", method="OPTIONS", more=preflight)
    scene.ask("options", "open", method="OPTIONS")


def api_key(scene: Scene) -> str:
    """A new one; of a gateway without an admin site, one that is none."""
    if not scene.gateway.admin_url:
        return f"gwk_{'0' * 16}_{scene.planted('API key')}"
    wanted = {"subject": "subject-key", "scopes": ["records:read"]}
    made = scene.gateway.admin("POST", "/v1/api-keys", token=admin_token(scene), json=wanted)
    assert made.status_code == 201, made.text
    key: str = made.json()["key"]
    scene.planted.adopt("API key", key[-20:])
    return key


def admin_token(scene: Scene) -> str:
    return scene.planted("file of admin token") * 2


def refused_for_its_form(scene: Scene, good: str) -> None:
    """400, 405, 408, 413, 414, 431."""
    put = scene.planted
    path = target_of(put, "open").partition("?")[0]
    for name, target in {
        "encoded slash": f"{path}%2f{put('refused path')}",
        "dot segments": f"{path}/../{put('refused path')}",
        "no UTF-8": f"{path}%ff{put('refused path')}",
        "NUL": f"{path}%00{put('refused path')}",
        "fragment": f"{path}#{put('fragment')}",
        "other authority": f"http://{put('absolute form', 'audit')}.example{path}",
        "user in authority": f"http://{put('user of the authority')}@h.example{path}",
        "unknown path": f"/{put('unknown path')}?{put('query name')}={put('query value')}",
        "long target": f"/{put('long target') * 600}",
    }.items():
        # Another authority is no mistake: an absolute target's wins over Host (RFC 9112 section 3.2.2).
        scene.ask(name, "open", target=target, authorization=good, echo=name == "other authority")
    for name, line in {
        "second Host": f"Host: {put('second Host')}",
        "two lengths": f"Content-Length: {put('bad length')}",
        "space before colon": f"{put('bad field name')} : x",
        "NUL in a field": f"X-Bad: {put('bad field value')}\0",
        "unknown coding": f"Transfer-Encoding: {put('unknown coding')}",
        "many": "\r\n".join(f"X-{number}: {put('one of many')}" for number in range(150)),
        "large": f"X-Large: {put('large field') * 2000}",
    }.items():
        # Bounds on fields are those of our own server.
        scene.ask(name, "open", more=(line,), authorization=good, echo=scene.adapter != "wire" and name in ("many", "large"))
    scene.send("bad method", f"{put('method').upper()} /{BEACON} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n".encode())
    scene.send("no HTTP", f"{put('no HTTP at all')}\r\n\r\n".encode())
    scene.send("bad version", f"GET /{BEACON} HTTP/{put('version')}\r\nHost: h\r\n\r\n".encode())
    scene.ask("wrong method", "open", method="DELETE", authorization=good)
    scene.ask("trace", "open", method="TRACE", authorization=good)
    if scene.adapter == "wire":
        # Another server waits for as long as it likes.
        scene.send("slow header", f"GET /{BEACON}/{put('slow header')} HTTP/1.1\r\nX-Slow: {put('slow header field')}".encode())
    scene.ask("slow body", "open", method="POST", authorization=good, more=("Content-Length: 999",), body=put("slow body").encode())
    scene.ask("large body", "open", method="POST", authorization=good, body=put("large body").encode() * 1000)
    bad_chunk = f"zz{put('bad chunk')}\r\n".encode()
    scene.ask("bad chunk", "open", method="POST", authorization=good, more=("Transfer-Encoding: chunked",), body=bad_chunk)
    scene.ask("bad document", "json", method="POST", body=f'{{"{put("bad document")}'.encode())


def refused_for_its_credentials(scene: Scene, good: str) -> None:
    """401 and 403."""
    put = scene.planted
    token = scene.token
    text = good.removeprefix("Bearer ")
    for name, authorization in {
        "nothing": "",
        "Basic": f"Basic {put('Basic credentials')}",
        "unknown scheme": f"{put('scheme')} {put('credentials of the scheme')}",
        "no token": f"Bearer {put('no token')}",
        "three segments": f"Bearer a.{put('bad segment')}.c",
        "unknown opaque": f"Bearer {put('unknown opaque token')}",
        "broken introspection": f"Bearer broken.{put('token for the broken endpoint')}",
        "expired": f"Bearer {token('expired', exp=1_700_000_000)}",
        "other audience": f"Bearer {token('other-audience', aud=put('audience'))}",
        "other issuer": f"Bearer {token('other-issuer', iss=put('issuer'))}",
        "bad claim": f"Bearer {token('bad-claim', scope=[put('bad scope'), 7])}",
        "bad signature": f"Bearer {text[:-8]}AAAAAAAA",
        "unknown key": f"Bearer {signed_by_nobody(scene, kid=put('kid'))}",
        "other type": f"Bearer {signed_by_nobody(scene, typ=put('typ'))}",
        "key in the token": f"Bearer {signed_by_nobody(scene, jku='https://x.example/' + put('jku'), jwk={'k': put('jwk')})}",
        "critical": f"Bearer {signed_by_nobody(scene, crit=[put('crit')])}",
        "too large": f"Bearer {put('large token') * 450}",
    }.items():
        scene.ask(name, "open", authorization=authorization)
    scene.ask("two credentials", "open", authorization=good, more=(f"Authorization: Bearer {put('second token')}",))
    scene.ask("token and key", "open", authorization=good, more=(f"X-API-Key: {put('second credential')}",))
    scene.ask("bad API key", "open", more=(f"X-API-Key: gwk_{put('bad API key')}",))
    scene.ask("missing scope", "closed", authorization=good)
    if scene.gateway.admin_url:
        revoked = token("revoked", "records:read")
        body = {"kind": "token", "value": revoked, "reason": put("reason of a revocation", *ADMIN_TOLD)}
        assert scene.gateway.admin("POST", "/v1/revocations", token=admin_token(scene), json=body).status_code == 201
        scene.ask("revoked", "open", authorization=f"Bearer {revoked}")


def signed_by_nobody(scene: Scene, **header: object) -> str:
    """A token whose header says something of its own."""
    import jwt

    return jwt.encode({"iss": scene.login.provider.url, "sub": scene.planted("unproved subject")}, "x" * 32, headers=header)


def refused_later(scene: Scene, good: str) -> None:
    """429 and 503."""
    for _ in range(2):
        scene.ask("scarce", "scarce", echo=True)
    scene.ask("no instance", "nobody")
    held = threading.Thread(target=scene.ask, args=("narrow, first", "narrow", "held"), kwargs={"echo": True})
    held.start()
    assert scene.planted.arrived.wait(20)
    scene.ask("narrow, second", "narrow")
    scene.planted.released.set()
    held.join()


def failed(scene: Scene, good: str) -> None:
    """500, 502, 504, an answer that is cut, a client that leaves."""
    put = scene.planted
    for what in ("garbage", "bad-field", "nothing"):
        scene.ask(what, "open", what, method="POST", authorization=good, body=put("body of a failed request").encode())
    scene.ask("cut", "open", "cut", authorization=good, echo=True)
    scene.ask("slow", "hasty", "slow", authorization=good)
    scene.ask("gone", "gone")
    body = put("body of a crash").encode()
    scene.ask("crash", "crash", method="POST", body=body, authorization=good)
    for route in ("crash-later", "strange", "no-json"):
        scene.ask(route, route)


def handshake(scene: Scene, what: str, authorization: str, *, origin: str = "", key: str = KEY.decode(), version: str = "13") -> list[str]:
    """One that says as much as it can."""
    put = scene.planted
    return [
        f"GET {target_of(put, 'socket', what)} HTTP/1.1",
        *(line for line in fields(put) if not line.startswith(("Origin", "Connection"))),
        f"Origin: {origin or own_page(put)}",
        "Connection: Upgrade",
        "Upgrade: websocket",
        f"Sec-WebSocket-Key: {key}",
        f"Sec-WebSocket-Version: {version}",
        f"Sec-WebSocket-Protocol: {put('subprotocol that nobody takes')}, {put('upstream subprotocol')}",
        f"Sec-WebSocket-Extensions: {put('WebSocket extension')}; {put('parameter of an extension')}=1",
        f"Authorization: {authorization}",
    ]


def tunnelled(scene: Scene, good: str) -> None:
    """WebSockets: opened, and ended by each side and by the gateway; refused by the gateway and by the service."""
    put = scene.planted
    goodbye = frame(CLOSE, b"\x0f\xa1" + put("echoed close reason").encode(), mask=NO_MASK)
    said = [
        frame(TEXT, put("message").encode(), mask=NO_MASK),
        frame(BINARY, put("binary message").encode(), mask=NO_MASK),
        frame(PING, put("echoed ping").encode(), mask=NO_MASK),
    ]
    large = frame(TEXT, put("large message").encode() * 1000, mask=NO_MASK)
    broken = frame(TEXT, put("broken message").encode() + b"\xff", mask=NO_MASK)
    conversations: dict[str, tuple[str, list[bytes]]] = {
        "WebSocket, the client ends it": ("tunnel-open", [*said, goodbye]),
        "WebSocket, the service ends it": ("tunnel-closed", []),
        "WebSocket, too large": ("tunnel-open", [large]),
        "WebSocket, broken": ("tunnel-open", [broken, goodbye]),
        "WebSocket, the service is broken": ("tunnel-broken", [goodbye]),
    }
    for name, (what, frames) in conversations.items():
        reply = scene.converse(name, handshake(scene, what, good), frames)
        assert b"HTTP/1.1 101 " in reply.content, reply
        assert put("upstream message").encode() in reply.content, reply
    refused = {
        "WebSocket, declined": handshake(scene, "403", good),
        "WebSocket, unproved": handshake(scene, "tunnel-unproved", good),
        "WebSocket, other page": handshake(scene, "tunnel-open", good, origin=f"https://{put('refused Origin')}.example"),
        "WebSocket, nobody": handshake(scene, "tunnel-open", f"Bearer {put('bad token of a WebSocket')}"),
    }
    if scene.adapter == "wire":
        # Another server refuses these by itself, in its own words.
        refused["WebSocket, bad key"] = handshake(scene, "tunnel-open", good, key=put("bad key of a WebSocket"))
        refused["WebSocket, bad version"] = handshake(scene, "tunnel-open", good, version=put("bad version of a WebSocket"))
    for name, lines in refused.items():
        assert scene.converse(name, lines).status >= 400, name
    if scene.gateway.admin_url:
        ended_by_revocation(scene)


def ended_by_revocation(scene: Scene) -> None:
    """A WebSocket whose token is revoked while it is open."""
    token = scene.token("revoked-socket", "records:read")
    body = {"kind": "token", "value": token, "reason": scene.planted("reason of a revocation", *ADMIN_TOLD)}

    def revoke() -> None:
        assert scene.gateway.admin("POST", "/v1/revocations", token=admin_token(scene), json=body).status_code == 201

    reply = scene.converse("WebSocket, revoked", handshake(scene, "tunnel-open", f"Bearer {token}"), then=revoke)
    assert reply.content.endswith(close(POLICY_VIOLATION)), reply


def administrators(scene: Scene) -> Iterator[Reply]:
    """What the admin port answers to those who ask well, ask badly, or have no business there."""
    put, admin = scene.planted, scene.gateway.admin
    good = admin_token(scene)
    told = ("routes", "services", "replicas", "config", "limits", "revocations", "api-keys")
    for path in ("/livez", "/readyz", "/metrics", *(f"/v1/{what}" for what in told)):
        yield Reply(f"admin {path}", admin("GET", path, token=good).content)
    openmetrics = {"Accept": "application/openmetrics-text"}
    yield Reply("admin /metrics as OpenMetrics", admin("GET", "/metrics", token=good, headers=openmetrics).content)
    requests: dict[str, tuple[str, str, dict[str, Any]]] = {
        "wrong token": ("GET", "/v1/config", {"token": put("wrong admin token")}),
        "unknown path": ("GET", f"/v1/{put('unknown admin path')}?{put('admin query')}=1", {}),
        "unknown kind": ("DELETE", f"/v1/revocations/{put('unknown kind')}/{put('value of an unknown kind')}", {}),
        "unknown value": ("DELETE", f"/v1/revocations/subject/{put('unknown value')}", {}),
        "unknown key": ("DELETE", f"/v1/api-keys/{put('unknown API key')}", {}),
        "no document": ("POST", "/v1/revocations", {"content": put("no document").encode()}),
        "unknown member": ("POST", "/v1/revocations", {"json": {put("unknown member"): put("value of an unknown member")}}),
        "bad kind": ("POST", "/v1/revocations", {"json": {"kind": put("bad kind"), "value": put("value of a bad kind")}}),
        "bad token": ("POST", "/v1/revocations", {"json": {"kind": "token", "value": put("token to revoke")}}),
        "bad moment": ("POST", "/v1/revocations", {"json": {"kind": "jti", "value": put("bad value"), "expires_at": put("bad moment")}}),
        "bad scopes": ("POST", "/v1/api-keys", {"json": {"subject": "s", "scopes": [put("bad API key scope") + " \n"]}}),
    }
    for name, (method, path, arguments) in requests.items():
        headers = {"X-Private": put("field of an administrator")}
        answer = admin(method, path, headers=headers, **{"token": good, **arguments})
        assert answer.status_code >= 400, (name, answer.text)
        yield Reply(f"admin, {name}", answer.content)


def commands(scene: Scene) -> Iterator[Reply]:
    """What commands say about the same configuration."""
    file = str(scene.directory / "gateway.yaml")
    for words in (("check", file), ("routes", file), ("doctor", "-c", file)):
        yield Reply(words[0], command(scene, *words))
    if scene.gateway.admin_url:
        yield Reply("revocations", command(scene, "revocations", "--admin", scene.gateway.admin_url))
    broken = scene.directory / f"broken-{BEACON}.yaml"
    broken.write_text('version: 1\nstate: {url: "${STORE_PASSWORD}", budget: "${STORE_PASSWORD}"}\nroutes: ["${STORE_PASSWORD}"]\n')
    for words in (("check", str(broken)), ("run", "-c", str(broken)), ("doctor", "-c", str(broken))):
        yield Reply(f"{words[0]} of a broken file", command(scene, *words))


def without_the_store(scene: Scene) -> None:
    """503: the store is gone, and everything that would ask it."""
    scene.store.kill()
    good = f"Bearer {scene.token('without-store', 'records:read')}"

    def refused() -> bool:
        return scene.ask("without store", "open", authorization=good).code == "store_unavailable"

    wait_until(refused, "the store's absence to be noticed")
    scene.ask("API key without store", "open", more=(f"X-API-Key: gwk_{'0' * 16}_{scene.planted('API key without a store')}",))


def drained(scene: Scene) -> None:
    """The last requests of a gateway that was told to end: one that it still takes, one that comes too late."""
    scene.gateway.process.send_signal(signal.SIGTERM)
    scene.ask("while draining", "crash", authorization="Bearer x")
    deadline = time.monotonic() + 20
    while scene.gateway.process.poll() is None:
        assert time.monotonic() < deadline, "it does not end"
        try:
            scene.ask("at the end", "crash")
        except OSError:
            time.sleep(0.01)
