"""Every row about a trusted proxy, under both adapters."""

from __future__ import annotations

import pytest

from tests.conformance.http.case import get
from tests.conformance.http.conftest import Loop
from tests.conformance.http.proxied import CASES as ROWS
from tests.conformance.http.proxied import Proxied
from tests.conformance.http.scene import Scene
from tests.support.gateway_process import ADAPTERS, RunningGateway

CASES = {row.name: row for row in ROWS}


@pytest.mark.parametrize("name", CASES)
def test_a_proxy_is_believed_as_far_as_it_is_clear(loop: Loop, scene: Scene, name: str) -> None:
    """H3, S-12, S-12a: addresses that are some, one scheme, one port, one host; and never an identity."""

    async def main() -> None:
        for adapter in ADAPTERS:
            await told(scene, scene.behind_proxies[adapter], CASES[name])

    loop.run(main())


async def told(scene: Scene, gateway: RunningGateway, row: Proxied) -> None:
    scene.clear()
    assert (await gateway.ask(get(*row.fields))).status == 200
    (request,) = scene.whole
    assert request.values(b"x-forwarded-for") == [row.chain + b"127.0.0.1"]
    assert request.values(b"x-forwarded-proto") == [row.proto]
    assert request.values(b"x-forwarded-port") == [row.port or b"%d" % gateway.port]
    assert request.values(b"x-forwarded-host") == [row.host]
    for other in (b"forwarded", b"x-real-ip", b"x-auth-subject", b"x-auth-scopes", b"x-client-cert-subject", b"x_forwarded_for"):
        assert request.values(other) == []
